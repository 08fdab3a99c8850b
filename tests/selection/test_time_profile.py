"""What widths cost in time, learnt on a clock that tells what convolutions do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import conv, noise
from torch import nn

import yoloprune
from yoloprune.backend import console, yolo_tracing
from yoloprune.planning.branch import Branch
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.time_model import TimeModel
from yoloprune.runtimes.bench import Bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.timing import Times
from yoloprune.selection import ranking, time_profile
from yoloprune.settings.budget import Limits
from yoloprune.tracing.trace_network import trace

LIMITS = Limits(round_to=1, min_width=2)


@pytest.fixture(scope="module")
def parent(tiny: Path) -> nn.Module:
    model: nn.Module = yoloprune.load(tiny).model
    return model


@pytest.fixture(scope="module")
def graph(parent: nn.Module) -> ChannelGraph:
    return yolo_tracing.trace_yolo(parent, imgsz=64)


def ms(model: nn.Module) -> float:
    """Numbers of kernels of three by three count ten times, and a fifth of the time is always there."""
    weights = [
        (10 if m.kernel_size == (3, 3) else 1) * m.weight.numel() for m in model.modules() if type(m) is nn.Conv2d
    ]
    return 2.0 + 1e-5 * sum(weights)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, parent: nn.Module, tmp_path: Path) -> list[int]:
    """How many networks were timed at once."""
    timed: list[int] = []

    def time(bench: Bench, *others: nn.Module, sides: object = None, seconds: float = 10.0) -> list[Times]:
        timed.append(len(others))
        return [Times(one, one, 0.0, 9) for one in (ms(parent), *map(ms, others))]

    monkeypatch.setattr(Bench, "time", time)
    monkeypatch.setattr("ultralytics.utils.USER_CONFIG_DIR", tmp_path)
    return timed


def test_convolutions_are_found_with_their_positions(parent: nn.Module, graph: ChannelGraph) -> None:
    found = {graph.axes[one.outputs].module: one for one in time_profile.layers(parent, graph)}
    convolutions = {n for n, m in parent.named_modules() if type(m) is nn.Conv2d and "dfl" not in n}
    assert convolutions <= set(found)
    first = found["model.0.conv"]
    assert (first.kind, first.taps, first.written, first.read) == ("3x3 stride 2", 9, 32 * 32, 64 * 64)
    assert found["model.2.cv1.conv"].kind == "1x1" and found["model.2.m.0.cv1.conv"].kind == "3x3"


def test_variants_are_of_all_sizes(graph: ChannelGraph) -> None:
    cost, kept = Cost(graph), []
    for alive in time_profile.variants(graph, LIMITS, 40, seed=0):
        graph.plan(alive)  # raises where a tie is broken
        widths = np.bincount(graph.group_of[alive], minlength=len(graph.groups)).astype(float)
        kept.append(cost.of("flops", widths) / cost.parent("flops"))
    assert min(kept) < 0.45 and max(kept) > 0.8 and len(set(kept)) == 40


def test_variants_lose_branches_where_these_may_go(graph: ChannelGraph) -> None:
    inside = [i for i, group in enumerate(graph.groups) if group.name.endswith(".cv1.conv") and ".m." in group.name]
    deep = replace(graph, branches=tuple(Branch(graph.groups[i].name.removesuffix(".cv1.conv"), (i,)) for i in inside))
    gone = [deep.plan(alive).removed for alive in time_profile.variants(deep, replace(LIMITS, depth=True), 40, seed=0)]
    assert len(inside) > 1 and {name for names in gone for name in names} == {b.name for b in deep.branches}
    assert [] in gone and sum(map(len, gone)) < 0.5 * 40 * len(inside)
    assert not any(deep.plan(alive).removed for alive in time_profile.variants(deep, LIMITS, 40, seed=0))


@pytest.mark.slow
def test_times_are_learnt_once(
    parent: nn.Module, graph: ChannelGraph, clock: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, text: said.append(text))
    monkeypatch.setattr(time_profile, "VARIANTS", 20)
    monkeypatch.setattr(time_profile, "TRUSTED", 0.1)
    bench = Bench(Deployment(), 64, lambda: None)
    model = time_profile.learnt(parent, graph, LIMITS, bench)
    assert clock == [8, 8, 4] and model.error < 0.1
    whole = Cost(graph)
    assert model.of(whole.axes(whole.full)) == pytest.approx(1.0, rel=0.05)
    again = time_profile.learnt(parent, graph, LIMITS, bench)
    assert len(clock) == 3 and again.of(whole.axes(whole.full)) == model.of(whole.axes(whole.full))
    assert "networks of other widths" in said[0]
    (file,) = (tmp_path / "yoloprune").iterdir()
    file.write_text("{}")
    time_profile.learnt(parent, graph, LIMITS, bench)
    assert len(clock) == 6
    monkeypatch.setattr(time_profile, "VARIANTS", 8)
    time_profile.learnt(parent, graph, LIMITS, bench)
    assert len(clock) == 7 and len(list((tmp_path / "yoloprune").iterdir())) == 2


def test_a_network_of_the_same_names_and_other_widths_or_kinds_has_times_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Be it a larger one of its family, what a cut left of it, or one with other activations; the same one has them."""
    timed: list[tuple[str, int]] = []

    def measured(parent: nn.Module, graph: ChannelGraph, masks: Sequence[np.ndarray], bench: Bench) -> Any:
        cost = Cost(graph)
        axes = [cost.axes(graph.widths(alive)) for alive in masks]
        timed.append((type(parent[2]).__name__, parent[0].out_channels))  # type: ignore[index,arg-type]
        shares = [cost.of("flops", graph.widths(alive)) / cost.parent("flops") for alive in masks]
        return time_profile.Timed(axes, shares, [0] * len(masks))

    monkeypatch.setattr(time_profile, "measured", measured)
    monkeypatch.setattr("ultralytics.utils.USER_CONFIG_DIR", tmp_path)
    monkeypatch.setattr(time_profile, "VARIANTS", 8)
    monkeypatch.setattr(time_profile, "TRUSTED", 1.0)
    for width, kind in ((8, nn.ReLU), (12, nn.ReLU), (8, nn.SiLU), (8, nn.ReLU)):
        network = nn.Sequential(conv(3, width), nn.BatchNorm2d(width), kind(), conv(width, 4)).eval()
        time_profile.learnt(network, trace(network, noise(1, 3, 6, 6)), LIMITS, Bench(Deployment(), 6, lambda: None))
    assert timed == [("ReLU", 8), ("ReLU", 12), ("SiLU", 8)] and len([*(tmp_path / "yoloprune").iterdir()]) == 3


