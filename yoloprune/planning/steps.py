"""The steps in which ties of groups can shrink, branches go, and the order in which they are taken; numbers only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from yoloprune.planning.branch import Branch, removed
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.price import Price
from yoloprune.planning.tie import Tie
from yoloprune.settings.budget import Limits


@dataclass(frozen=True)
class Steps:
    """All allowed steps in the order in which they are taken, each array of shape (steps,).

    Attributes:
        tie (np.ndarray): Which tie shrinks; behind the last one which branch goes.
        unit (np.ndarray): To which unit; 0 of a branch, which has one.
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


@dataclass(frozen=True)
class Worth:
    """What is lost with each item.

    Attributes:
        channels (np.ndarray): Importance of each channel class, shape (classes,).
        branches (np.ndarray): Importance of each branch, shape (branches,).
    """

    channels: np.ndarray
    branches: np.ndarray

    def lost(self, graph: ChannelGraph, alive: np.ndarray) -> float:
        """Importance of what is gone where some classes stay, mask of shape (classes,); of a branch its own, whatever
        was in it.
        """
        lost, rest = 0.0, ~alive
        gone = removed(graph.branches, graph.widths(alive))
        for branch, own in zip(graph.branches, self.branches, strict=True):
            if branch in gone:
                rest = rest & ~np.isin(graph.group_of, branch.groups)
                lost += float(own)
        return lost + float(self.channels[rest].sum())


@dataclass(frozen=True)
class _Step:
    """One step.

    Attributes:
        rank (float): When it is taken, lowest first.
        item (int): Index of a tie, or behind the ties of a branch.
        unit (int): What stays of it.
        gone (np.ndarray): Channel classes that go with it.
    """

    rank: float
    item: int
    unit: int
    gone: np.ndarray


def in_order(graph: ChannelGraph, waiting: list[list[np.ndarray]], worth: Worth, limits: Limits, price: Price) -> Steps:
    """All steps, cheapest first.

    Args:
        graph (ChannelGraph): The traced channels.
        waiting (list[list[np.ndarray]]): From `queues`.
        worth (Worth): What is lost with channels and branches.
        limits (Limits): Rounding, floors and ceilings per group, and whether branches may go.
        price (Price): What goes with them.
    """
    found = [] if limits.depth == "only" else list(_narrowing(graph, waiting, worth.channels, limits, price.channel))
    found.sort(key=lambda step: step.rank)  # stable: steps of one tie stay in order
    if limits.depth:
        found += [
            _Step(_rank(graph, branch, lost, found, worth.channels, limits, price), len(graph.ties) + k, 0, np.empty(0))
            for k, (branch, lost) in enumerate(zip(graph.branches, worth.branches, strict=True))
            if np.isfinite(lost) and all(graph.groups[g].ceiling is None for g in branch.groups)
        ]
        found.sort(key=lambda step: step.rank)
    return Steps(np.array([s.item for s in found], dtype=int), np.array([s.unit for s in found], dtype=int))


def _narrowing(
    graph: ChannelGraph, waiting: list[list[np.ndarray]], scores: np.ndarray, limits: Limits, price: np.ndarray
) -> Iterator[_Step]:
    """The steps of all ties, each in order."""
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
            yield _Step(highest, t, unit, gone)
            previous = unit


def _rank(
    graph: ChannelGraph,
    branch: Branch,
    lost: float,
    steps: list[_Step],
    scores: np.ndarray,
    limits: Limits,
    price: Price,
) -> float:
    """When a branch goes: as soon as what is left of it is worth no more for its price than the next step.

    Its channels go one after the other until then, those first that are worth least; they take their share of its
    importance and of its price along. `uniform` takes the same share of every width, so all of one comes last.
    """
    if limits.uniform:
        return 1.0
    inside = np.isin(graph.group_of, branch.groups)
    whole, left, rank = float(scores[inside].sum()), 1.0, -np.inf
    widths = price.cost.full.copy()
    for step in steps:
        gone = step.gone[inside[step.gone]]
        if not len(gone):
            continue
        if lost * left / max(price.branch(branch, widths), 1e-12) <= step.rank:
            break
        rank = step.rank
        np.subtract.at(widths, graph.group_of[gone], 1)
        left = max(left - float(scores[gone].sum()) / whole, 0.0) if np.isfinite(whole) and whole > 0 else left
    return float(max(rank, lost * left / max(price.branch(branch, widths), 1e-12)))


def allowed(tie: Tie, limits: Limits, graph: ChannelGraph) -> list[int]:
    """Units that a tie may shrink to, widest first, without the full one."""
    units = []
    ceilings = [graph.groups[g].ceiling for g in tie.groups]
    most = min(limits.max_ratio if ceiling is None else ceiling for ceiling in ceilings)
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
    """Take back single steps, most important first, while the budget still holds: the last step overshoots.

    Args:
        units (np.ndarray): Of each tie, and behind them of each branch, what stays, shape (ties + branches,).
        steps (Steps): From `in_order`.
        taken (int): How many of them were taken.
        full (np.ndarray): What stays where none was, as `units`.
        fits (Callable): From units to whether the budget holds.

    Returns:
        (np.ndarray): What stays then, as `units`.
    """
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
    """Mask of the surviving classes, shape (classes,), when every tie has shrunk to so many units, shape (ties,), or
    with one more per branch, 0 where it is gone, shape (ties + branches,).
    """
    alive = np.ones(graph.n_classes, dtype=bool)
    for tie, parts, unit in zip(graph.ties, waiting, units, strict=False):
        for part in parts:
            alive[part[: len(part) // tie.units * (tie.units - unit)]] = False
    for branch, unit in zip(graph.branches, units[len(graph.ties) :], strict=False):
        if not unit:
            alive[np.isin(graph.group_of, branch.groups)] = False
    return alive
