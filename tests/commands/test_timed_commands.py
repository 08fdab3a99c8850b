"""Commands that are told a runtime: times stand in their tables, and what was measured in their reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_line import data as data  # fixtures
from tiny_line import work as work

import yoloprune
from yoloprune.backend import console
from yoloprune.commands import prune_report, slim
from yoloprune.commands.image_side import Side
from yoloprune.commands.slim_stages import Stage
from yoloprune.errors import ArgumentError
from yoloprune.runtimes import bench, engines
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.timing import Times

PLACE: dict[str, Any] = {"imgsz": 64, "device": "cpu", "name": "run"}
HOW: dict[str, Any] = {"format": "onnx", "threads": 1, "half": True}

pytestmark = pytest.mark.slow


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Formats that networks were opened in, and how large the images; nothing is exported, and the n-th takes n ms."""
    seen: list[tuple[str, int]] = []

    def opened(model: Any, deployment: Any, imgsz: int, folder: Path) -> Any:
        assert folder.is_dir() and deployment.threads == 1 and deployment.half
        seen.append((deployment.format, imgsz))
        ms = len(seen)
        return lambda: ms

    monkeypatch.setattr("yoloprune.runtimes.registry.find_spec", lambda name: name)
    monkeypatch.setattr(engines, "opened", opened)
    monkeypatch.setattr(bench.threads, "pinned", lambda form, count: bench.TemporaryDirectory())
    monkeypatch.setattr(bench, "take_turns", lambda runs, seconds, share: [Times(r(), r(), 0.02, 9) for r in runs])
    return seen


def timing(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run" / "report.json").read_text())["timing"]
    return found


def test_prune_shows_times_without_a_wanted_one(tiny: Path, tmp_path: Path, exported: list[Any]) -> None:
    yoloprune.prune(tiny, flops=0.7, round_to=1, min_width=2, native=False, project=str(tmp_path), **PLACE, **HOW)
    assert exported == [("onnx", 64)] * 2
    told = timing(tmp_path)
    assert (told["format"], told["threads"], told["precision"]) == ("onnx", 1, "fp16")
    assert (told["ms"], told["p95"], told["spread"], told["runs"]) == ([1, 2], [1, 2], [0.02, 0.02], [9, 9])
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [row["ms"] for row in report["table"]] == [1, 2]
    assert all(row["ms"] > 0 < row["ms kept"] for row in report["layers"])  # in torch, whatever the format
    assert "torch on this machine" in (tmp_path / "run" / "report.html").read_text()


def test_layers_are_not_timed_where_nothing_is(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_report, "layer_times", lambda *_: pytest.fail("times layers"))
    yoloprune.prune(tiny, flops=0.7, round_to=1, min_width=2, native=False, project=str(tmp_path), **PLACE)
    assert "ms" not in json.loads((tmp_path / "run" / "report.json").read_text())["layers"][0]


def test_val_times_what_it_validates(
    tiny: Path, data: Path, tmp_path: Path, exported: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, text: said.append(text))
    rows = yoloprune.val(tiny, against=tiny, data=str(data), project=str(tmp_path), workers=0, **PLACE, **HOW)
    assert [row["ms"] for row in rows] == [1, 2] == timing(tmp_path)["ms"]
    assert "known to ±2.0%" in said[-2] and "imgsz 64, onnx on cpu" in said[-1]


def test_sweep_and_info(
    tiny: Path, data: Path, tmp_path: Path, exported: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {"round_to": 1, "min_width": 2, "native": False, "score": "l1", "recover": "none"}
    rows = yoloprune.sweep(
        tiny, data=str(data), flops=(0.8, 0.6), project=str(tmp_path), workers=0, **told, **PLACE, **HOW
    )
    assert [row["ms"] for row in rows] == [1, 2, 3] == timing(tmp_path)["ms"]
    assert ",ms" in (tmp_path / "run" / "sweep.csv").read_text().splitlines()[0]
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, text: said.append(text))
    yoloprune.info(tiny, imgsz=64, **HOW)
    assert "4.00 ms per image in onnx on cpu, p95 4.00 (medians of 9 runs" in said[-1]


def test_slim_times_the_file_that_it_ships(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its parent is exported for that."""
    seen: list[str] = []

    def opened(model: Any, *_: Any) -> Any:
        seen.append(model if isinstance(model, str) else "network")
        ms = len(seen)
        return lambda: ms

    monkeypatch.setattr(engines, "opened", opened)
    monkeypatch.setattr(bench, "take_turns", lambda runs, seconds, share: [Times(r(), r(), 0.02, 9) for r in runs])
    rows: list[dict[str, Any]] = [{"model": "parent"}, {"model": "fine-tuned"}]
    file = Stage(Path("best.onnx"), {"MB": 1.0})
    slim._times(rows, [Stage(tiny, {}), Stage(tiny, {})], file, Deployment("onnx"), Side(64, 64))
    assert seen == ["network", "network", "network", "best.onnx"]
    assert rows == [
        {"model": "parent", "ms": 1, "ms onnx": 3},
        {"model": "fine-tuned", "ms": 2},
        {"model": "exported", "MB": 1.0, "ms onnx": 4},
    ]


def test_slim_in_torch_exports_nothing(tiny: Path, data: Path, tmp_path: Path, exported: list[Any]) -> None:
    told: dict[str, Any] = {"flops": 0.7, "round_to": 1, "min_width": 2, "native": False, "way": "prune", "score": "l1"}
    told |= {"recover": "none", "epochs": 1, "batch": 8, "workers": 0, "plots": False, "amp": False, **PLACE}
    model = yoloprune.slim(tiny, data=str(data), project=str(tmp_path), **told, **{**HOW, "format": "torch"})
    assert exported == [("torch", 64)] * 3 and model.figures.exported is None
    assert [f.name for f in sorted((tmp_path / "run").glob("[0-9]*"))] == ["1-parent", "2-prune", "3-finetune"]
    assert json.loads((tmp_path / "run" / "report.json").read_text())["timing"]["torch"]["precision"] == "fp16"


@pytest.mark.parametrize("command", [yoloprune.prune, yoloprune.val, yoloprune.sweep, yoloprune.info])
def test_a_wrong_format_is_told_before_the_model_is_looked_for(command: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^format=onx: .*nearest: onnx"):
        command("nowhere.pt", format="onx")
