"""The steps in which ties of groups can shrink, and the order in which they are taken; numbers only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.tie import Tie
from yoloprune.settings.budget import Limits


@dataclass(frozen=True)
class Steps:
    """All allowed steps of all ties in the order in which they are taken, each array of shape (steps,).

    Attributes:
        tie (np.ndarray): Which tie shrinks.
        unit (np.ndarray): To which unit.
    """

    tie: np.ndarray
    unit: np.ndarray


def queues(graph: ChannelGraph, scores: np.ndarray) -> list[list[np.ndarray]]:
    """Of each tie, classes in the order in which they go, see `_queue`; `scores` has the shape (classes,)."""
    return [_queue(graph, tie, scores) for tie in graph.ties]


def _queue(graph: ChannelGraph, tie: Tie, scores: np.ndarray) -> list[np.ndarray]:
    """Classes of a tie in the order in which they go, least important first, of each group and each attention."""
    groups = [(c := graph.classes(g))[np.argsort(scores[c], kind="stable")] for g in tie.shrinking]
    for heads in tie.heads:  # which go as a whole
        classes = [np.concatenate([graph.classes(g) for g in head]) for head in heads]
        order = np.argsort([scores[c].sum() for c in classes], kind="stable")
        groups.append(np.concatenate([classes[h] for h in order]))
    return groups


def in_order(
    graph: ChannelGraph, waiting: list[list[np.ndarray]], scores: np.ndarray, limits: Limits, price: np.ndarray
) -> Steps:
    """All steps, cheapest first.

    Args:
        graph (ChannelGraph): The traced channels.
        waiting (list[list[np.ndarray]]): From `queues`.
        scores (np.ndarray): Importance of each channel class, shape (classes,).
        limits (Limits): Rounding, floors and ceilings per group.
        price (np.ndarray): Cost of one channel of each group, shape (groups,).
    """
    found: list[tuple[float, int, int]] = []
    for t, (tie, parts) in enumerate(zip(graph.ties, waiting, strict=True)):
        previous, highest = tie.units, -np.inf
        for unit in allowed(tie, limits, graph):
            each = [len(part) // tie.units for part in parts]
            gone = np.concatenate(
                [p[n * (tie.units - previous) : n * (tie.units - unit)] for p, n in zip(parts, each, strict=True)]
            )
            lost = float(scores[gone].sum()) / max(price[graph.group_of[gone]].sum(), 1e-12)
            if not np.isfinite(lost):
                break  # these channels have no score and stay, and no later step can do without this one
            # A step can only follow the ones before it, so it never comes cheaper than they did. The same share of all
            # is what is gone after a step, so that a width which has to be rounded is rounded up.
            highest = 1 - unit / tie.units if limits.uniform else max(highest, lost)
            found.append((highest, t, unit))
            previous = unit
    found.sort(key=lambda step: step[0])  # stable: steps of one tie stay in order
    return Steps(np.array([s[1] for s in found], dtype=int), np.array([s[2] for s in found], dtype=int))


def allowed(tie: Tie, limits: Limits, graph: ChannelGraph) -> list[int]:
    """Units that a tie may shrink to, widest first, without the full one."""
    units = []
    ceilings = [c for g in tie.groups if (c := graph.groups[g].ceiling) is not None]
    most = min(ceilings, default=limits.max_ratio)
    for unit in range(tie.units - 1, 0, -1) if tie.allowed is None else sorted(tie.allowed, reverse=True):
        widths = [channels // tie.units * unit for channels in tie.channels]  # a head that stays keeps its widths
        if (
            all(w % limits.round_to == 0 for w in widths)
            and all(w >= limits.min_width for w in widths)
            and unit >= (1 - most) * tie.units - 1e-9
        ):
            units.append(unit)
    return units


def with_ceilings(graph: ChannelGraph, shares: Mapping[str, float]) -> ChannelGraph:
    """A graph in which at most a share of what each of these layers puts out may go.

    Args:
        graph (ChannelGraph): The traced channels.
        shares (Mapping[str, float]): By name of the module.
    """
    groups = []
    for group in graph.groups:
        makers = [axis.removesuffix(".outputs") for axis in group.axes if axis.endswith(".outputs")]
        found = [shares[name] for name in makers if name in shares]
        groups.append(replace(group, ceiling=min(found, default=None)))
    return replace(graph, groups=groups)


def refill(
    units: np.ndarray, steps: Steps, taken: int, full: np.ndarray, fits: Callable[[np.ndarray], bool]
) -> np.ndarray:
    """Take back single steps, most important first, while the budget still holds: the last step overshoots."""
    for i in range(taken - 1, -1, -1):
        t = steps.tie[i]
        if units[t] != steps.unit[i]:
            continue
        before = steps.unit[:i][steps.tie[:i] == t]
        trial = units.copy()
        trial[t] = before[-1] if len(before) else full[t]
        if fits(trial):
            units = trial
    return units


def survivors(graph: ChannelGraph, waiting: list[list[np.ndarray]], units: np.ndarray) -> np.ndarray:
    """Mask of the surviving classes, shape (classes,), when every tie has shrunk to so many units, shape (ties,)."""
    alive = np.ones(graph.n_classes, dtype=bool)
    for tie, parts, unit in zip(graph.ties, waiting, units, strict=True):
        for part in parts:
            alive[part[: len(part) // tie.units * (tie.units - unit)]] = False
    return alive
