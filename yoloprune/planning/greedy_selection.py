"""Scores and costs to a choice of channels. Sees numbers only, never a module.

Every tie of groups can shrink in allowed steps (`round_to`, `min_width`, `max_ratio`), and with `depth` every residual
branch can go. All steps, sorted by the score of what they remove, form one list; a plan is a prefix of it, and costs
fall along the list, so the prefix that meets a budget is found by bisection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yoloprune.errors import BudgetError
from yoloprune.planning import steps
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.price import Price
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.value_kinds import write_amount

KINDS = {"flops": "flops", "params": "params", "ratio": "channels", "latency": "time"}


class OutOfReachError(BudgetError):
    """A budget that the limits do not let a model meet.

    Attributes:
        key (str): Which one: "flops", "params", "ratio" or "latency".
        limits (str): What bounds it.
        least (float): Share of the parent that stays at least; of "ratio" the largest that goes.
        why (str): What holds channels, as a sentence.
    """

    def __init__(self, said: str, *, key: str = "", limits: str = "", least: float = 0.0, why: str = "") -> None:
        super().__init__(said)  # alone, so that it can be sent from another process
        self.key, self.limits, self.least, self.why = key, limits, least, why

    def because(self, more: str) -> OutOfReachError:
        """The same error with another sentence behind it."""
        self.args, self.why = (f"{self} {more}",), f"{self.why} {more}"
        return self


def select(
    graph: ChannelGraph,
    scores: np.ndarray,
    budget: Budget,
    limits: Limits,
    cost: Cost | None = None,
    *,
    per_cost: bool = False,
    branches: np.ndarray | None = None,
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
            Of several budgets the one that binds sets the cost. Without effect where all groups give the same share.
        branches (np.ndarray | None): Importance of each branch of the graph, shape (branches,), in the unit in which
            scores add up; None where none may go.

    Returns:
        (np.ndarray): Mask of the surviving classes, shape (classes,).

    Raises:
        BudgetError: If the budget is out of reach; the message says how far it can go and what holds it.
    """
    cost = cost or Cost(graph)
    worth = steps.Worth(scores, np.full(len(graph.branches), np.inf) if branches is None else branches)
    search = _Search(graph, cost, steps.queues(graph, scores), worth, limits, budget)
    caps = _caps(cost, budget)
    if "channels" in caps and not cost.parent("channels"):  # of nothing any share would be met
        why = held(graph) or "nothing, there is no layer of weights"
        raise BudgetError(f"ratio={budget.ratio} is out of reach: no channel can be pruned. Held by: {why}.")
    if not per_cost:
        return search.run(caps, Price(cost))
    if len(caps) < 2:
        return search.run(caps, Price(cost, {next(iter(caps), "channels"): 1.0}))
    return _of_several(search, caps)


def _of_several(search: _Search, caps: dict[str, float]) -> np.ndarray:
    """Choose per cost under several budgets, which price a channel differently.

    Where the choice for one of them alone meets the others as well, that one sets the price: the others cost nothing.
    Where none does, several hold things back, and a channel is worth what it saves of each, as a share of what has to
    be saved of it (the surrogate multipliers of the knapsack with several constraints).
    """
    cost = search.cost
    alone = [search.run({kind: cap}, Price(cost, {kind: 1.0})) for kind, cap in caps.items()]
    enough = [alive for alive in alone if search.fits(search.graph.widths(alive), caps)]
    if enough:
        return min(enough, key=lambda alive: search.worth.lost(search.graph, alive))
    needed = {kind: cost.parent(kind) - cap for kind, cap in caps.items()}
    return search.run(caps, Price(cost, {kind: 1 / need for kind, need in needed.items() if need > 0}))


