"""A wanted time per image: what it may look like, the search for it, and `prune` against a clock that tells sizes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

import yoloprune
from yoloprune.backend import console
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.runtimes.bench import Bench
from yoloprune.runtimes.timing import Times
from yoloprune.selection import latency_search
from yoloprune.settings import command_line, own_options
from yoloprune.settings.wanted_time import milliseconds

OPTION = next(o for o in own_options.PRUNE_BUDGETS if o.name == "latency")


# What it may look like ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "value", "of_20_ms"),
    [
        ("0.6", 0.6, 12),
        (0.6, 0.6, 12),
        ("12ms", "12ms", 12),
        (" 7.50 MS", "7.5ms", 7.5),
        ("0.8ms", "0.8ms", 0.8),
        ("40fps", "40fps", 25),
        (" 0.5 FPS", "0.5fps", 2000),
    ],
)
def test_a_share_a_time_or_a_rate(given: Any, value: float | str, of_20_ms: float) -> None:
    assert OPTION.check(given) == value == OPTION.check(value)
    assert milliseconds(value, 20) == pytest.approx(of_20_ms)


@pytest.mark.parametrize("given", ["12", 12, 1, 0, -0.5, "-3ms", "0ms", "ms", "fast", "nanms", "fps", "0fps", True])
def test_a_bare_number_could_be_anything(given: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^latency=.*: must be a fraction .* or milliseconds"):
        OPTION.check(given)


def test_the_time_is_met_through_the_flops() -> None:
    with pytest.raises(ArgumentError, match="must not be combined with flops"):
        command_line.parse(["prune", "model=a.pt", "latency=0.6", "flops=0.5"])
    assert command_line.parse(["prune", "model=a.pt", "latency=0.6", "params=0.5"]).settings["latency"] == 0.6


# The search -----------------------------------------------------------------------------------------------------------
class Machine:
    """Networks that take a time which depends on their share of the FLOPs; remembers what was tried."""

    def __init__(self, ms: Callable[[float], float], reach: float = 0.0) -> None:
        self.ms, self.reach, self.tried = ms, reach, []

    def __call__(self, share: float) -> latency_search.Timed | None:
        self.tried.append(share)
        choice: Any = SimpleNamespace(share=share)
        return None if share < self.reach else latency_search.Timed(choice, self.ms(1.0), self.ms(share))


SMOOTH: list[Callable[[float], float]] = [
    lambda f: 20 * f,
    lambda f: 12 + 8 * f,  # 60 % of the time is there whatever the size
    lambda f: 20 * f**0.5,
    lambda f: 20 * f**2,
]
JUMPS: list[Callable[[float], float]] = [
    lambda f: 8 + 2 * np.ceil(6 * f),  # steps
    lambda f: 15 + 5 * (f > 0.37),  # a cliff
]


@pytest.mark.parametrize("wanted", [0.8, "16ms"])
@pytest.mark.parametrize("ms", [*SMOOTH, *JUMPS])
def test_the_largest_share_that_meets_the_time(ms: Callable[[float], float], wanted: float | str) -> None:
    machine = Machine(ms)
    found = latency_search.search(machine, wanted, now=20.0)
    assert found.ms <= 16
    if ms in SMOOTH:
        assert found.ms >= 16 * (1 - latency_search.SLACK)
    else:  # no time lies so near
        largest = max(f for f in np.linspace(0.001, 1, 1000) if ms(f) <= 16)
        assert found.choice.share >= largest - 0.1
    assert len(machine.tried) <= latency_search.TRIALS


def test_a_line_is_found_at_once() -> None:
    machine = Machine(lambda f: 12 + 8 * f)
    latency_search.search(machine, 0.8, now=20.0)
    assert len(machine.tried) == 2  # 0.8, and on the line through it and the parent


def test_noise_does_not_lead_astray() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        found = latency_search.search(Machine(lambda f: (5 + 15 * f) * random.normal(1, 0.02)), 0.5, now=20.0)
        assert 0.2 < found.choice.share < 0.5  # 1/3 without noise
        assert found.ms <= 0.5 * found.now


def test_out_of_reach_says_how_far_it_went() -> None:
    with pytest.raises(BudgetError, match=r"latency=0.5 is out of reach: the fastest network .* takes 1[2-5]\.\d\d ms"):
        latency_search.search(Machine(lambda f: 10 + 10 * f, reach=0.2), 0.5, now=20.0)
    with pytest.raises(BudgetError, match=r"latency=3ms is out of reach, the parent 20.00"):
        latency_search.search(Machine(lambda f: 20 * f, reach=0.99), "3ms", now=20.0)


def test_widths_may_stop_before_the_bracket_does() -> None:
    """The first share to try is below what widths reach; a larger one is fast enough."""
    found = latency_search.search(Machine(lambda f: 20 * f**3, reach=0.45), 0.3, now=20.0)
    assert found.choice.share >= 0.45 and 0.3 * 20 * (1 - latency_search.SLACK) <= found.ms <= 0.3 * 20


# Prune, and a clock that tells sizes ----------------------------------------------------------------------------------
def size(model: nn.Module) -> float:
    return 10.0 + 7e-5 * sum(p.numel() for p in model.parameters())


def timed(*ms: float) -> list[Times]:
    return [Times(one, one, 0.0, 9) for one in ms]


@pytest.fixture(scope="module")
def whole(tiny: Path) -> float:
    """What the parent takes."""
    return size(yoloprune.load(tiny).model)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, whole: float) -> list[list[float]]:
    """Times by size instead of by a clock."""
    read: list[list[float]] = []

    def time(bench: Bench, *others: nn.Module, sides: object = None, seconds: float = 10.0) -> list[Times]:
        assert bench.imgsz == 64
        read.append([whole, *map(size, others)])
        return timed(*read[-1])

    monkeypatch.setattr(Bench, "time", time)
    return read


@pytest.mark.parametrize("wanted", [0.7, "19ms"])
@pytest.mark.slow
def test_prune_meets_a_time(
    tiny: Path, tmp_path: Path, clock: list[list[float]], whole: float, wanted: float | str
) -> None:
    told = {"round_to": 1, "min_width": 2, "native": False}
    child = yoloprune.prune(tiny, latency=wanted, project=str(tmp_path), **told).model
    target = milliseconds(wanted, whole)
    assert target * (1 - latency_search.SLACK) <= size(child) <= target
    rows = json.loads((tmp_path / "prune" / "report.json").read_text())["table"]
    assert [r["ms"] for r in rows] == [whole, size(child)] == clock[-1]


@pytest.mark.slow
def test_a_model_that_is_fast_enough_is_left_alone(tiny: Path, tmp_path: Path, clock: list[list[float]]) -> None:
    with pytest.raises(BudgetError, match="latency=500ms: the model already takes no longer"):
        yoloprune.prune(tiny, latency="500ms", project=str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_budget_that_is_out_of_reach_is_named_before_anything_is_timed(
    tiny: Path, tmp_path: Path, clock: list[list[float]]
) -> None:
    with pytest.raises(BudgetError, match=r"^params=.* is out of reach"):
        yoloprune.prune(tiny, latency=0.9, params=0.001, project=str(tmp_path))
    assert clock == []


@pytest.mark.slow
def test_luck_is_not_enough(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: float) -> None:
    """A network that meets the time once is timed again, for longer."""
    said: list[str] = []

    def time(bench: Bench, *others: nn.Module, sides: object = None, seconds: float = 10.0) -> list[Times]:
        flattered = 0.5 if seconds < latency_search.LONGER else 1.0
        return timed(whole, *(flattered * size(m) for m in others))

    monkeypatch.setattr(Bench, "time", time)
    monkeypatch.setattr(console, "log", lambda _, text: said.append(text))
    told = {"round_to": 1, "min_width": 2, "native": False}
    child = yoloprune.prune(tiny, latency=0.7, project=str(tmp_path), **told).model
    assert size(child) <= 0.7 * size(yoloprune.load(tiny).model)


@pytest.mark.parametrize(("swing", "warns"), [(1.4, False), (1.6, True)])
@pytest.mark.slow
def test_a_busy_machine_is_noticed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: float, swing: float, warns: bool
) -> None:
    said: list[str] = []
    calls: list[int] = []

    def time(bench: Bench, *others: nn.Module, sides: object = None, seconds: float = 10.0) -> list[Times]:
        calls.append(len(others))
        return timed(*(ms * (swing if len(calls) == 3 else 1.0) for ms in (whole, *map(size, others))))

    monkeypatch.setattr(Bench, "time", time)
    monkeypatch.setattr(console, "warn", said.append)
    yoloprune.prune(tiny, latency=0.7, project=str(tmp_path), round_to=1, min_width=2, native=False)
    assert bool([text for text in said if "something else is running" in text]) == warns


@pytest.mark.parametrize(
    ("wanted", "ms", "fails"),
    [(0.5, 10.0, False), (0.5, 10.2, False), (0.5, 10.3, True), ("9ms", 9.1, False), ("9ms", 9.2, True)],
)
def test_the_saved_network_is_judged(
    monkeypatch: pytest.MonkeyPatch, wanted: float | str, ms: float, fails: bool
) -> None:
    """2 % of the wanted time are forgiven."""
    logged: list[str] = []
    warned: list[str] = []
    monkeypatch.setattr(console, "log", lambda _, text: logged.append(text))
    monkeypatch.setattr(console, "warn", warned.append)
    latency_search.judge(wanted, 20.0, ms)
    assert (len(warned), len(logged)) == ((1, 0) if fails else (0, 1))
    assert f"latency={wanted}: {ms:.2f} ms now, {ms / 20:.2f} of the parent's 20.00" in (warned + logged)[0]
