"""Networks that their YAML does not describe: found, and copied for a training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn import tasks

from yoloprune.backend import model_facts, own_network
from yoloprune.errors import ModelError


def built(name: str = "yolov8n.yaml", nc: int = 5) -> Any:
    torch.manual_seed(0)
    config = tasks.yaml_model_load(name)
    kinds = {"seg": tasks.SegmentationModel, "cls": tasks.ClassificationModel, "rtdetr": tasks.RTDETRDetectionModel}
    kind = next((k for word, k in kinds.items() if word in name), tasks.DetectionModel)
    return kind({**config, "nc": nc}, verbose=False)


def swap(model: Any) -> None:
    model.model[0].act = nn.ReLU()


def insert(model: Any) -> None:
    model.model[2].extra = nn.Conv2d(3, 3, 1)


def leave_out(model: Any) -> None:
    del model.model[9].m


def narrow(model: Any) -> None:
    model.model[2].m[0].cv1.bn = nn.BatchNorm2d(7)


def stretch(model: Any) -> None:
    model.model[0].conv.stride = (1, 1)


def share(model: Any) -> None:
    model.model[2].m[0].add = False


CHANGES: dict[Callable[[Any], None], str] = {
    swap: "model.0.act is a ReLU, its YAML says SiLU",
    insert: "model.2.extra .Conv2d. is not in its YAML",
    leave_out: "model.9.m is in its YAML only",
    narrow: r"model.2.m.0.cv1.bn.weight is \(7,\), its YAML says \(16,\)",
    stretch: r"model.0.conv.stride is \(1, 1\), its YAML says \(2, 2\)",
    share: "model.2.m.0.add is False, its YAML says True",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n-seg.yaml", "yolo26n.yaml", "yolov8n-cls.yaml"])
def test_a_network_is_what_its_yaml_builds(name: str) -> None:
    model = built(name)
    model.names = {0: "renamed"}
    assert own_network.difference(model.eval()) is None
    assert own_network.difference(copy.deepcopy(model).half()) is None


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_the_first_difference_is_told(change: Callable[[Any], None]) -> None:
    model = built()
    change(model)
    said = own_network.difference(model)
    assert said is not None
    with pytest.raises(AssertionError, match=CHANGES[change]):
        raise AssertionError(said)


def test_a_yaml_that_cannot_be_built_is_another_network() -> None:
    model = built()
    model.yaml["backbone"][0][2] = "NoSuchLayer"
    assert "cannot build its YAML" in str(own_network.difference(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo26n-seg.yaml", "yolov8n-cls.yaml", "yolov10n.yaml"])
def test_class_layers_alone_are_new_for_another_number_of_classes(name: str) -> None:
    model = built(name)
    swap(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    new = own_network.to_train(model, 2, 3)
    after, stock, first = new.state_dict(), built(name, 2).state_dict(), built(name).state_dict()
    other = {k for k in after if after[k].shape != before[k].shape}
    assert other and all(before[k].shape[0] == 5 and after[k].shape[0] == 2 for k in other)
    assert {k for k in stock if stock[k].shape != first[k].shape} == other
    assert all(after[k].equal(before[k]) for k in after.keys() - other)
    assert all(after[k].equal(stock[k]) for k in other if k.endswith("bias") and "cv3" in k)
    assert all(p.requires_grad for p in new.parameters()) and new.yaml["nc"] == 2 and model.yaml["nc"] == 5
    new.eval()(torch.rand(1, 3, 64, 64))
    assert isinstance(model_facts.network(new).model[0].act, nn.ReLU)


def test_a_head_of_ones_own_keeps_its_classes() -> None:
    model = built()
    model.model[-1].cv3[0][-1] = nn.Identity()
    assert own_network.to_train(model, 5, 3) is not model
    with pytest.raises(ModelError, match="it has 2 classes, the model 5, and its class layers cannot be replaced"):
        own_network.to_train(model, 2, 3)


@pytest.mark.parametrize("inputs", [1, 4])
def test_the_first_convolution_follows_the_images(inputs: int) -> None:
    model = built()
    swap(model)
    old = model.model[0].conv.weight
    new = own_network.to_train(model, 5, inputs)
    weight = model_facts.network(new).model[0].conv.weight
    assert weight.shape == (16, inputs, 3, 3) and model_facts.channels(new) == inputs
    assert torch.equal(weight[:, :3], old) if inputs > 3 else torch.equal(weight, old.sum(1, keepdim=True))
    new.eval()(torch.rand(1, inputs, 64, 64))


def test_drawn_anew() -> None:
    model = built()
    swap(model)
    new = own_network.to_train(model, 5, 3, fresh=True)
    assert {k: v.shape for k, v in new.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    weights = [k for k, v in model.state_dict().items() if k.endswith("conv.weight") and "dfl" not in k]
    assert not any(new.state_dict()[k].equal(model.state_dict()[k]) for k in weights)


def test_a_class_branch_of_other_classes_is_taken_over() -> None:
    """Fine-tuned on two classes, the branch that was made for 80 keeps its 80 channels; the YAML alone builds 64."""
    model = built(nc=2)
    model.load(built(nc=80), verbose=False)
    assert model.model[-1].cv3[0][-1].in_channels == 80
    assert own_network.difference(model) is None
    swap(model)
    assert "model.0.act" in str(own_network.difference(model))
