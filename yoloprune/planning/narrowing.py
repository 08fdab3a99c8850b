"""Groups narrowed one at a time, all others as they are: which widths are tried, and who survives."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from yoloprune.planning import steps
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.tie import Tie


@dataclass(frozen=True)
class Narrowing:
    """One width of one tie, i.e. of a group and those that keep its proportion.

    Attributes:
        tie (int): Which one.
        unit (int): How many of its equal steps stay.
        asked (float): The share that was asked for, to which this is the nearest.
    """

    tie: int
    unit: int
    asked: float


def narrowings(graph: ChannelGraph, shares: Sequence[float], ties: Collection[int] | None = None) -> list[Narrowing]:
    """All widths to try, in the order of the network, wide before narrow; what two shares come to is tried once.

    Args:
        graph (ChannelGraph): The traced channels.
        shares (Sequence[float]): Shares of the channels that stay, in (0, 1).
        ties (Collection[int] | None): Which ones, None for all.
    """
    found = []
    for t, tie in enumerate(graph.ties):
        if ties is not None and t not in ties:
            continue
        seen = {tie.units}
        for share in sorted(shares, reverse=True):
            unit = _nearest(tie, share)
            if unit is not None and unit not in seen:
                seen.add(unit)
                found.append(Narrowing(t, unit, share))
    return found


def _nearest(tie: Tie, share: float) -> int | None:
    """The unit that leaves a share best, of two the wider; None where nothing may go."""
    units = range(1, tie.units) if tie.allowed is None else tie.allowed
    return min(units, key=lambda unit: (round(abs(unit / tie.units - share), 9), -unit), default=None)


def survivors(graph: ChannelGraph, scores: np.ndarray, one: Narrowing) -> np.ndarray:
    """Mask of the surviving classes, shape (classes,), where one tie is narrowed and its least important channels go.

    Args:
        graph (ChannelGraph): The traced channels.
        scores (np.ndarray): Importance of each channel class, shape (classes,).
        one (Narrowing): What is narrowed.
    """
    units = np.array([tie.units for tie in graph.ties])
    units[one.tie] = one.unit
    return steps.survivors(graph, steps.queues(graph, scores), units)


def makers(graph: ChannelGraph, tie: int) -> list[str]:
    """Modules that make the channels of a tie, in the order of the network; batch-norms and sums are among them."""
    groups = set(graph.ties[tie].groups)
    named = (
        axis.module
        for axis, classes in zip(graph.axes, graph.class_of, strict=True)
        if axis.side == "outputs" and groups.intersection(graph.group_of[classes].tolist())
    )
    return list(dict.fromkeys(named))
