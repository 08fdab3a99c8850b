"""Which channels `prune` takes out: the least useful ones under a budget, or exactly the dead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import ultralytics

from yoloprune.backend import console, records
from yoloprune.backend.yaml_markers import STATE_KEY
from yoloprune.errors import BudgetError
from yoloprune.importance import dead_channels
from yoloprune.native import candidates
from yoloprune.planning import greedy_selection
from yoloprune.planning.time_model import TimedBudget, TimeModel
from yoloprune.repair import constant_folding
from yoloprune.runtimes.bench import Bench
from yoloprune.selection import latency_search, ranking, time_profile
from yoloprune.selection.calibration import Calibration
from yoloprune.selection.device_times import DeviceTimes
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.requests import PruneRequest

NOTABLE = 1.25
"""Times as much importance as free widths lose, from which on native ones are not taken without a word."""

MANY = 10
"""More often is only said to be more: what free widths lose may be next to nothing."""


def prepared(
    parent: ultralytics.YOLO, request: PruneRequest, imgsz: int, times: DeviceTimes | None = None
) -> candidates.Channels | candidates.Choice:
    """What can be cut, looked at before any image is: where exactly the dead go that is the choice.

    Args:
        parent (YOLO): The model before the cut.
        request (PruneRequest): The budgets, and what the choice must respect.
        imgsz (int): Image size for which FLOPs are counted.
        times (DeviceTimes | None): What was measured elsewhere, for a wanted time.

    Raises:
        ArgumentError: If `keep=` or `layers=` name nothing.
        BudgetError: If a budget is out of reach or met already, or nothing is dead and neither a budget nor classes are
            given.
        DataError: If the times are of another network.
    """
    if not request.budgeted:
        if request.limits.depth:
            console.warn("prune: depth= is left aside: without a budget exactly the dead channels go, and no branch")
        return _all_but_the_dead(parent, request.limits, imgsz, or_nothing=request.classes is not None)
    found = candidates.Channels(parent.model, request.limits, imgsz)
    if times is not None and request.latency is not None:
        times.require(found.graph, imgsz)
        times.share(request.latency)
    if not request.budget.empty:
        found.require_reach(request.budget)
    return found


def choose(
    parent: ultralytics.YOLO,
    request: PruneRequest,
    sight: Calibration,
    ready: candidates.Channels | candidates.Choice,
    clock: Bench | DeviceTimes | None = None,
) -> tuple[candidates.Choice, ranking.Ranking | None]:
    """Decide which channels stay: under the budgets, or without one all but the dead.

    Args:
        parent (YOLO): The model before the cut.
        request (PruneRequest): The budgets, and what the choice must respect.
        sight (Calibration): What scores look at.
        ready (Channels | Choice): From `prepared`.
        clock (Bench | DeviceTimes | None): Where the parent runs, or what was measured elsewhere, for a wanted time.

    Returns:
        (tuple[Choice, Ranking | None]): For `cut_and_repair.cut`, and in which order channels went, if there is one.

    Raises:
        BudgetError: If the budget is out of reach.
    """
    if isinstance(ready, candidates.Choice):
        return ready, None
    order = ranking.rank(parent, ready.graph, request.criterion, request.limits, sight)
    choice = _within(parent, request, ready, order, clock)
    if request.limits.native is None and request.latency is None and not request.budget.empty:
        _tell_what_rows_cost(ready, order, choice, request.budget)
    dead = dead_channels.dead(parent.model, ready.graph)
    if sight.drawn and request.criterion.score == "auto" and (~choice.alive & ~dead).any():
        ranking.warn_of_no_data(parent, sight)
    stay = dead & choice.alive
    if stay.any() and STATE_KEY in parent.model.yaml:
        console.warn(
            f"prune: {stay.sum()} dead channels stay, because the budget is met without them; without a budget exactly "
            "the dead go, which costs nothing"
        )
    return choice, order


def _within(
    parent: ultralytics.YOLO,
    request: PruneRequest,
    found: candidates.Channels,
    order: ranking.Ranking,
    clock: Bench | DeviceTimes | None,
) -> candidates.Choice:
    """The most important channels within the budgets, of time as well where there is a clock."""
    wanted, latency = request.budget, request.latency

    def under(budgets: Budget) -> candidates.Choice:
        return found.choose(lambda graph: order.select(graph, budgets))

    def timed(share: float, times: TimeModel) -> candidates.Choice:
        budget = TimedBudget(params=wanted.params, ratio=wanted.ratio, latency=share)
        return found.choose(lambda graph: order.select(graph, budget, times))

    if latency is not None and isinstance(clock, DeviceTimes):
        share, times = clock.share(latency), clock.learnt(parent.model, found.graph)
        time_profile.tell_of_steps(times, request.limits)
        try:
            return timed(share, times)
        except BudgetError as e:
            raise BudgetError(f"{e} The parent takes {clock.ms:.2f} ms in {clock}.") from None
    if latency is not None and isinstance(clock, Bench):
        if order.per_cost:  # else what a channel costs has no say in which one goes
            times = time_profile.learnt(parent.model, found.graph, request.limits, clock)
            if times.error <= time_profile.TRUSTED:
                time_profile.tell_of_steps(times, request.limits)
                return latency_search.meet(parent.model, latency, lambda share: timed(share, times), clock)
        return latency_search.meet(parent.model, latency, lambda share: under(replace(wanted, flops=share)), clock)
    return under(wanted)


def _tell_what_rows_cost(
    found: candidates.Channels, order: ranking.Ranking, choice: candidates.Choice, wanted: Budget
) -> None:
    """Say where free widths would lose much less under the same budget, and which layers hold native ones."""
    if choice.described is None or found.native is None:
        return
    free = order.select(found.graph, wanted)
    lost, least = order.lost(choice.graph, choice.alive), order.lost(found.graph, free)
    if lost <= NOTABLE * least:
        return
    times = f"{lost / least:.1f}" if lost < MANY * least else f"over {MANY}"
    narrower = {g for g in range(len(found.graph.groups)) if not free[found.graph.classes(g)].all()}
    held = [g for g in narrower if found.native.groups[g].frozen and not found.graph.groups[g].frozen]
    where = ", ".join(found.graph.names.of(found.graph.groups[g].axes[0].rpartition(".")[0]) for g in sorted(held))
    console.warn(
        f"prune: widths that a model YAML can say lose {times} times the importance that free ones would"
        + (f"; it can say no other width of {where}" if where else "")
        + ". native=False frees them; yoloprune finetune trains such a model, stock 'yolo train' stops with an error"
    )


def _all_but_the_dead(
    parent: ultralytics.YOLO, limits: Limits, imgsz: int, *, or_nothing: bool = False
) -> candidates.Choice:
    """Take out what sparse training silenced, under the limits that it silenced them under.

    With `or_nothing` a network without dead channels keeps all of them, and its YAML.
    """
    state = parent.model.yaml.get(STATE_KEY)
    if state is not None:
        lived = records.sparse_config(state).limits
        lived = replace(lived, keep=(*lived.keep, *limits.keep))
        lived = lived if limits.native is None else replace(lived, native=limits.native)
        if replace(limits, keep=(), native=None, depth=False) not in (Limits(), replace(lived, keep=(), native=None)):
            console.warn("prune: without a budget round_to, min_width and max_ratio are those of the sparse training")
        limits = lived
    found = candidates.Channels(parent.model, limits, imgsz)
    dead = dead_channels.dead(parent.model, found.graph)
    choice, held = _without(found, parent, dead)
    if held.any():
        console.warn(
            f"prune: {held.sum()} dead channels stay: they emit what neither a bias nor a batch-norm behind them can "
            "take over, so the network would change without them"
        )
    if choice.alive.all():
        if or_nothing:
            return candidates.Choice(found.graph, choice.alive, found.probe)
        raise BudgetError(
            f"{dead.sum()} channels are dead, but coupled channels, constants that cannot be moved, keep= or native= "
            "hold them all, so there is nothing to cut. Give native=False, or a budget, e.g. flops=0.5."
            if dead.any()
            else "No channel is dead, so there is nothing to cut. Run 'yoloprune train-sparse' first, or give a "
            "budget, e.g. flops=0.5."
        )
    if state is None:  # silenced by another tool
        reached = candidates.Choice(found.graph, greedy_selection.dead_only(found.graph, dead), found.probe).kept()
    else:
        reached = state["reached"]
        if not state["met"]:
            target = records.sparse_config(state).budget
            console.warn(f"prune: sparse training was stopped before it met {target}; the cut goes as far as it got")
    _compare(reached, choice.kept())
    return choice


def _without(
    found: candidates.Channels, parent: ultralytics.YOLO, dead: np.ndarray
) -> tuple[candidates.Choice, np.ndarray]:
    """All but the dead, and which of these have to stay because nothing could take over what they emit."""
    held = np.zeros_like(dead)
    while True:
        going = dead & ~held
        choice = found.choose(partial(greedy_selection.dead_only, dead=going))
        lost = {} if choice.alive.all() else constant_folding.stranded(parent.model, choice.plan, choice.probe.proving)
        if not lost:
            return choice, held
        held |= constant_folding.held_back(choice.graph, lost)


def _compare(reached: Mapping[str, float], kept: Mapping[str, float]) -> None:
    """Warn where a cut leaves more than the dead channels allow."""
    for kind in ("flops", "params"):
        if kept[kind] > reached.get(kind, 1.0) + 0.01:
            console.warn(
                f"prune: {reached[kind]:.1%} of {kind} are alive, but {kept[kind]:.1%} stay: dead channels remain in "
                "layers that keep= or native= hold; native=False may take them"
            )
            return