@dataclass(frozen=True)
class _Search:
    """The search for the prefix of all steps that meets some budgets.

    Attributes:
        graph (ChannelGraph): The traced channels.
        cost (Cost): Cost functions of the graph.
        waiting (list[list[np.ndarray]]): From `steps.queues`.
        worth (Worth): What is lost with channels and branches.
        limits (Limits): Rounding, floors and ceilings per group.
        budget (Budget): What an error names.
    """

    graph: ChannelGraph
    cost: Cost
    waiting: list[list[np.ndarray]]
    worth: steps.Worth
    limits: Limits
    budget: Budget

    def run(self, caps: dict[str, float], price: Price) -> np.ndarray:
        """Mask of the surviving classes, shape (classes,)."""
        graph, cost = self.graph, self.cost
        listed = steps.in_order(graph, self.waiting, self.worth, self.limits, price)
        full = np.array([*(t.units for t in graph.ties), *(1 for _ in graph.branches)])

        def fits(units: np.ndarray) -> bool:
            return self.fits(_widths(graph, cost, units), caps)

        def after(n: int) -> np.ndarray:
            units: np.ndarray = full.copy()
            np.minimum.at(units, listed.tie[:n], listed.unit[:n])
            return units

        low, high = 0, len(listed.tie)
        if not fits(after(high)):
            raise _out_of_reach(graph, cost, after(high), caps, self.limits, self.budget)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(after(middle)) else (middle + 1, high)
        return steps.survivors(graph, self.waiting, steps.refill(after(low), listed, low, full, fits))

    def fits(self, widths: np.ndarray, caps: dict[str, float]) -> bool:
        """Whether widths, shape (groups,), meet the budgets."""
        return all(self.cost.of(kind, widths) <= cap * (1 + 1e-9) for kind, cap in caps.items())


def dead_only(graph: ChannelGraph, dead: np.ndarray) -> np.ndarray:
    """Survivors when only dead channels go: as many as ties allow, and never the last of a group.

    Args:
        graph (ChannelGraph): The traced channels.
        dead (np.ndarray): Mask of the dead classes, shape (classes,).

    Returns:
        (np.ndarray): Mask of the surviving classes, shape (classes,).
    """
    waiting = steps.queues(graph, (~dead).astype(float))
    units = []
    for tie, parts in zip(graph.ties, waiting, strict=True):
        free = min(int(np.logical_and.accumulate(dead[part]).sum()) * tie.units // len(part) for part in parts)
        least = tie.units - min(free, tie.units - 1)
        units.append(least if tie.allowed is None else min((u for u in tie.allowed if u >= least), default=tie.units))
    return steps.survivors(graph, waiting, np.array(units, dtype=int))


def _caps(cost: Cost, budget: Budget) -> dict[str, float]:
    caps = {}
    for name, kind in KINDS.items():
        value = getattr(budget, name, None)  # only some budgets have a time
        if value is not None:
            share = 1 - value if name == "ratio" else value
            caps[kind] = share * cost.parent(kind) if share <= 1 else share
    return caps


def _widths(graph: ChannelGraph, cost: Cost, units: np.ndarray) -> np.ndarray:
    widths: np.ndarray = cost.full.copy()
    for tie, unit in zip(graph.ties, units, strict=False):
        widths[list(tie.groups)] = tie.widths(int(unit))
    for branch, unit in zip(graph.branches, units[len(graph.ties) :], strict=True):
        if not unit:
            widths[list(branch.groups)] = 0
    return widths


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
    narrow = [1 if limits.depth != "only" else tie.units for tie in graph.ties]
    narrowest = _widths(graph, cost, np.array([*narrow, *(int(not limits.depth) for _ in graph.branches)], dtype=int))
    asked, least, alone = (x / cost.parent(kind) for x in (caps[kind], cost.of(kind, widths), cost.of(kind, narrowest)))
    asked, least, alone = (1 - x if key == "ratio" else x for x in (asked, least, alone))
    bounds = f"{'remove at most' if key == 'ratio' else 'leave at least'} {least:.3g} (without the limits {alone:.3g})"
    wanted = getattr(budget, key)
    said = f"{asked:.3g} of the parent" if wanted <= 1 else f"{write_amount(wanted)}, {asked:.3g} of the parent,"
    if limits.depth == "only" and not graph.branches:
        return BudgetError(f"{key}={said} is out of reach: depth=only, and no residual branch was found that could go.")
    depth = f"depth={limits.depth}, " if limits.depth else ""
    rounding = f"{depth}round_to={limits.round_to}, min_width={limits.min_width}"
    told = f"{rounding}, max_ratio={limits.max_ratio:g} and frozen layers"
    why = f"Held by: {held(graph) or 'the limits alone'}."
    return OutOfReachError(
        f"{key}={said} is out of reach: {told} {bounds}. {why}", key=key, limits=told, least=least, why=why
    )
