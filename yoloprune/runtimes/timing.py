"""Time that things take, measured by turns until it is known well enough.

Part of the script that measures on other machines, see `device_folder`: standard library only, and Python 3.8.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WARM_UP = 3
"""Runs of each before the clock starts."""

FEWEST = 6
"""Runs of each that are timed, however long they take: of fewer, least and most do not bound the median at 95 %."""

WELL_KNOWN = 0.01
"""Of a median: where its 95 % interval reaches no further to either side, it is measured."""

OFTEN = 1.2
"""The interval is looked at when there are this many times as many runs as before: sorting costs time as well."""


@dataclass(frozen=True)
class Times:
    """What runs of one thing took.

    Attributes:
        median (float): Milliseconds.
        p95 (float): Milliseconds that 95 of 100 runs do not exceed.
        spread (float): How far the 95 % interval of the median reaches from it, as a fraction of it.
        runs (int): How many were timed.
    """

    median: float
    p95: float
    spread: float
    runs: int

    @classmethod
    def of(cls, found: Sequence[float], share: float = 1.0) -> Times:
        """From milliseconds of single runs, of which a share counts: one image of a batch.

        The interval is that of order statistics, which holds whatever the distribution: n runs fall on either side of
        the true median as a fair coin does, so the one at n/2 ± 1.96 √n/2 bounds it.
        """
        ordered = sorted(found)
        n = len(ordered)
        middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
        reach = 1.96 * math.sqrt(n) / 2
        low, high = ordered[max(math.floor(n / 2 - reach), 0)], ordered[min(math.ceil(n / 2 + reach), n - 1)]
        tail = ordered[min(math.ceil(0.95 * n), n) - 1]
        spread = max(high - middle, middle - low) / middle if middle else 0.0
        return cls(round(share * middle, 3), round(share * tail, 3), round(spread, 4), n)


def take_turns(
    runs: Sequence[Callable[[], float | None]],
    seconds: float,
    share: float = 1.0,
    warm_up: int = WARM_UP,
    lead: int = 0,
) -> list[Times]:
    """Time of each run, all taking turns so that a drifting machine hits all alike.

    Args:
        runs (Sequence[Callable]): Each returns when its work is done: milliseconds where something else took the time,
            None where it is the clock's to tell.
        seconds (float): When to stop although the medians are not known well enough.
        share (float): Of the time of a run that counts, see `Times.of`.
        warm_up (int): Runs of each before the clock starts.
        lead (int): Further runs before each that is timed: where many networks take turns, each finds the caches of the
            processor full of the others, as it does not where it runs alone.

    Returns:
        (list[Times]): In the order of the runs.
    """
    found: list[list[float]] = [[] for _ in runs]
    for run in runs:
        for _ in range(warm_up):
            run()
    end, look = time.perf_counter() + seconds, FEWEST
    while True:
        for i, run in enumerate(runs):
            for _ in range(lead):
                run()
            start = time.perf_counter()
            told = run()
            found[i].append(1e3 * (time.perf_counter() - start) if told is None else told)
        over = time.perf_counter() >= end
        if len(found[0]) < FEWEST or (len(found[0]) < look and not over):
            continue
        measured = [Times.of(times, share) for times in found]
        if over or all(times.spread <= WELL_KNOWN for times in measured):
            return measured
        look = math.ceil(OFTEN * len(found[0]))