def test_times_that_were_taken_in_another_way_are_taken_anew(
    parent: nn.Module, graph: ChannelGraph, clock: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of ONNX Runtime from when its idle threads took the cores of the network whose turn it was."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(time_profile, "VARIANTS", 8)
    monkeypatch.setattr(time_profile, "TRUSTED", 1.0)
    for form, times in (("onnx", 2), ("torch", 1)):
        clock.clear()
        for way in (("session.force_spinning_stop", "0"), time_profile.NO_IDLE_SPINNING):
            monkeypatch.setattr(time_profile, "NO_IDLE_SPINNING", way)
            time_profile.learnt(parent, graph, LIMITS, Bench(Deployment(form), 64, lambda: None))
        assert len(clock) == times


def test_times_of_other_widths_are_not_taken_for_those_of_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Drawn with `keep=` or a coarse `round_to=` networks say nothing of what stayed in them, or of steps in between.

    A tenth of the time is always there, 0.9 is the layer's of three by three. At a quarter of its outputs, 16 of 64,
    the network takes 0.1 + 0.9 / 4 = 0.325.
    """
    timed: list[int] = []

    def measured(parent: nn.Module, graph: ChannelGraph, masks: Sequence[np.ndarray], bench: Bench) -> Any:
        timed.append(len(masks))
        found = [graph.widths(alive).astype(float) for alive in masks]
        made = next(g for g, group in enumerate(graph.groups) if group.name == "0")
        shares = [0.1 + 0.9 * one[made] / 64 for one in found]
        return time_profile.Timed([Cost(graph).axes(one) for one in found], shares, [0] * len(found))

    monkeypatch.setattr(time_profile, "measured", measured)
    monkeypatch.setattr("ultralytics.utils.USER_CONFIG_DIR", tmp_path)
    network = nn.Sequential(conv(3, 64, 3), nn.ReLU(), conv(64, 64), nn.ReLU(), conv(64, 4)).eval()
    every, bench = trace(network, noise(1, 3, 6, 6)), Bench(Deployment(), 6, lambda: None)
    names = [group.name for group in every.groups]
    held = every.holding([names.index("0")], "keep")
    widths = Cost(every).full
    widths[names.index("0")] = 16
    for graph, limits in ((held, LIMITS), (every, Limits(round_to=32, min_width=2)), (every, LIMITS), (every, LIMITS)):
        model = time_profile.learnt(network, graph, limits, bench)
    assert timed == [time_profile.VARIANTS] * 3
    assert model.of(Cost(every).axes(widths)) == pytest.approx(0.325, abs=0.01)


@pytest.mark.parametrize(("step", "hinted"), [(1, False), (8, False), (32, True)])
def test_who_rounds_finer_than_a_runtime_does_is_told(monkeypatch: pytest.MonkeyPatch, step: int, hinted: bool) -> None:
    heard: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, text: heard.append(text))
    time_profile.tell_of_steps(TimeModel((), step, np.zeros(0), 0.0, 0.0), Limits())
    assert [("round_to=32 keeps more" in line) for line in heard] == [True] * hinted


@pytest.mark.slow
def test_times_of_a_busy_machine_are_not_kept(
    parent: nn.Module, graph: ChannelGraph, clock: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(console, "warn", warned.append)
    monkeypatch.setattr(time_profile, "VARIANTS", 8)
    monkeypatch.setattr(time_profile, "TRUSTED", 1e-6)
    time_profile.learnt(parent, graph, LIMITS, Bench(Deployment(), 64, lambda: None))
    assert "not kept" in warned[0] and not (tmp_path / "yoloprune").exists()


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [1.0, 0.0])
def test_prune_meets_a_time_that_it_predicts(
    tiny: Path, parent: nn.Module, tmp_path: Path, clock: list[int], monkeypatch: pytest.MonkeyPatch, trusted: float
) -> None:
    """Ranked per cost, channels are priced in time, in FLOPs where times are not to be trusted; few networks are tried
    after those that it is learnt from.
    """
    selected: list[bool] = []
    select = ranking.Ranking.select

    def seen(self: ranking.Ranking, *rest: Any) -> Any:
        selected.append(len(rest) > 2)
        return select(self, *rest)

    monkeypatch.setattr(ranking.Ranking, "select", seen)
    monkeypatch.setattr(time_profile, "VARIANTS", 16)
    monkeypatch.setattr(time_profile, "TRUSTED", trusted)
    wanted = f"{1e3 / (0.7 * ms(parent)):g}fps"
    told: dict[str, Any] = {"round_to": 1, "min_width": 2, "native": False, "score": "l1", "normalize": "cost"}
    child = yoloprune.prune(tiny, latency=wanted, project=str(tmp_path / "runs"), **told).model
    assert 0.68 <= ms(child) / ms(parent) <= 0.7
    assert clock[:2] == [time_profile.AT_ONCE] * 2 and len(clock) <= 14
    assert {*selected} == {trusted > 0}
