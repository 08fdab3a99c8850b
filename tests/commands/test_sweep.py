"""Where accuracy falls off: what counts as that, and a sweep over a tiny network on images drawn by code."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from schemas import faults
from torch import nn
from ultralytics import YOLO

import yoloprune
from yoloprune import csv_rows
from yoloprune.backend import calibration_images, console, datasets, evaluation, model_facts, yolo_tracing
from yoloprune.commands import cut_and_repair, mask, sweep_table
from yoloprune.commands.demo_images import make_shapes
from yoloprune.cutting.surgery import cut
from yoloprune.errors import BudgetError, ModelError
from yoloprune.importance import criteria, dead_channels
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.probing.forward import placed
from yoloprune.reporting import schema
from yoloprune.reporting.text_table import headline
from yoloprune.selection import ranking
from yoloprune.selection.calibration import Calibration, calibration
from yoloprune.settings.budget import Budget
from yoloprune.settings.checking import build
from yoloprune.settings.requests import PruneRequest

LOOSE = {"round_to": 1, "min_width": 2}
pytestmark = pytest.mark.slow


def points(*figures: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows of (FLOPs, mAP50-95), the parent first."""
    return [
        {"model": "parent" if i == 0 else f"flops={flops}", "flops": flops, "mAP50": 0.9, "mAP50-95": figure}
        for i, (flops, figure) in enumerate(figures)
    ]


# What counts as falling off -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("within", "safe", "lost"),
    [(3.0, "flops=0.8", 3.0), (2.9, "flops=0.9", 1.0), (0.5, "parent", 0.0), (10.0, "flops=0.5", 9.0)],
)
def test_safe_is_the_smallest_point_before_the_first_that_loses_too_much(within: float, safe: str, lost: float) -> None:
    rows = points((1, 0.6), (0.9, 0.59), (0.8, 0.57), (0.7, 0.5), (0.6, 0.58), (0.5, 0.51))
    found = sweep_table.falls_off(rows, "mAP50-95", within)
    assert (found["safe"], found["lost"]) == (safe, pytest.approx(lost))


def test_steepest_is_per_flop() -> None:
    rows = points((1, 0.6), (0.9, 0.58), (0.5, 0.51), (0.4, 0.48), (0.2, 0.43))  # 20, 17.5, 30 and 25 points per FLOP
    assert sweep_table.falls_off(rows, "mAP50-95", 3)["steepest"] == ["flops=0.5", "flops=0.4"]


def test_a_poor_model_has_few_points_to_lose() -> None:
    assert sweep_table.may_lose(3, 0.4) == 3 and sweep_table.may_lose(3, 0.12) == 3
    rows = [{"model": m, "mAP50-95": v, "flops": f} for m, v, f in (("parent", 0.032, 1), ("a", 0.013, 0.9))]
    assert sweep_table.falls_off(rows, "mAP50-95", sweep_table.may_lose(3, 0.032))["safe"] == "parent"


def test_a_parent_with_little_is_told_of_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    blind = [sweep_table.warned_of_blindness(had, "mAP50-95", 0.5, "a.yaml") for had in (0.3, 0.008, 0.004)]
    assert blind == [False, False, True]
    assert [s[:61] for s in said] == ["sweep: the parent finds next to nothing on data=a.yaml (mAP50"] * 2
    assert sweep_table.warned_of_blindness(0.02, "mAP50-95", 3, "a.yaml") and "so no point can lose within=3" in said[2]


