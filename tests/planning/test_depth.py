"""Whole branches among the items of the selection: what they cost, when they go, what a plan says; all by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import hand_graph

from yoloprune.errors import BudgetError, PlanError
from yoloprune.planning.branch import Branch, holder, removed
from yoloprune.planning.channel_graph import ChannelGraph, Term
from yoloprune.planning.cost import Cost
from yoloprune.planning.greedy_selection import select
from yoloprune.planning.plan import REMOVED, Keep, Plan
from yoloprune.planning.tie import Tie
from yoloprune.settings.budget import Budget, Limits

FREE = Limits(round_to=1, min_width=1, max_ratio=1.0, depth=True)
SCORES = np.array([50.0, 50, 1, 2, 3, 4, 50, 60, 70, 80])
"""Of the stream's two channels, the branch's four, and those of the layer behind it."""


def block(*branches: Branch) -> ChannelGraph:
    """A stream of two channels, a branch `m` of 2 -> 4 -> 2 with a bias behind it, and a layer of 2 -> 4.

    Parameters: 8 and 8 and a bias of 2 in the branch, 8 behind it: 26. A channel of the branch costs 4, of the layer 2.
    """
    inner, stream = [2, 3, 4, 5], [0, 1]
    axes = {
        "s.outputs": stream,
        "m.a.outputs": inner,
        "m.a.inputs": stream,
        "m.b.outputs": stream,
        "m.b.inputs": inner,
        "o.outputs": [6, 7, 8, 9],
        "o.inputs": stream,
    }
    params = [Term(1.0, (1, 2)), Term(1.0, (3, 4)), Term(1.0, (3,)), Term(1.0, (5, 6))]
    graph = hand_graph(axes, [0, 0, 1, 1, 1, 1, 2, 2, 2, 2], frozen={0: "stays"}, params=params, flops=params)
    return replace(graph, branches=branches or (Branch("m", (1,)),))


def left(params: int) -> Budget:
    """A budget of so many of the 26 parameters."""
    return Budget(params=params / 26)


def chosen(wanted: Budget, worth: float, limits: Limits = FREE, *, per_cost: bool = True) -> list[int]:
    """Widths of the branch and of the layer behind it, if the branch is worth so much."""
    graph = block()
    alive = select(graph, SCORES, wanted, limits, per_cost=per_cost, branches=np.array([worth]))
    graph.plan(alive)
    return graph.widths(alive).tolist()[1:]


def test_what_lies_in_a_branch() -> None:
    branch = Branch("model.2.m.1", (0,))
    assert all(branch.holds(name) for name in ("model.2.m.1", "model.2.m.1.cv1.conv", "model.2.m.1 constant 3"))
    assert not any(branch.holds(name) for name in ("model.2.m.10", "model.2.m", "model.2.m.11.cv1"))
    assert holder([branch], "model.2.m.1.cv1") is branch and holder([branch], "model.2") is None


def test_a_branch_is_removed_once_all_of_its_groups_are_empty() -> None:
    outer, inner = Branch("m", (1, 2)), Branch("m.inner", (2,))
    assert removed([outer, inner], np.array([4, 0, 0])) == [outer]
    assert removed([outer, inner], np.array([4, 3, 0])) == [inner]
    assert removed([outer, inner], np.array([4, 0, 3])) == []


def test_a_removed_branch_costs_nothing_not_even_its_bias() -> None:
    cost = Cost(block())
    assert cost.parent("params") == 26
    assert cost.of("params", np.array([2.0, 1, 4])) == 2 + 2 + 2 + 8
    assert cost.of("params", np.array([2.0, 0, 4])) == 8
    assert cost.axes(np.array([2.0, 0, 4])).tolist() == [2, 0, 0, 0, 0, 4, 2]
    assert cost.by_module("params", np.array([2.0, 0, 4])) == {"m.a": 0, "m.b": 0, "o": 8}


def test_what_is_added_up_without_a_branch_costs_once() -> None:
    graph = block(Branch("m", (1,), ((6, (1,)),)))  # the layer reads one channel instead of two
    assert Cost(graph).of("params", np.array([2.0, 0, 4])) == 4
    assert Cost(graph).of("params", np.array([2.0, 1, 4])) == 14


@pytest.mark.parametrize(
    ("worth", "params", "kept"),
    [
        (4.0, 25, [0, 4]),  # 4 / 18 is less than 1 / 4, the channel that is worth least for its price
        (9.0, 22, [3, 4]),  # 9 / 18 is more, so channels go first: 1 / 4,
        (9.0, 18, [2, 4]),  # 2 / 4; what is left is worth 9 * 7 / 10 and costs 2 * 4 + 2,
        (9.0, 17, [0, 4]),  # and 0.63 is less than 3 / 4
        (100.0, 14, [1, 4]),  # (100 * 4 / 10) / 6 is more than all of the branch's own, and less than 50 / 2
        (100.0, 13, [0, 4]),
        (1e6, 8, [1, 1]),  # its floor: 14 with 4, less 2 for each of three
    ],
)
def test_a_branch_goes_when_what_is_left_of_it_is_worth_least_for_its_price(
    worth: float, params: int, kept: list[int]
) -> None:
    assert chosen(left(params), worth) == kept


def test_by_score_alone_a_branch_counts_by_channel() -> None:
    assert chosen(Budget(ratio=0.4), 3.9, per_cost=False) == [0, 4]  # 3.9 / 4 is less than 1
    assert chosen(Budget(ratio=0.4), 1e3, per_cost=False) == [1, 3]


def test_depth_is_asked_for() -> None:
    assert chosen(left(20), 0.0, replace(FREE, depth=False)) == [2, 4]
    graph = block()
    alive = select(graph, SCORES, left(20), FREE, per_cost=True)  # no importance, no item
    assert graph.widths(alive).tolist() == [2, 2, 4]


def test_only_branches() -> None:
    only = replace(FREE, depth="only")
    assert chosen(left(20), 1e6, only) == [0, 4]
    with pytest.raises(BudgetError, match=r"depth=only, .* leave at least 0.308 \(without the limits 0.308\)"):
        chosen(left(7), 1e6, only)
    with pytest.raises(BudgetError, match=r"depth=True, .* \(without the limits 0.0769\)"):
        chosen(left(1), 1e6)
    without = replace(block(), branches=())
    with pytest.raises(BudgetError, match="depth=only, and no residual branch was found"):
        select(without, SCORES, left(20), only, per_cost=True)


def test_a_branch_of_which_only_a_share_may_go_stays() -> None:
    graph = block()
    graph.groups[1] = replace(graph.groups[1], ceiling=0.25)
    alive = select(graph, SCORES, left(20), FREE, per_cost=True, branches=np.zeros(1))
    assert graph.widths(alive).tolist() == [2, 3, 3]


def test_the_same_share_of_every_width_takes_no_branch_before_all_are_narrow() -> None:
    assert chosen(left(14), 0.0, replace(FREE, uniform=True), per_cost=False) == [2, 2]


def test_a_branch_may_go_whose_widths_are_tied_to_others_or_held() -> None:
    graph = replace(block(), ties=[Tie((1, 2), (4, 4))])
    graph.groups[1] = replace(graph.groups[1], frozen="no argument says it")
    alive = ~np.isin(graph.group_of, [1])
    assert graph.plan(alive).keep == {"m": REMOVED}
    alive[8:] = False
    assert graph.plan(alive).keep == {"m": REMOVED, "o": Keep(outputs=(0, 1), of=(4, None))}
    with pytest.raises(PlanError, match="may not be cut: no argument"):
        graph.plan(np.array([True] * 5 + [False] + [True] * 4))


def test_what_is_left_of_a_tie() -> None:
    tie = Tie((3, 5, 7), (4, 8, 12), allowed=(1, 3), packs=(1, 2, 1))
    assert tie.without({9}) is tie
    assert tie.without({3}) == Tie((5, 7), (8, 12), allowed=(1, 3), packs=(2, 1))  # of four units, as before
    assert tie.without({5, 7}) == Tie((3,), (4,), allowed=(1, 3), packs=(1,))
    assert tie.without({3, 5}) == Tie((7,), (12,), allowed=(3, 9), packs=(1,))  # of twelve
    assert tie.without({3, 5, 7}) is None
    heads = Tie((0, 1, 2), (4, 4, 8), heads=(((0,), (1,)),))
    assert heads.without({2, 1}) == Tie((0,), (4,), heads=(((0,),),))


def test_an_empty_layer_that_is_no_branch_is_refused() -> None:
    graph = replace(block(), branches=())
    with pytest.raises(PlanError, match=r"m.a.outputs would lose all its 4 channels"):
        graph.plan(~np.isin(graph.group_of, [1]))


def test_a_plan_keeps_what_was_removed(tmp_path: object) -> None:
    plan = Plan({"m": REMOVED, "o": Keep(outputs=(0,), of=(4, None))})
    assert plan.removed == ["m"]
    assert Plan.from_dict(plan.to_dict()) == plan
    assert plan.widths()["m"] == {"outputs": 0, "of": [None, None]}
    assert Plan.from_widths(plan.widths()) == plan
    assert "removed" in repr(plan)
