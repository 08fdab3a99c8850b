"""Times measured by turns, on a clock that only the runs move; figures worked out by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from yoloprune.runtimes import bench, timing
from yoloprune.runtimes.timing import Times

Runs = Callable[[str, Iterator[float]], Callable[[], None]]


@pytest.fixture
def ran() -> list[str]:
    """Who ran, in order."""
    return []


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch, ran: list[str]) -> Runs:
    """Runs that last as told."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def run(name: str, seconds: Iterator[float]) -> Callable[[], None]:
        def once() -> None:
            ran.append(name)
            now[0] += next(seconds)

        return once

    return run


def test_steady_runs_are_known_at_once(lasting: Runs, ran: list[str]) -> None:
    runs = [lasting("a", itertools.repeat(0.01)), lasting("b", itertools.repeat(0.02))]
    found = timing.take_turns(runs, seconds=100.0)
    assert [(t.median, t.p95, t.spread) for t in found] == [(10.0, 10.0, 0.0), (20.0, 20.0, 0.0)]
    assert ran == [*"aaabbb", *"ab" * timing.FEWEST]


def test_unsteady_runs_are_repeated_until_their_median_is_known(lasting: Runs) -> None:
    random = np.random.default_rng(0)
    runs = [lasting("a", (0.01 * float(random.uniform(0.9, 1.1)) for _ in itertools.count()))]
    (found,) = timing.take_turns(runs, seconds=100.0)
    assert found.spread <= timing.WELL_KNOWN and 50 < found.runs < 1000
    assert found.median == pytest.approx(10, rel=0.02)


def test_the_time_is_over_before_a_median_is_known(lasting: Runs, ran: list[str]) -> None:
    runs = [lasting("a", itertools.cycle([0.01, 0.02])), lasting("b", itertools.repeat(0.01))]
    wide, steady = timing.take_turns(runs, seconds=1.0)
    assert len(ran) == 6 + 2 * wide.runs and 0.025 * (wide.runs - 1) <= 1.0 <= 0.025 * (wide.runs + 1)
    assert wide.spread > timing.WELL_KNOWN >= steady.spread
    assert bench.unsteady([steady, wide]) == f"medians of {wide.runs} runs, known to ±{wide.spread:.1%}"
    assert bench.unsteady([steady]) is None


def test_some_runs_are_timed_however_long_they_take(lasting: Runs) -> None:
    (found,) = timing.take_turns([lasting("a", itertools.cycle([50.0, 60.0]))], seconds=1.0)
    assert (found.runs, found.median) == (timing.FEWEST, 55_000)


def test_figures_of_a_hundred_runs() -> None:
    """1 to 100: the median's interval is that of the values at 50 ± 9.8."""
    found = Times.of([float(i) for i in range(100, 0, -1)])
    assert found == Times(50.5, 95.0, pytest.approx((61 - 50.5) / 50.5, abs=1e-4), 100)
    assert Times.of([8.0] * 9, share=0.25) == Times(2.0, 2.0, 0.0, 9)


def test_the_interval_holds_the_median_nineteen_times_in_twenty() -> None:
    """Of a skewed distribution as well, as times are."""
    random = np.random.default_rng(0)
    truth, held = np.log(2), 0
    for _ in range(1000):
        found = Times.of(list(1e3 * random.exponential(size=40)))
        held += abs(1e-3 * found.median - truth) <= 1e-3 * found.spread * found.median
    assert held / 1000 >= 0.95


def test_what_took_the_time_itself_is_believed() -> None:
    """The clock is not asked; further runs before each are not counted."""
    told: list[str] = []

    def run(name: str, ms: float) -> float:
        told.append(name)
        return ms

    first, second = timing.take_turns([lambda: run("a", 8.0), lambda: run("b", 4.0)], 0.0, share=0.5, warm_up=1, lead=1)
    assert (first.median, second.median, first.spread) == (4.0, 2.0, 0.0)
    assert told == ["a", "b", *["a", "a", "b", "b"] * timing.FEWEST]