def test_description_names_the_points() -> None:
    rows = points((1, 0.6), (0.9, 0.59), (0.8, 0.4))
    said = [sweep_table.describe(sweep_table.falls_off(rows, "mAP50-95", w), "mAP50-95", w) for w in (3, 0.5)]
    assert said[0].startswith("down to flops=0.9, mAP50-95 stays within 3 points of the parent's (1.0 lost);")
    assert said[0].endswith("from flops=0.9 to flops=0.8")
    assert said[1].startswith("no point is within 0.5 points")


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (["mAP50", "mAP50-95"], "mAP50-95"),
        (["mAP50", "mAP50-95", "mAP50(M)", "mAP50-95(M)"], "mAP50-95(M)"),
        (["accuracy_top1", "accuracy_top5"], "accuracy_top1"),
        (["metrics/mAP50(B)", "metrics/mAP50-95(B)", "metrics/mAP50-95(P)"], "metrics/mAP50-95(P)"),
        ([], ""),
    ],
)
def test_the_figure_that_counts(figures: list[str], expected: str) -> None:
    assert headline(figures) == expected


# The command ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def data(work: Path) -> Path:
    return make_shapes(work / "data", train=16, val=4, imgsz=64)


@pytest.fixture
def common(work: Path, data: Path, tmp_path: Path) -> dict[str, Any]:
    return {"data": str(data), "imgsz": 64, "project": str(tmp_path), "name": "run", "workers": 0, "device": "cpu"}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open() as f:
        return list(csv.DictReader(f))


@pytest.mark.long
@pytest.mark.slow
def test_a_sweep_evaluates_every_point_with_one_trace_and_one_ranking(
    tiny: Path, common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for module, name in ((yolo_tracing, "trace_yolo"), (criteria, "importance"), (calibration_images, "batches")):
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _w=whole, _n=name, **k: (calls.append(_n), _w(*a, **k))[1])
    figures = iter([0.5, 0.49, 0.4])  # what validation says of the parent and of the two points
    monkeypatch.setattr(evaluation, "metrics", lambda yolo: {"mAP50": 0.6, "mAP50-95": next(figures)})
    before = tiny.read_bytes()
    rows = yoloprune.sweep(tiny, flops=[0.6, 0.8, 0.001], recover="fold", **LOOSE, **common)
    assert calls == ["trace_yolo", "batches", "importance"]
    assert [r["model"] for r in rows] == [
        "parent",
        "flops=0.8",
        "flops=0.6",
    ]  # largest first, what cannot be is left out
    assert rows[0]["flops"] == rows[0]["params"] == 1
    for row, share in zip(rows[1:], (0.8, 0.6), strict=True):
        assert share - 0.01 <= row["flops"] <= share
    assert [r["mAP50-95"] for r in rows] == [0.5, 0.49, 0.4]
    folder = tmp_path / "run"
    assert [(r["model"], float(r["flops"])) for r in rows_of(folder)] == [(r["model"], r["flops"]) for r in rows]
    told = json.loads((folder / "report.json").read_text())
    assert told["metric"] == "mAP50-95"
    assert told["cliff"] == {"safe": "flops=0.8", "lost": 1.0, "steepest": ["flops=0.8", "flops=0.6"]}
    assert "out of reach" in told["out_of_reach"]["flops=0.001"]
    assert "mAP50-95 against GFLOPs" in (folder / "report.html").read_text()
    assert (folder / "sweep.png").stat().st_size > 1000
    assert yaml.safe_load((folder / "args.yaml").read_text())["mode"] == "sweep"
    assert tiny.read_bytes() == before


def test_ratio_removes(tiny: Path, common: dict[str, Any]) -> None:
    rows = yoloprune.sweep(tiny, ratio="0.3,0.2", recover="none", score="l2", **LOOSE, **common)
    assert [r["model"] for r in rows] == ["parent", "ratio=0.2", "ratio=0.3"]
    assert [0.69 <= r["channels"] <= 0.8 for r in rows[1:]] == [True, True]


@pytest.mark.long
def test_points_come_by_what_they_keep(tiny: Path, common: dict[str, Any]) -> None:
    """A fraction and a number may be in any order."""
    more = f"{int(0.8 * sum(p.numel() for p in yoloprune.load(tiny).model.parameters()))}"
    rows = yoloprune.sweep(tiny, params=[0.6, more], recover="none", score="l2", **LOOSE, **common)
    assert rows[0]["params"] == 1 and 0.7 < rows[1]["params"] <= 0.8 and 0.5 < rows[2]["params"] <= 0.6


