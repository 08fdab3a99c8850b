"""The largest network that takes no longer than wanted.

Time is not FLOPs: small layers are bound by memory and launches. So a wanted time is met by trying: networks of several
shares of the FLOPs, or of the time that is predicted for them, are cut and timed, each taking turns with the parent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from yoloprune.backend import console
from yoloprune.cutting import surgery
from yoloprune.errors import BudgetError
from yoloprune.native.candidates import Choice
from yoloprune.runtimes.bench import Bench
from yoloprune.settings.wanted_time import milliseconds

TRIALS = 10
BRIEFLY, LONGER = 4.0, 8.0  # seconds of a measurement where a median is not known well before
SLACK = 0.02  # of the wanted time: what is faster by more leaves accuracy on the table
SWING = 1.5  # between two measurements of the same network: more is no noise
FINEST = 0.01  # share below which two networks are the same size


@dataclass(frozen=True)
class Timed:
    """A network that was tried.

    Attributes:
        choice (Choice): Its channels.
        now (float): Milliseconds of the parent, taking turns with it.
        ms (float): Its own.
    """

    choice: Choice
    now: float
    ms: float


def meet(parent: nn.Module, wanted: float | str, choose: Callable[[float], Choice], bench: Bench) -> Choice:
    """Choose the largest share whose network takes no longer than wanted.

    Args:
        parent (nn.Module): The model before the cut, stays untouched.
        wanted (float | str): A fraction of the time that it takes now, or a time or rate such as "12ms" and "30fps".
        choose (Callable): From a share of FLOPs or predicted time to the channels that stay; may raise BudgetError.
        bench (Bench): Where the parent runs already, and networks are timed beside it.

    Returns:
        (Choice): Measured twice to take no longer than wanted.

    Raises:
        BudgetError: If the model is fast enough already, or no network is.
    """

    seen: list[float] = []

    def timed(choice: Choice, seconds: float) -> Timed:
        now, ms = bench.time(surgery.cut(copy.deepcopy(parent), choice.plan), seconds=seconds)
        seen.append(now.median)
        return Timed(choice, now.median, ms.median)

    def attempt(share: float) -> Timed | None:
        try:
            found = timed(choose(share), BRIEFLY)
        except BudgetError:
            return None
        if found.ms <= milliseconds(wanted, found.now):
            found = timed(found.choice, LONGER)  # it could have been luck
        kept, where = found.choice.kept()["flops"], bench.deployment
        console.log("prune: ", f"{kept:.1%} of the FLOPs: {found.ms:.2f} ms in {where}, the parent {found.now:.2f}")
        return found

    now = bench.time(seconds=BRIEFLY)[0].median
    if now <= milliseconds(wanted, now):
        raise BudgetError(f"latency={wanted}: the model already takes no longer, {now:.2f} ms in {bench.deployment}.")
    found = search(attempt, wanted, now)
    if max(seen) > SWING * min(seen):
        console.warn(
            f"prune: the parent took {min(seen):.2f} to {max(seen):.2f} ms while networks were timed, so something "
            "else is running on this machine; times can be trusted on an idle one only"
        )
    return found.choice


def judge(wanted: float | str, now: float, ms: float) -> None:
    """Say how the saved network fares against the time that was wanted, and warn if it fails."""
    target = milliseconds(wanted, now)
    said = f"latency={wanted}: {ms:.2f} ms now, {ms / now:.2f} of the parent's {now:.2f}"
    if ms <= target * (1 + SLACK):
        console.log("prune: ", said)
    else:
        console.warn(
            f"prune: {said}, and not what was wanted; on an idle machine times are steadier. Prune again there"
        )


def search(attempt: Callable[[float], Timed | None], wanted: float | str, now: float) -> Timed:
    """Find the largest share of the FLOPs, or of the predicted time, that meets a time, by secants inside a bracket.

    Args:
        attempt (Callable): From a share to what was measured, None where it is out of reach.
        wanted (float | str): See `meet`.
        now (float): Milliseconds of the parent.

    Returns:
        (Timed): The slowest network tried that meets the time.

    Raises:
        BudgetError: If none does; the message says how far it went.
    """
    low, high = 0.0, 1.0
    best: Timed | None = None
    fastest: Timed | None = None
    last = (1.0, now / milliseconds(wanted, now))  # share, time over wanted time
    share = (1 - SLACK / 2) / last[1]
    for _ in range(TRIALS):
        slope = 1.0
        if (found := attempt(share)) is None:
            low = share
        else:
            fastest = found if fastest is None or found.ms / found.now < fastest.ms / fastest.now else fastest
            excess = found.ms / milliseconds(wanted, found.now)
            if excess <= 1:
                best, low = found, share
            else:
                high = share
            if 1 - SLACK <= excess <= 1:
                break
            if share != last[0]:
                slope = (excess - last[1]) / (share - last[0])
            last = (share, excess)
        if high - low < FINEST:
            break
        guess = last[0] + (1 - SLACK / 2 - last[1]) / slope if slope > 0 else low
        margin = (high - low) / 10
        share = min(max(guess, low + margin), high - margin)
    if best is None:
        reached = "" if fastest is None else f": the fastest network that was found takes {fastest.ms:.2f} ms"
        raise BudgetError(
            f"latency={wanted} is out of reach{reached}, the parent {now:.2f}. What may not become narrower holds it: "
            "see min_width=, max_ratio= and keep=."
        )
    return best
