"""Time that things take, measured by turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

WARM_UP = 3
"""Runs of each before the clock starts."""

FEWEST = 5
"""Runs of each that are timed, however long they take."""


def take_turns(runs: Sequence[Callable[[], None]], seconds: float) -> list[float]:
    """Median time of each run, all taking turns so that a drifting machine hits all alike.

    Args:
        runs (Sequence[Callable]): Each returns when its work is done.
        seconds (float): About how long to measure in all.

    Returns:
        (list[float]): Milliseconds, in the order of the runs.
    """
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        for _ in range(WARM_UP):
            run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < FEWEST:
        for found, run in zip(times, runs, strict=True):
            start = time.perf_counter()
            run()
            found.append(1e3 * (time.perf_counter() - start))
    return [round(median(found), 3) for found in times]