@pytest.mark.long
def test_a_sweep_reaches_what_prune_reaches(
    tiny: Path, common: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Native widths are at least 8 here and go half as far; free ones are taken for the point that needs them."""
    told = {"round_to": 1, "min_width": 1, "max_ratio": 0.99, "recover": "none", "score": "l2", **common}
    rows = yoloprune.sweep(tiny, ratio=[0.3, 0.9], **told)
    assert [r["model"] for r in rows] == ["parent", "ratio=0.3", "ratio=0.9"]


def test_a_point_that_the_parent_meets_is_left_out(
    tiny: Path, common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    logged: list[str] = []
    cut_one = cut_and_repair.cut
    monkeypatch.setattr(cut_and_repair, "cut", lambda *told: said.append("cut") or cut_one(*told))
    monkeypatch.setattr(console, "warn", said.append)
    monkeypatch.setattr(console, "log", lambda *words: logged.append(" ".join(words)))
    rows = yoloprune.sweep(tiny, params=["5M", 0.9], recover="none", score="l2", **LOOSE, **common)
    assert [r["model"] for r in rows] == ["parent", "params=0.9"]
    assert said[0].startswith("prune: the weights are untrained")
    assert said[1] == "sweep: left out: params=5M: the model already meets it."
    assert said[2:] == [
        f"sweep: the parent finds next to nothing on data={common['data']} (mAP50-95 0.0000): train it first, or check "
        "that data= is what it was trained on; budgets are compared all the same",
        "cut",
    ]
    assert "stays within" not in logged[-1]  # of nothing
    heading, columns, *_ = logged[-1].splitlines()
    assert heading == "sweep:  tiny.pt cut at each point, nothing trained" and columns.startswith("model ")
    step = next(text for text in logged if text.startswith("sweep:  1/1")).splitlines()
    assert [line.split()[0] for line in step[1:4]] == ["model", "parent", "params=0.9"]
    assert json.loads((tmp_path / "run" / "report.json").read_text())["cliff"] is None


@pytest.mark.long
def test_an_interrupted_sweep_goes_on_in_its_folder(
    tiny: Path, common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, intervals and times of the whole are those of a sweep that nothing interrupted."""
    whole, seen = cut_and_repair.cut, []

    def interrupted(*args: Any) -> Any:
        seen.append(args)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return whole(*args)

    told = {**common, "name": "sweep", "flops": [0.8, 0.6], "recover": "none", "score": "l2", "threads": 1, **LOOSE}
    monkeypatch.setattr(cut_and_repair, "cut", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"the same command goes on where it was; .*sweep.csv keeps"):
        yoloprune.sweep(tiny, **told)
    run = tmp_path / "sweep"
    before = (run / "sweep.csv").read_text()
    assert [r["model"] for r in rows_of(run)] == ["parent", "flops=0.8"]
    with (run / "sweep.csv").open("a") as f:
        f.write("flops=0.6,0.5")  # torn

    monkeypatch.setattr(cut_and_repair, "cut", lambda *args: seen.append(args) or whole(*args))
    rows = yoloprune.sweep(tiny, **told)
    assert len(seen) == 3 and [f.name for f in tmp_path.iterdir() if f.is_dir()] == ["sweep"]
    assert [r["model"] for r in rows] == ["parent", "flops=0.8", "flops=0.6"]
    assert (run / "sweep.csv").read_text().startswith(before) and csv_rows.read_rows(run / "sweep.csv") == rows
    report = json.loads((run / "report.json").read_text())
    assert [*report["differences"]] == ["flops=0.8", "flops=0.6"] and len(report["table"]) == 3
    assert report["timing"]["ms"] == [r["ms"] for r in rows]
    assert "flops=0.6" in (run / "report.html").read_text() and (run / "sweep.png").is_file()
    assert not [f.name for f in run.iterdir() if f.name.startswith(".")]
    yoloprune.sweep(tiny, **told)  # that one is over
    assert sorted(f.name for f in tmp_path.iterdir() if f.is_dir()) == ["sweep", "sweep-2"]


def interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.long
def test_a_sweep_of_a_model_that_was_written_anew_begins_anew(
    tiny: Path, common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model.pt"
    shutil.copyfile(tiny, model)
    told = {"flops": [0.8], "recover": "none", "score": "l2", **common, **LOOSE}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cut_and_repair, "cut", interrupt)
        yoloprune.sweep(model, **told)
    assert (tmp_path / "run" / "sweep.csv").is_file()
    other = yoloprune.load(tiny)
    other.model.model[0].conv.weight.data *= 2  # by which no shape and no name changes
    other.save(model)
    yoloprune.sweep(model, **told)
    assert len(rows_of(tmp_path / "run")) == 1 and len(rows_of(tmp_path / "run-2")) == 2


def test_a_sweep_that_reaches_nothing_writes_nothing(tiny: Path, common: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"flops=0.01 .* out of reach"):
        yoloprune.sweep(tiny, flops=0.01, score="l2", **common)
    assert not (tmp_path / "run").exists()


def test_a_sweep_of_masks_masks_as_mask_does(
    tiny: Path, common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, int]] = []
    figures = iter([0.5, 0.49, 0.4])
    monkeypatch.setattr(evaluation, "metrics", lambda yolo: {"mAP50": 0.6, "mAP50-95": next(figures)})
    whole = mask.masked
    monkeypatch.setattr(mask, "masked", lambda *a: made.append(a[1]) or whole(*a))
    before = tiny.read_bytes()
    rows = yoloprune.sweep(tiny, sparsity=[0.9, 0.5], recover="none", score="magnitude", **common)
    assert [r["model"] for r in rows] == ["parent", "sparsity=0.5", "sparsity=0.9"]
    assert [r["zeros"] for r in rows] == pytest.approx([0, 0.5, 0.9], abs=1e-4)
    weights = sum(stay.numel() for stay in made[0].values())
    nonzero = sum(int((p != 0).sum()) for p in yoloprune.load(tiny).model.parameters())
    expected = [1 - share * weights / nonzero for share in (0, 0.5, 0.9)]
    assert [r["nonzero"] for r in rows] == pytest.approx(expected, abs=1e-3)
    folder = tmp_path / "run"
    assert [r["model"] for r in rows_of(folder)] == [r["model"] for r in rows] and tiny.read_bytes() == before
    told = json.loads((folder / "report.json").read_text())
    assert told["cliff"] == {"safe": "sparsity=0.5", "lost": 1.0, "steepest": ["sparsity=0.5", "sparsity=0.9"]}
    assert faults(told, schema.SCHEMA) == []
    assert (folder / "sweep.png").stat().st_size > 1000
    told = {k: v for k, v in common.items() if k != "workers"} | {"name": "one", "val": False}
    single = yoloprune.mask(tiny, sparsity=0.9, recover="none", score="magnitude", **told)
    zero = {n: int((m.weight == 0).sum()) for n, m in single.model.named_modules() if n in made[1]}
    assert zero == {name: int((~stay).sum()) for name, stay in made[1].items()}


# What prune and sweep share -------------------------------------------------------------------------------------------
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
    tiny: Path, common: dict[str, Any], monkeypatch: pytest.MonkeyPatch
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
    given = {"data": common["data"], "imgsz": 64}
    ranked_by(yoloprune.load(tiny), {**given, "device": "7"}, score="taylor")
    assert moved == [there, there, there]
    ranked_by(yoloprune.load(tiny), given, score="taylor")
    assert moved[3:] == [torch.device("cpu")] * 3


def test_seed_chooses_the_calibration_images(
    tiny: Path, common: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("batches", "labelled"):  # four of the 16 images, so that there is something to choose
        whole = getattr(calibration_images, name)
        monkeypatch.setattr(calibration_images, name, lambda *a, whole=whole, **k: whole(*a, **{**k, "n": 4}))
    given = {"data": common["data"], "imgsz": 64}
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
