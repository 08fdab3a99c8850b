"""What ranks the channels of a tiny network on images drawn by code, in prune and in sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from ultralytics import YOLO

import yoloprune
from yoloprune.backend import calibration_images, console, datasets, evaluation, model_facts, yolo_tracing
from yoloprune.commands import cut_and_repair
from yoloprune.commands.demo_images import make_shapes
from yoloprune.cutting.surgery import cut
from yoloprune.errors import ModelError
from yoloprune.importance import criteria, dead_channels
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.probing.forward import placed
from yoloprune.selection import ranking
from yoloprune.selection.calibration import Calibration, calibration
from yoloprune.settings.budget import Budget
from yoloprune.settings.checking import build
from yoloprune.settings.requests import PruneRequest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("ranked"), train=16, val=4, imgsz=64)


@pytest.fixture(scope="module")
def parent(tiny: Path) -> yoloprune.YOLO:
    return yoloprune.load(tiny)


def ranked(parent: Any, data: Path | None, **told: Any) -> ranking.Ranking:
    return ranked_by(parent, {"imgsz": 64, **({"data": str(data)} if data else {})}, **told)


def ranked_by(parent: Any, passed: dict[str, Any], **told: Any) -> ranking.Ranking:
    asked = build(PruneRequest, {"model": "a.pt", **passed, **told})
    sight = calibration(parent, passed.get("data"), 64, passed)
    return ranking.rank(parent, yolo_tracing.trace_yolo(parent.model), asked.criterion, asked.limits, sight)


def test_automatic_score_is_taylor_per_cost_with_data_and_l2_without(parent: Any, data: Path) -> None:
    for given, how, per_cost in ((data, "taylor", True), (None, "l2", False)):
        auto, named = ranked(parent, given), ranked(parent, given, score=how)
        assert np.array_equal(auto.scores, named.scores) and auto.per_cost is named.per_cost is per_cost
        assert (auto.limits.uniform, named.limits.uniform) == (how == "l2", False)
    assert not ranked(parent, data, score="activation").per_cost and ranked(parent, data, score="output").per_cost
    assert not ranked(parent, data, score="taylor", normalize="none").per_cost


@pytest.mark.parametrize(
    ("names", "task", "score", "warned"),
    [
        (["circle", "square", "triangle"], "detect", "taylor", False),
        (["Circle", "square", "triangle"], "detect", "taylor", False),  # one renamed
        (["0", "1", "2"], "detect", "taylor", False),  # never trained
        (["RBC", "WBC", "platelets"], "segment", "output", True),
        (["circle", "square"], "detect", "output", True),
    ],
)
def test_labels_of_other_classes_do_not_rank(
    names: list[str], task: str, score: str, warned: bool, tiny: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)

    def told(model: Any, graph: ChannelGraph, how: str, **_: Any) -> criteria.Importance:
        said.append(how)
        return criteria.Importance(np.ones(graph.n_classes), np.zeros(0))

    monkeypatch.setattr(criteria, "importance", told)
    monkeypatch.setattr(model_facts, "with_loss", lambda yolo: yolo.model)
    model = yoloprune.load(tiny)
    sight = calibration(model, str(data), 64, {"data": str(data), "imgsz": 64, "device": "cpu"})
    model.model.names, model.task = dict(enumerate(names)), task
    asked = build(PruneRequest, {"model": "best.pt"})
    ranking.rank(model, yolo_tracing.trace_yolo(model.model), asked.criterion, asked.limits, sight)
    assert said[-1] == score
    assert any("not those of the model" in s for s in said[:-1]) is warned


@pytest.mark.parametrize(
    ("classes", "task", "score"), [(25, "detect", "taylor"), (26, "detect", "output"), (80, "segment", "taylor")]
)
def test_labels_of_few_images_per_class_do_not_rank_detectors(
    classes: int, task: str, score: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 images are looked at, five per class up to 25 classes."""
    monkeypatch.setattr(datasets, "has_classes_of", lambda model, data: True)
    model = yoloprune.load(tiny)
    model.model.names, model.task = {i: f"class {i}" for i in range(classes)}, task
    sight = Calibration(64, "some.yaml")
    assert ranking._best(model, sight, np.zeros(1, dtype=bool)) == score


