"""A table of another device's times in place of measuring: what it must hold, and a cut that meets a time by it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import yoloprune
from yoloprune.backend import console, yolo_tracing
from yoloprune.cutting import surgery
from yoloprune.errors import ArgumentError, BudgetError, DataError
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.runtimes import device_script
from yoloprune.runtimes.bench import Bench
from yoloprune.runtimes.timing import Times
from yoloprune.selection import device_times, time_profile
from yoloprune.selection.time_profile import Timed
from yoloprune.settings.budget import Limits
from yoloprune.settings.command_line import parse

HOW = {"format": "ncnn", "runtime": "ncnn 1.0", "machine": "a board, 4 cores", "threads": "4", "precision": "fp32"}
LOOSE: dict[str, Any] = {"round_to": 1, "min_width": 2, "native": False, "score": "l1", "recover": "none"}
COUNT = 20


@pytest.fixture(scope="module")
def parent(tiny: Path) -> nn.Module:
    model: nn.Module = yoloprune.load(tiny).model
    return model


@pytest.fixture(scope="module")
def graph(parent: nn.Module) -> ChannelGraph:
    return yolo_tracing.trace_yolo(parent, imgsz=64)


def ms(model: nn.Module) -> float:
    """Products of a pass, those of three by three twice as dear as others, and a fifth of a millisecond always."""
    count = 0

    def look(conv: nn.Conv2d, _: Any, out: torch.Tensor) -> None:
        nonlocal count
        count += (2 if conv.kernel_size == (3, 3) else 1) * conv.weight.numel() * out[0, 0].numel()

    model = copy.deepcopy(model).float().eval()
    convolutions = [m for m in model.modules() if type(m) is nn.Conv2d]
    for conv in convolutions:
        conv.register_forward_hook(look)
    with torch.no_grad():
        model(torch.zeros(1, 3, 64, 64))
    return 0.2 + 1e-7 * count


def rows_of(
    graph: ChannelGraph, now: float, took: Callable[[int, np.ndarray], float], **more: Any
) -> list[dict[str, Any]]:
    """What the script would have written where variants take so long: by number, and mask of the surviving classes."""
    limits = Limits(**{"round_to": 1, "min_width": 2, **more})
    how = {**HOW, "imgsz": "64", "batch": "1", "parent": device_times.fingerprint(graph), "of": str(COUNT)}
    found = []
    for i, alive in enumerate(time_profile.variants(graph, limits, COUNT, seed=0)):
        network = {"name": f"{i:02d}", "widths": device_times.widths_of(graph, alive)}
        time = took(i, alive)
        found.append(device_script.row_of(network, Times(time, time, 0.0, 9), Times(now, now, 0.0, 9), how))
    return found


@pytest.fixture
def rows(graph: ChannelGraph) -> list[dict[str, Any]]:
    """A table of times that grow from row to row."""
    return rows_of(graph, 40.0, lambda i, _: 10.0 + i)


@pytest.fixture(scope="module")
def known(parent: nn.Module, graph: ChannelGraph) -> list[dict[str, Any]]:
    """A table of a device whose times are known on paper."""
    return rows_of(graph, ms(parent), lambda _, alive: ms(surgery.cut(copy.deepcopy(parent), graph.plan(alive))))


@pytest.fixture
def table(known: list[dict[str, Any]], tmp_path: Path) -> Path:
    return written(tmp_path / "times.csv", known)


@pytest.fixture(autouse=True)
def nothing_is_measured_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def time(*_: Any, **__: Any) -> list[Times]:
        raise AssertionError("it was measured here")

    monkeypatch.setattr(Bench, "time", time)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    device_script.resumed(path, {})  # the header
    device_script.append(path, rows)
    return path


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, text: told.append(text))
    monkeypatch.setattr(console, "warn", told.append)
    return told


def prune(tiny: Path, table: Path, tmp_path: Path, latency: float | str, **more: Any) -> nn.Module:
    told = {**LOOSE, "project": str(tmp_path / "runs"), "times": table, "latency": latency, **more}
    model: nn.Module = yoloprune.prune(tiny, **told).model
    return model


# What it is for -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("normalize", ["cost", "none"])
@pytest.mark.slow
def test_a_time_is_met_that_was_never_measured_here(
    tiny: Path, parent: nn.Module, table: Path, tmp_path: Path, said: list[str], normalize: str
) -> None:
    child = prune(tiny, table, tmp_path, 0.7, normalize=normalize)
    assert 0.67 <= ms(child) / ms(parent) <= 0.72
    report = json.loads((tmp_path / "runs" / "prune" / "report.json").read_text())
    told = report["timing"]
    assert 0.69 <= told["predicted"] <= 0.7 and told["machine"] == "a board, 4 cores"
    assert all("ms" not in row for row in report["table"])
    promise = next(text for text in said if "is predicted" in text)
    assert f"of the parent's {ms(parent):.2f} ms is predicted in ncnn 1.0 on a board, 4 cores" in promise
    again = parse(promise.splitlines()[-1].split()[1:])
    assert again.passed["model"].endswith("pruned.pt") and again.passed["format"] == "ncnn"
    assert again.settings["against"] == str(tiny) and again.settings["threads"] == 4 and again.passed["imgsz"] == 64
    assert not any("smaller than in any network" in text for text in said)


@pytest.mark.slow
def test_widths_beyond_those_that_were_timed_are_told(
    tiny: Path, parent: nn.Module, graph: ChannelGraph, tmp_path: Path, said: list[str]
) -> None:
    """A cut to seven tenths has to take more than a fifth of some layers, and no network of the table lacks that."""

    def took(_: int, alive: np.ndarray) -> float:
        return ms(surgery.cut(copy.deepcopy(parent), graph.plan(alive)))

    table = written(tmp_path / "times.csv", rows_of(graph, ms(parent), took, max_ratio=0.2))
    child = prune(tiny, table, tmp_path, 0.7)
    now = {n: m.out_channels for n, m in parent.named_modules() if isinstance(m, nn.Conv2d)}
    narrow = [n for n, m in child.named_modules() if isinstance(m, nn.Conv2d) and m.out_channels < 0.8 * now[n]]
    assert narrow and any("smaller than in any network of times=" in text for text in said)


@pytest.mark.slow
def test_milliseconds_and_frames(tiny: Path, parent: nn.Module, table: Path, tmp_path: Path) -> None:
    child = prune(tiny, table, tmp_path, f"{1e3 / (0.7 * ms(parent)):g}fps")
    assert 0.67 <= ms(child) / ms(parent) <= 0.72


@pytest.mark.slow
def test_the_parent_meets_it_already(tiny: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"^latency=500ms: the model already takes no longer, .* on a board, 4 cores"):
        prune(tiny, table, tmp_path, "500ms")


@pytest.mark.slow
def test_out_of_reach_says_how_far_it_goes(tiny: Path, parent: nn.Module, table: Path, tmp_path: Path) -> None:
    said = (
        rf"^latency=0.05 of the parent is out of reach: .* leave at least 0\.\d+ .* takes {ms(parent):.2f} ms in ncnn"
    )
    with pytest.raises(BudgetError, match=said):
        prune(tiny, table, tmp_path, 0.05)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_weights_and_image_size_have_no_part_in_what_a_network_is(parent: nn.Module, graph: ChannelGraph) -> None:
    other = copy.deepcopy(parent)
    next(other.parameters()).data.mul_(2)
    assert device_times.fingerprint(yolo_tracing.trace_yolo(other, imgsz=96, keep=("model.2",))) == (
        device_times.fingerprint(graph)
    )


# What it must hold ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parent": "f00"}, r"is of a network of other layers or widths than this model"),
        ({"imgsz": "96"}, r"was measured at imgsz=96. Received: imgsz=64"),
        ({"widths": "1 2 3"}, r"a row is damaged, its widths are not those of"),
        ({"of": "1"}, r"sets two models side by side"),
        ({"ms": "nan"}, r"the row of 00 is damaged. Take it out"),
        ({"ms": "-3"}, r"the row of 00 is damaged"),
        ({"ms": "quick"}, r"the row of 00 is damaged"),
        ({"parent_ms": "0"}, r"the row of 00 is damaged"),
        ({"widths": "8 x"}, r"the row of 00 is damaged"),
    ],
)
def test_a_table_that_is_not_for_this(
    graph: ChannelGraph, rows: list[dict[str, Any]], tmp_path: Path, change: dict[str, str], message: str
) -> None:
    table = written(tmp_path / "times.csv", [{**row, **change} for row in rows])
    with pytest.raises(DataError, match=rf"^times=.*times.csv: {message}"):
        device_times.read(table).require(graph, 64)


@pytest.mark.slow
def test_another_size_is_told_before_channels_are_ranked(
    tiny: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yoloprune.selection.ranking.rank", None)
    with pytest.raises(DataError, match=r"was measured at imgsz=64. Received: imgsz=96$"):
        prune(tiny, table, tmp_path, 0.7, imgsz=96)
    assert not (tmp_path / "runs").exists()


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        device_times.read(tmp_path / "times.csv")
    for content in (b"", b"\xff\xfe\x00", b"a,b\n1,2\n", b"network,ms\n"):
        (tmp_path / "times.csv").write_bytes(content)
        with pytest.raises(DataError, match="holds no whole row"):
            device_times.read(tmp_path / "times.csv")


def test_a_table_that_is_not_finished(rows: list[dict[str, Any]], tmp_path: Path, said: list[str]) -> None:
    short = written(tmp_path / "a.csv", rows[:15])
    with pytest.raises(DataError, match=r"holds 15 of 20 networks, and at least 16 are needed. measure.py goes on"):
        device_times.read(short)
    torn = written(tmp_path / "b.csv", rows[:18])
    torn.write_text(torn.read_text()[:-9])
    assert len(device_times.read(torn).timed.shares) == 17
    assert said == [f"times={torn}: holds 17 of 20 networks; measure.py goes on where it was"]
    twice = written(tmp_path / "c.csv", [*rows, rows[0]])
    assert len(device_times.read(twice).timed.shares) == 20 and len(said) == 1


def test_a_table_of_several_devices(rows: list[dict[str, Any]], tmp_path: Path, said: list[str]) -> None:
    mixed = written(tmp_path / "a.csv", [*rows[1:], {**rows[0], "machine": "another", "threads": "2"}])
    with pytest.raises(DataError, match=r"were measured with several values of machine, threads$"):
        device_times.read(mixed)
    busy = written(tmp_path / "b.csv", [*rows[1:], {**rows[0], "parent_ms": 2 * float(rows[0]["parent_ms"])}])
    device_times.read(busy)
    assert "so something else was running there" in said[0]


def test_times_that_nothing_follows_from(
    parent: nn.Module, graph: ChannelGraph, rows: list[dict[str, Any]], tmp_path: Path, said: list[str]
) -> None:
    random = np.random.default_rng(0)
    noise = [{**row, "ms": float(row["ms"]) * random.uniform(0.5, 1.5)} for row in rows]
    device_times.read(written(tmp_path / "a.csv", noise)).learnt(parent, graph)
    assert "Better measure again" in said[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("times=t.csv", "times=t.csv: must come with latency="),
        ("times=t.csv flops=0.5", "times=t.csv: must come with latency="),
        ("times=t.csv latency=0.6 format=ncnn", "format=ncnn: must not be combined with times="),
        ("times=t.csv latency=0.6 threads=2", "threads=2: must not be combined with times="),
        ("times=t.csv latency=0.6 half=True", "half=True: must not be combined with times="),
        ("times=t.csv latency=0.6 batch=2", "batch=2: must not be combined with times="),
        ("times=t.csv latency=0.6 classes=0", "classes=: must not be combined with times="),
    ],
)
def test_what_a_table_says_itself(words: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        parse(["prune", "model=a.pt", *words.split()])


def test_a_cut_is_timed_again_at_the_precision_of_the_table() -> None:
    how = {**HOW, "imgsz": "320", "batch": "1", "threads": "", "format": "openvino"}
    for precision, data, more in (
        ("fp32", "my.yaml", ""),
        ("fp16", "my.yaml", " half=True"),
        ("int8", "my.yaml", " int8=True data=my.yaml"),
        ("int8", None, " int8=True data=..."),
    ):
        table = device_times.DeviceTimes(Path("times.csv"), {**how, "precision": precision}, 9.0, Timed([], [], []))
        words = table.again("pruned.pt", "best.pt", data)
        assert words == f"yoloprune latency model=pruned.pt against=best.pt format=openvino imgsz=320{more}"
        parse(words.split()[1:])
