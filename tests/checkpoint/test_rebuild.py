"""Trainers build a pruned model at its widths, and never another one in silence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
from checkpoints import NC, TASKS, cut, network, plan_of, run_of, shapes_of, stub
from releases import needs_class_rows
from torch import nn

from yoloprune.backend import console, model_facts, yaml_markers
from yoloprune.checkpoint import models, saving, trainers
from yoloprune.commands.demo_images import NAMES
from yoloprune.errors import ArgumentError, ModelError, PlanError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("task", TASKS)
def test_rebuilt_model_computes_the_same(task: str, folder: Path, tmp_path: Path) -> None:
    yolo = saving.load(network(folder, task))
    plan = plan_of(yolo.model, 1)
    out = saving.save(cut(yolo, plan), tmp_path / "p.pt", plan=plan, provenance={})
    model = saving.load(out).model
    rebuilt = stub(task).get_model(cfg=model.yaml, weights=model, verbose=False)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for network_ in (rebuilt, model):
        network_.eval()
    with torch.no_grad():
        got, expected = (torch.utils._pytree.tree_leaves(m(x)) for m in (rebuilt, model))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, expected, strict=True) if torch.is_tensor(a))
    assert rebuilt.yaml == model.yaml
    assert type(rebuilt) is type(model)
    assert {n for n, p in rebuilt.named_parameters() if not p.requires_grad} <= {
        f"{model_facts.head_name(model)}.dfl.conv.weight"
    }
    scratch = stub(task, nc=2, pretrained=False, model=out).get_model(cfg=model.yaml, weights=None, verbose=False)
    assert shapes_of(scratch) == shapes_of(model)
    assert not torch.equal(next(scratch.parameters()), next(model.parameters()))
    with pytest.raises(PlanError, match="in its checkpoint only"):
        stub(task, nc=2, pretrained=False).get_model(cfg=model.yaml, weights=None, verbose=False)


@needs_class_rows
def test_class_branch_keeps_its_source_width_for_other_classes(pruned: Path) -> None:
    model = saving.load(pruned).model
    names = {0: "star", 1: NAMES[2], 2: NAMES[0], 3: "cross", 4: "ring"}
    rebuilt = stub("detect", 5, names).get_model(cfg=model.yaml, weights=model, verbose=False)
    for old, new in zip(model.model[-1].cv3, rebuilt.model[-1].cv3, strict=True):
        assert new[-1].in_channels == old[-1].in_channels == NC
        assert new[-1].out_channels == 5
        assert torch.equal(new[-1].weight[1], old[-1].weight[2]) and torch.equal(new[-1].weight[2], old[-1].weight[0])
        assert torch.equal(new[0].conv.weight, old[0].conv.weight)


@needs_class_rows
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["star", "cross"], ["data= has 2 classes, the model 80: the class layers begin anew"]),
        ([NAMES[1]], []),
        (
            ["star", NAMES[1]],
            ["data= has 2 classes, the model 80: the class layers begin anew but for those of the sam"],
        ),
        ([NAMES[0], *(f"new {i}" for i in range(1, NC))], []),
    ],
)
def test_classes_that_begin_anew_are_told(
    names: list[str], said: list[str], pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: heard.append(message))
    yolo = saving.load(pruned)
    yolo.model.names = {i: NAMES[i] if i < len(NAMES) else f"other {i}" for i in range(NC)}
    stub("detect", len(names), dict(enumerate(names))).get_model(yolo.model.yaml, yolo.model, verbose=False)
    assert [line[:85] for line in heard if line.startswith("data=")] == [line[:85] for line in said]


def test_models_that_were_not_pruned_are_built_as_ever(parent: Path) -> None:
    model = saving.load(parent).model
    rebuilt = stub("detect").get_model(cfg=model.yaml, weights=model, verbose=False)
    assert rebuilt.yaml == model.yaml and shapes_of(rebuilt) == shapes_of(model)
    assert stub("detect").get_model(cfg="yolov8n.yaml", weights=model, verbose=False).model[0].conv.out_channels == 16


def test_weights_of_a_pruned_model_never_go_into_another(pruned: Path, parent: Path, folder: Path) -> None:
    full, model = saving.load(parent).model, saving.load(pruned).model
    with pytest.raises(PlanError, match="own checkpoint"):
        stub("detect").get_model(cfg=full.yaml, weights=model, verbose=False)
    yolo = saving.load(network(folder))
    before = copy.deepcopy(yolo.model.state_dict())
    for weights in (pruned, model, {"model": model}):
        with pytest.raises(PlanError, match="own checkpoint"):
            models.YOLO.load(yolo, weights)
    assert all(torch.equal(v, before[k]) for k, v in yolo.model.state_dict().items())
    saving.load(pruned).load(pruned)
    with pytest.raises(PlanError, match="do not have the shape"):
        saving.load(pruned).load(parent)  # a mixture of both would be trained


def test_fused_weights_are_refused(pruned: Path) -> None:
    yolo = saving.load(pruned)
    config = yolo.model.yaml
    with pytest.raises(PlanError, match="fused"):
        stub("detect").get_model(cfg=config, weights=yolo.model.fuse(), verbose=False)


@pytest.mark.parametrize("source", ["checkpoint", "yaml"])
def test_model_cut_in_memory_is_not_trained_full_size(
    source: str, parent: Path, folder: Path, data: Path, tmp_path: Path
) -> None:
    yolo = saving.load(parent if source == "checkpoint" else network(folder))
    child = cut(yolo, plan_of(yolo.model))
    shapes = shapes_of(child.model)
    child.train(data=str(data), **run_of(tmp_path))
    assert shapes_of(child.model) == shapes != shapes_of(yolo.model)
    with pytest.raises(KeyError, match="not the one that its YAML describes"):
        ultralytics.YOLO(child.trainer.last).train(data=str(data), **run_of(tmp_path))


def test_tune_refuses(pruned: Path, parent: Path) -> None:
    """Every trial is a stock process, whose failure is but logged."""
    with pytest.raises(ModelError, match="Tune the parent"):
        saving.load(pruned).tune(iterations=1)
    sparse = saving.load(parent)
    sparse.model.yaml = yaml_markers.sealed(sparse.model.yaml, {"met": True})
    with pytest.raises(ModelError, match="sparse training by yoloprune"):
        sparse.tune(iterations=1)


# ---- sparse training -------------------------------------------------------------------------------------------------


class Driver:
    """Drives a sparse training as far as building the network goes."""

    def on_train_start(self, trainer: object) -> None:
        raise AssertionError("nothing is trained here")

    def keeps_the_dead(self) -> bool:
        return True


def driven(*callbacks: Callable[..., object]) -> Any:
    trainer = stub("detect", imgsz=96)
    trainer.callbacks = {"on_train_start": [print, *callbacks]}
    return trainer


def test_networks_of_a_sparse_run_are_built_for_another_alone(parent: Path) -> None:
    """Callbacks of other objects do not count, whatever they are of."""
    model, driver = saving.load(parent).model, Driver()
    sealed = yaml_markers.sealed(model.yaml, {"met": True})
    for callbacks in ([], [[].append, "text".encode]):
        with pytest.raises(ModelError, match="sparse training by yoloprune"):
            driven(*callbacks).get_model(cfg=sealed, weights=model, verbose=False)
    built = driven([].append, driver.on_train_start).get_model(cfg=sealed, weights=model, verbose=False)
    assert shapes_of(built) == shapes_of(model)


def test_what_every_trial_of_tune_or_of_several_data_sets_would_build_is_this_network(
    parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a trainer that is named, Ultralytics leaves each of several data sets to a stock command line."""
    yolo = saving.load(parent)
    yolo.model.model[0].act = nn.ReLU()
    with pytest.raises(ModelError, match=r"cannot train this network.*model\.0\.act is a ReLU"):
        yolo.tune(iterations=1)
    named: list[Any] = []
    monkeypatch.setattr(ultralytics.YOLO, "train", lambda self, trainer=None, **kwargs: named.append(trainer))
    yolo.train(data=[str(data), str(data)], **run_of(tmp_path))
    saving.load(parent).train(data=[str(data), str(data)], **run_of(tmp_path))
    assert named == [trainers.DetectionTrainer, None]


@pytest.mark.parametrize("source", ["checkpoint", "yaml"])
@pytest.mark.parametrize("fresh", [False, True])
def test_other_weights_do_not_go_into_a_network_that_no_file_holds(
    fresh: bool, source: str, parent: Path, folder: Path, data: Path, tmp_path: Path
) -> None:
    """Ultralytics would build what the file says."""
    yolo = saving.load(parent if source == "checkpoint" else network(folder))
    yolo.model.model[0].act = nn.ReLU()
    with pytest.raises(ArgumentError, match="changed in memory"):
        yolo.train(data=str(data), pretrained=False if fresh else str(parent), **run_of(tmp_path))
    assert not list(tmp_path.iterdir())
