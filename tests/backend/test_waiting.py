"""The progress bar of work that may be long: only for long work, only once, gone at the end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from checkpoints import narrow
from conftest import settle
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from yoloprune.backend import compat, console, progress_bar, yolo_tracing
from yoloprune.backend.progress_bar import Wait
from yoloprune.commands import prune, validate
from yoloprune.native.stock_yaml import Stock
from yoloprune.runtimes import layer_times
from yoloprune.runtimes.bench import Bench
from yoloprune.runtimes.timing import Times
from yoloprune.settings import checking
from yoloprune.settings.budget import Limits
from yoloprune.settings.requests import PruneRequest


def said(capsys: pytest.CaptureFixture) -> str:
    """What came to the screen; releases of Ultralytics differ in the stream."""
    captured = capsys.readouterr()
    return captured.out + captured.err


def loops() -> list[int]:
    with Wait(5, "counting") as wait:
        return [*wait.over([1, 2, 3]), *wait.over([4, 5])]


def test_long_work_has_a_bar_and_short_work_none(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loops() == [1, 2, 3, 4, 5]
    assert said(capsys) == ""
    monkeypatch.setattr(progress_bar, "PATIENCE", -1.0)
    assert loops() == [1, 2, 3, 4, 5]
    shown = said(capsys)
    assert "counting" in shown and "5/5" in shown
    assert not shown.endswith("\n")  # the line is cleared, not left
    with Wait(1, "counting") as wait:
        assert [*wait.over([1])] == [1]
    assert said(capsys) == ""  # nothing is left to wait for


def test_work_of_several_blocks_is_counted_through(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar goes away between them, and comes back where it was."""
    monkeypatch.setattr(progress_bar, "PATIENCE", -1.0)
    wait = Wait(3, "saving")
    with wait:
        wait.tick()
    assert "1/3" in said(capsys)
    with wait:
        assert said(capsys) == ""
        wait.tick()
        wait.tick()
    assert "3/3" in said(capsys)


@pytest.mark.slow
def test_what_a_cut_does_behind_its_last_line_has_bars(
    tiny: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models look at four images each."""
    monkeypatch.setattr(progress_bar, "PATIENCE", -1.0)
    told = {"data": str(data), "imgsz": 64, "device": "cpu", "project": str(tmp_path), "val": False}
    request = checking.build(PruneRequest, {"model": tiny, "flops": 0.8, "recover": "none", "score": "l1", **told})
    prune.run(request, timed=True)
    shown = said(capsys)
    runs = layer_times.WARM_UP + layer_times.RUNS
    for what, count in (("saving and reading back", 5), ("timing layers", runs), ("looking at images", 8)):
        assert what in shown and f"{count}/{count}" in shown.partition(what)[2], what


def test_timing_says_that_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: lines.append(prefix + message))
    timer = SimpleNamespace(time=lambda *others, sides: [Times(1.0, 1.0, 0.0, 9)] * 2, facts=lambda times: {})
    validate.add_times("val", [{}, {}], cast("Bench", timer), nn.Identity())
    assert lines == ["val: timing 2 models in turns, for up to 10 s"]


def test_the_plain_bar_counts_what_is_ticked(capsys: pytest.CaptureFixture) -> None:
    with progress_bar.counted(2, "refitting") as tick:
        tick()
        tick()
    shown = said(capsys)
    assert "refitting" in shown and "2/2" in shown


def test_only_the_main_process_has_a_bar(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar, "PATIENCE", -1.0)
    monkeypatch.setattr(progress_bar.console, "is_main_process", lambda: False)
    assert loops() == [1, 2, 3, 4, 5]
    assert said(capsys) == ""


@pytest.mark.parametrize("round_to", [4, 8])
@pytest.mark.slow
def test_finding_native_widths_has_one_that_ends_full(
    round_to: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = settle(DetectionModel(narrow(), verbose=False))
    monkeypatch.setattr(progress_bar, "PATIENCE", -1.0)
    closed: list[Wait] = []
    leave = Wait.__exit__
    monkeypatch.setattr(Wait, "__exit__", lambda wait, *raised: (closed.append(wait), leave(wait, *raised))[1])
    Stock(model, yolo_tracing.trace_yolo(model)).restrict(Limits(round_to=round_to, min_width=4))
    assert "finding native widths" in said(capsys)
    [wait] = closed
    assert wait.done == wait.total > 10


def test_a_bar_is_full_when_its_work_is_over_and_not_when_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    bar = SimpleNamespace(update=steps.append, close=lambda: steps.append(0))
    monkeypatch.setattr(compat, "TQDM", lambda **_: bar, raising=False)
    with progress_bar.counted(5, "x") as tick:  # two of five need no work
        for _ in range(3):
            tick()
    assert steps == [1, 1, 1, 2, 0]
    steps.clear()
    with pytest.raises(ValueError, match="why"), progress_bar.counted(5, "x"):
        raise ValueError("why")
    assert steps == [0]
