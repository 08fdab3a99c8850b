"""Scores and costs to a choice of channels. Sees numbers only, never a module.

Every tie of groups can shrink in allowed steps (`round_to`, `min_width`, `max_ratio`). The steps of all ties, sorted
by the score of what they remove, form one list; a plan is a prefix of it, and costs fall along the list, so the prefix
that meets a budget is found by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yoloprune.cost import Cost
from yoloprune.errors import BudgetError
from yoloprune.groups import ChannelGraph, Tie
from yoloprune.limits import Budget, Limits
from yoloprune.values import write_amount

KINDS = {"flops": "flops", "params": "params", "ratio": "channels"}


@dataclass(frozen=True)
class Steps:
    """All allowed steps of all ties in the order in which they are taken, each array of shape (steps,).

    Attributes:
        tie (np.ndarray): Which tie shrinks.
        unit (np.ndarray): To which unit.
    """

    tie: np.ndarray
    unit: np.ndarray


def select(
    graph: ChannelGraph,
    scores: np.ndarray,
    budget: Budget,
    limits: Limits,
    cost: Cost | None = None,
    *,
    per_cost: bool = False,
) -> np.ndarray:
    """Choose the channel classes that stay so that every budget holds.

    Args:
        graph (ChannelGraph): The traced channels.
        scores (np.ndarray): Importance of each channel class, shape (classes,); the lowest go first.
        budget (Budget): What may remain, as fractions of the parent or absolute numbers.
        limits (Limits): Rounding, floors and ceilings per group.
        cost (Cost): Cost functions of the graph, built when not given.
        per_cost (bool): Rank by score per unit of cost saved instead of by score: the greedy answer to the knapsack
            "lose as little as possible for this budget", right when scores add up, as first-order Taylor scores do.
            Without effect where all groups give the same share.

    Returns:
        (np.ndarray): Mask of the surviving classes, shape (classes,).

    Raises:
        BudgetError: If the budget is out of reach; the message says how far it can go and what holds it.
    """
    cost = cost or Cost(graph)
    queues = [_queues(graph, tie, scores) for tie in graph.ties]
    caps = _caps(cost, budget)
    price = cost.slope(next(iter(caps), "channels")) if per_cost else np.ones(len(graph.groups))
    steps = _steps(graph, queues, scores, limits, price)
    full = np.array([t.units for t in graph.ties])

    def fits(units: np.ndarray) -> bool:
        widths = _widths(graph, cost, units)
        return all(cost.of(kind, widths) <= cap * (1 + 1e-9) for kind, cap in caps.items())

    def after(n: int) -> np.ndarray:
        units = full.copy()
        np.minimum.at(units, steps.tie[:n], steps.unit[:n])
        return units

    low, high = 0, len(steps.tie)
    if not fits(after(high)):
        raise _out_of_reach(graph, cost, after(high), caps, limits, budget)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(after(middle)) else (middle + 1, high)
    units = _refill(after(low), steps, low, full, fits)
    return _survivors(graph, queues, units)


def dead_only(graph: ChannelGraph, dead: np.ndarray) -> np.ndarray:
    """Survivors when only dead channels go: as many as ties allow, and never the last of a group.

    Args:
        graph (ChannelGraph): The traced channels.
        dead (np.ndarray): Mask of the dead classes, shape (classes,).

    Returns:
        (np.ndarray): Mask of the surviving classes, shape (classes,).
    """
    queues = [_queues(graph, tie, (~dead).astype(float)) for tie in graph.ties]
    units = []
    for tie, parts in zip(graph.ties, queues, strict=True):
        free = min(int(np.logical_and.accumulate(dead[part]).sum()) * tie.units // len(part) for part in parts)
        least = tie.units - min(free, tie.units - 1)
        units.append(least if tie.allowed is None else min((u for u in tie.allowed if u >= least), default=tie.units))
    return _survivors(graph, queues, np.array(units, dtype=int))


def _queues(graph: ChannelGraph, tie: Tie, scores: np.ndarray) -> list[np.ndarray]:
    """Classes of a tie in the order in which they go, least important first, of each group and each attention."""
    groups = [(c := graph.classes(g))[np.argsort(scores[c], kind="stable")] for g in tie.shrinking]
    for heads in tie.heads:  # which go as a whole
        classes = [np.concatenate([graph.classes(g) for g in head]) for head in heads]
        order = np.argsort([scores[c].sum() for c in classes], kind="stable")
        groups.append(np.concatenate([classes[h] for h in order]))
    return groups


def _steps(
    graph: ChannelGraph, queues: list[list[np.ndarray]], scores: np.ndarray, limits: Limits, price: np.ndarray
) -> Steps:
    """All steps; `price` is the cost of one channel of each group, shape (groups,)."""
    found: list[tuple[float, int, int]] = []
    for t, (tie, parts) in enumerate(zip(graph.ties, queues, strict=True)):
        previous, highest = tie.units, -np.inf
        for unit in allowed(tie, limits):
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


def allowed(tie: Tie, limits: Limits) -> list[int]:
    """Units that a tie may shrink to, widest first, without the full one."""
    units = []
    for unit in range(tie.units - 1, 0, -1) if tie.allowed is None else sorted(tie.allowed, reverse=True):
        widths = [size // tie.units * unit for size in tie.shrinking.values()]  # a head that stays keeps its widths
        if (
            all(w % limits.round_to == 0 for w in widths)
            and all(w >= limits.min_width for w in widths)
            and unit >= (1 - limits.max_ratio) * tie.units - 1e-9
        ):
            units.append(unit)
    return units


def _caps(cost: Cost, budget: Budget) -> dict[str, float]:
    caps = {}
    for name, kind in KINDS.items():
        value = getattr(budget, name)
        if value is not None:
            share = 1 - value if name == "ratio" else value
            caps[kind] = share * cost.parent(kind) if share <= 1 else share
    return caps


def _widths(graph: ChannelGraph, cost: Cost, units: np.ndarray) -> np.ndarray:
    widths = cost.full.copy()
    for tie, unit in zip(graph.ties, units, strict=True):
        widths[list(tie.groups)] = tie.widths(int(unit))
    return widths


def _refill(units: np.ndarray, steps: Steps, taken: int, full: np.ndarray, fits) -> np.ndarray:  # type: ignore[no-untyped-def]
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


def _survivors(graph: ChannelGraph, queues: list[list[np.ndarray]], units: np.ndarray) -> np.ndarray:
    alive = np.ones(graph.n_classes, dtype=bool)
    for tie, parts, unit in zip(graph.ties, queues, units, strict=True):
        for part in parts:
            alive[part[: len(part) // tie.units * (tie.units - unit)]] = False
    return alive


def held(graph: ChannelGraph) -> str:
    """The three reasons that hold most channels, in words; empty where none is held."""
    frozen: dict[str, int] = {}
    for g in graph.groups:
        if g.frozen:
            frozen[g.frozen] = frozen.get(g.frozen, 0) + g.size
    return "; ".join(f"{n} channels: {why}" for why, n in sorted(frozen.items(), key=lambda kv: -kv[1])[:3])


def _out_of_reach(
    graph: ChannelGraph, cost: Cost, units: np.ndarray, caps: dict[str, float], limits: Limits, budget: Budget
) -> BudgetError:
    widths = _widths(graph, cost, units)
    kind = next(k for k, cap in caps.items() if cost.of(k, widths) > cap)
    key = next(name for name, k in KINDS.items() if k == kind)
    narrowest = _widths(graph, cost, np.ones(len(graph.ties)))
    asked, least, alone = (x / cost.parent(kind) for x in (caps[kind], cost.of(kind, widths), cost.of(kind, narrowest)))
    asked, least, alone = (1 - x if key == "ratio" else x for x in (asked, least, alone))
    bounds = f"{'remove at most' if key == 'ratio' else 'leave at least'} {least:.3g} (without the limits {alone:.3g})"
    wanted = getattr(budget, key)
    asked = f"{asked:.3g} of the parent" if wanted <= 1 else f"{write_amount(wanted)}, {asked:.3g} of the parent,"
    return BudgetError(
        f"{key}={asked} is out of reach: round_to={limits.round_to}, min_width={limits.min_width}, "
        f"max_ratio={limits.max_ratio:g} and frozen layers {bounds}. Held by: {held(graph) or 'the limits alone'}."
    )
