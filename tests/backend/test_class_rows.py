"""A network for some of its classes: the scores of each head, what is refused, and what the proof finds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import CONFIGS, build, narrow, network
from conftest import settle
from torch import nn

from yoloprune.backend import class_rows, model_builder, own_network, yolo_tracing
from yoloprune.errors import ArgumentError, ModelError, VerifyError

KEPT = [1, 3]
HEADS = ["v8/yolov8.yaml", "v10/yolov10n.yaml", "26/yolo26.yaml", "26/yolo26-seg.yaml", "26/yolo26-obb.yaml"]


def made(folder: Path, config: str, settled: bool = True) -> Any:
    if not (CONFIGS / config).is_file():
        pytest.skip(f"this release of Ultralytics has no {config}")
    model = build(folder / Path(config).name, narrow(config, nc=5)).model.eval()
    model.names = dict(enumerate(["cat", "dog", "cow", "traffic light", "Dog"]))
    return settle(model) if settled else model


def raw(model: Any) -> dict[str, Any]:
    """What the head gives without picking among classes."""
    model.eval().model[-1].training = True
    with torch.no_grad():
        given = model(yolo_tracing.runnable_example(model))
    model.eval()
    return given if isinstance(given, dict) else {"all": given}


def branches(given: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Scores and boxes of each branch."""
    if "scores" in given:
        return [(given["scores"], given["boxes"])]
    return [pair for one in given.values() if isinstance(one, dict) for pair in branches(one)]


# What a head says ----------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("config", HEADS)
def test_scores_and_boxes_of_the_kept_classes_are_the_parents(config: str, settled: bool, tmp_path: Path) -> None:
    parent = made(tmp_path, config, settled)
    model: Any = class_rows.only(parent, KEPT)
    head = model.model[-1]
    assert (model.names, model.yaml["nc"], head.nc) == ({0: "dog", 1: "traffic light"}, 2, 2)
    assert head.no == parent.model[-1].no - 3
    assert len(parent.names) == parent.yaml["nc"] == 5  # untouched
    assert class_rows.prove(parent, model, KEPT) < 1e-5
    told, said = branches(raw(parent)), branches(raw(model))
    assert len(told) == len(said) == (1 if "v8" in config else 2)
    for (scores, boxes), (fewer, same) in zip(told, said, strict=True):
        assert torch.equal(boxes, same)
        assert torch.allclose(scores[:, KEPT], fewer, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("task", ["segment", "pose", "obb"])
def test_other_tasks(task: str, tmp_path: Path) -> None:
    parent = network(tmp_path, task).model.eval()
    model: Any = class_rows.only(parent, KEPT)
    assert class_rows.prove(parent, model, KEPT) < 1e-4
    with torch.no_grad():
        image = yolo_tracing.runnable_example(parent)
        (all_of_them, *_), (fewer, *_) = parent(image), model(image)
    all_of_them, fewer = (x[0] if isinstance(x, tuple) else x for x in (all_of_them, fewer))
    wanted = torch.cat([all_of_them[:, :4], all_of_them[:, [4 + k for k in KEPT]], all_of_them[:, 84:]], 1)
    assert torch.allclose(wanted, fewer, rtol=1e-3, atol=1e-4)


def test_what_is_left_is_what_stock_training_goes_on_with(tmp_path: Path) -> None:
    """The class branch keeps the width of 80 classes, which loading takes over, activations shared or not."""
    parent = network(tmp_path).model.eval()
    model: Any = class_rows.only(parent, KEPT)
    assert own_network.difference(model) is None
    again = model_builder.rebuild(model, model.yaml).state_dict()
    assert all(value.equal(again[key]) for key, value in model.state_dict().items())


# Which classes --------------------------------------------------------------------------------------------------------
def test_classes_are_named_or_numbered(tmp_path: Path) -> None:
    model = made(tmp_path, HEADS[0])
    assert class_rows.chosen(model, ["traffic light", "dog"]) == [1, 3]
    assert class_rows.chosen(model, [3, "cat", 3]) == [0, 3]
    assert class_rows.told(model, [1, 3]) == {"names": ["dog", "traffic light"], "of": 5}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["trafic light"], r"model's classes or numbers from 0 to 4 \(nearest: 'traffic light', number 3\)"),
        (["DOG"], r"\(nearest: 'dog', number 1\)"),
        ([5], "numbers from 0 to 4, separated by commas. Received: 5"),
        (["zebra"], "classes=zebra: must be"),
        ([0, 1, 2, 3, 4], "must leave out one class at least, and the model has 5"),
    ],
)
def test_wrong_classes_are_named(asked: list[str | int], said: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=said):
        class_rows.chosen(made(tmp_path, HEADS[0]), asked)


def test_a_name_that_cannot_be_typed_is_told_by_its_number(tmp_path: Path) -> None:
    model = made(tmp_path, HEADS[0])
    model.names = {0: "a, b", 1: "7", 2: " space ", 3: "c", 4: "d"}
    for asked, name, number in ((["a", "b"], "a, b", 0), ([7], "7", 1), (["space"], " space ", 2)):
        with pytest.raises(ArgumentError, match=rf"\(nearest: '{name}', number {number}\)"):
            class_rows.chosen(model, asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["classify", "semantic"])
def test_heads_whose_classes_depend_on_each_other_are_refused(task: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="whose outputs for one class depend on the others"):
        class_rows.only(network(tmp_path, task).model, KEPT)


def test_models_that_take_prompts_are_refused(tmp_path: Path) -> None:
    yolo = build(tmp_path / "yolov8-worldv2.yaml", narrow("v8/yolov8-worldv2.yaml", width_multiple=0.25, nc=80))
    with pytest.raises(ModelError, match="World models compare with prompts"):
        class_rows.only(yolo.model, KEPT)


def test_a_class_layer_put_in_by_hand_is_refused(tmp_path: Path) -> None:
    model = made(tmp_path, HEADS[0])
    model.model[-1].cv3[0][-1] = nn.Conv2d(16, 6, 1)
    with pytest.raises(ModelError, match=r"cv3.0.2 is not the class layer that its YAML builds"):
        class_rows.only(model, KEPT)


# What the proof finds -------------------------------------------------------------------------------------------------
def swap(model: Any) -> None:
    model.model[-1].cv3[0][-1].bias.data = model.model[-1].cv3[0][-1].bias.data.flip(0)


def disturb(model: Any) -> None:
    model.model[2].cv1.conv.weight.data[0] += 1e-7


def stretch(model: Any) -> None:
    model.model[2].m[0].add = not model.model[2].m[0].add


@pytest.mark.parametrize("fault", [swap, disturb, stretch], ids=lambda f: f.__name__)
def test_the_proof_finds(fault: Callable[[Any], None], tmp_path: Path) -> None:
    parent = made(tmp_path, HEADS[0])
    parent.model[-1].cv3[0][-1].bias.data = torch.arange(5.0)
    model: Any = class_rows.only(parent, KEPT)
    class_rows.prove(parent, model, KEPT)
    fault(model)
    with pytest.raises(VerifyError, match="classes: "):
        class_rows.prove(parent, model, KEPT)


def test_the_proof_wants_a_row_per_class(tmp_path: Path) -> None:
    parent = made(tmp_path, HEADS[0])
    with pytest.raises(VerifyError, match="no output of the model has a row per class"):
        class_rows.prove(parent, copy.deepcopy(parent), list(range(5)))