@pytest.mark.parametrize("labelled", [True, False])
def test_automatic_score_takes_the_dead_first(parent: Any, data: Path, labelled: bool) -> None:
    """Their beta may still reach the loss, but that constant is moved into the next layer."""
    model = yoloprune.load(parent)
    graph = yolo_tracing.trace_yolo(model.model)
    norm = model.model.model[4].cv2.bn
    norm.weight.data[::2], norm.bias.data[::2] = 0.0, 5.0
    dead = dead_channels.dead(model.model, graph)
    assert dead.any()
    auto = ranked(model, data if labelled else None)
    assert auto.scores[dead].max() == 0
    if labelled:
        assert ranked(model, data, score="taylor").scores[dead].min() > 0


def test_models_that_learn_from_prompts_have_no_taylor_score(data: Path) -> None:
    world = YOLO("yolov8s-world.yaml")
    assert model_facts.is_prompted(world.model) and not model_facts.is_prompted(YOLO("yolov8n.yaml").model)
    with pytest.raises(ModelError, match="score=output"):
        model_facts.with_loss(world)


def test_the_child_is_cut_by_the_plan_and_the_parent_untouched(parent: Any) -> None:
    graph = yolo_tracing.trace_yolo(parent.model)
    before = {k: v.clone() for k, v in parent.model.state_dict().items()}
    plan = graph.plan(ranked(parent, None, round_to=1, min_width=2).select(graph, Budget(flops=0.7)))
    child, proof, _ = cut_and_repair.cut(parent, plan, "none", None)
    expected = cut(yoloprune.load(parent).model, plan).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in child.model.state_dict().items())
    assert 0 <= proof.error < 1e-4
    assert all(torch.equal(v, before[k]) for k, v in parent.model.state_dict().items())


def test_device_is_where_scores_and_repairs_are_measured(
    tiny: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another name of the CPU stands for a GPU: models, images and labelled batches go there, models come back."""
    there, moved = torch.device("cpu", 0), []
    monkeypatch.setattr(evaluation, "device", lambda name: there if name == "7" else None)
    monkeypatch.setattr(ranking, "placed", lambda target, *models: moved.append(target) or placed(target, *models))
    for name in ("batches", "labelled"):
        whole = getattr(calibration_images, name)
        monkeypatch.setattr(
            calibration_images, name, lambda *a, whole=whole, **k: moved.append(k["device"]) or whole(*a, **k)
        )
    given = {"data": str(data), "imgsz": 64}
    ranked_by(yoloprune.load(tiny), {**given, "device": "7"}, score="taylor")
    assert moved == [there, there, there]
    ranked_by(yoloprune.load(tiny), given, score="taylor")
    assert moved[3:] == [torch.device("cpu")] * 3


def test_seed_chooses_the_calibration_images(tiny: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("batches", "labelled"):  # four of the 16 images, so that there is something to choose
        whole = getattr(calibration_images, name)
        monkeypatch.setattr(calibration_images, name, lambda *a, whole=whole, **k: whole(*a, **{**k, "n": 4}))
    given = {"data": str(data), "imgsz": 64}
    model = yoloprune.load(tiny)
    runs = [{**given, "seed": seed} for seed in (1, 1, 2)]
    images = [calibration(model, passed["data"], 64, passed).images for passed in runs]
    scores = [ranked_by(model, passed, score="taylor").scores for passed in runs]
    assert torch.equal(images[0][0], images[1][0]) and not torch.equal(images[0][0], images[2][0])
    assert np.array_equal(scores[0], scores[1]) and not np.array_equal(scores[0], scores[2])


class Traveller(nn.Linear):
    """Notes where it is sent."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.seen: list[torch.device] = []

    def to(self, device: torch.device) -> Traveller:
        self.seen.append(device)
        return self


def test_models_come_back_from_a_device_even_after_an_error() -> None:
    model, there = Traveller(), torch.device("cuda", 3)
    with pytest.raises(ValueError, match="on the way"), placed(there, model):
        raise ValueError("on the way")
    assert model.seen == [there, torch.device("cpu")]
