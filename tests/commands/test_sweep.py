"""A sweep over a tiny network on images drawn by code."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from schemas import faults

import yoloprune
from yoloprune import csv_rows
from yoloprune.backend import calibration_images, console, evaluation, yolo_tracing
from yoloprune.commands import cut_and_repair, mask
from yoloprune.commands.demo_images import make_shapes
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.importance import criteria
from yoloprune.reporting import schema

LOOSE = {"round_to": 1, "min_width": 2}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def data(work: Path) -> Path:
    return make_shapes(work / "data", train=16, val=5, imgsz=64)


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


def test_a_sweep_of_masks_counts_the_zeros_that_are_there(
    tiny: Path, common: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of every layer is zero: a share below that takes nothing, and above it what the first mask took stays."""
    told = {k: v for k, v in common.items() if k != "workers"} | {"name": "one", "val": False}
    masked = yoloprune.mask(tiny, pattern="2:4", recover="none", score="magnitude", **told)
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    file, keep = masked.ckpt_path, "model.0"  # which reads three channels
    rows = yoloprune.sweep(file, sparsity=[0.4, 0.7], recover="none", score="magnitude", keep=keep, **common)
    assert [r["model"] for r in rows] == ["parent", "sparsity=0.7"]
    assert [r["zeros"] for r in rows] == pytest.approx([0.5, 0.7], abs=1e-4)
    assert said[0].startswith("sweep: left out: sparsity=0.4: must be above what is zero already, 50.0%")
    with pytest.raises(ArgumentError, match=r"^sparsity=0\.3: must be above"):
        yoloprune.sweep(file, sparsity=[0.3, 0.4], recover="none", score="magnitude", keep=keep, **common)
