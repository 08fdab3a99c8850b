"""The choice of channels: order, ties, limits and budgets, on graphs written by hand. No torch."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hand_layers import FREE, layers, widths

from yoloprune.errors import BudgetError
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.greedy_selection import OutOfReachError, dead_only, select
from yoloprune.planning.tie import Tie
from yoloprune.settings.budget import Budget, Limits


# Order ----------------------------------------------------------------------------------------------------------------
def test_lowest_scores_go_first_whatever_their_layer() -> None:
    graph = layers(4, 4)
    scores = np.array([0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6])
    assert select(graph, scores, Budget(ratio=0.5), FREE).tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert select(graph, scores, Budget(ratio=0.25), FREE).tolist() == [0, 1, 1, 1, 0, 1, 1, 1]


def test_without_a_budget_nothing_goes() -> None:
    assert select(layers(4, 4), np.zeros(8), Budget(), FREE).all()


def test_a_layer_keeps_one_channel() -> None:
    graph = layers(4, 4)
    alive = select(graph, np.array([1.0, 2, 3, 4, 90, 90, 90, 90]), Budget(ratio=0.5), FREE)
    assert widths(graph, alive) == [1, 3]
    assert alive[3]


def test_channels_without_a_score_stay() -> None:
    graph = layers(4, 4)
    scores = np.array([np.inf] * 4 + [1.0, 2.0, 3.0, 4.0])
    assert select(graph, scores, Budget(ratio=0.25), FREE).tolist() == [1, 1, 1, 1, 0, 0, 1, 1]
    with pytest.raises(BudgetError):
        select(graph, scores, Budget(ratio=0.5), FREE)  # only 3 of 8 have a score and a neighbour that stays


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("none", [np.inf, np.nan])
def test_channels_without_a_score_stay_in_every_ranking(none: float, uniform: bool) -> None:
    """Four layers of four: one without any score, one without a score for its first half, two that are scored."""
    graph, limits = layers(4, 4, 4, 4), Limits(round_to=1, min_width=1, max_ratio=1.0, uniform=uniform)
    scores = np.array([none] * 6 + [50.0, 60.0] + [float(i) for i in range(8)])
    alive = select(graph, scores, Budget(ratio=0.5), limits)  # all 8 that can go
    assert alive.tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    with pytest.raises(BudgetError):
        select(graph, scores, Budget(ratio=0.51), limits)


def test_a_share_is_of_channels_that_something_else_holds_as_well() -> None:
    """Of the second layer no YAML says another width, and one of its classes is two neighbours: 4 + 8 channels."""
    held = replace(layers(4, 4, frozen={1: "the only width"}), withheld=(Tie((1,), (4,), packs=(2,)),))
    assert (Cost(held).parent("channels"), Cost(held).of("channels", np.array([3.0, 4.0]))) == (12, 11)
    scores = np.arange(8.0)
    assert select(held, scores, Budget(ratio=0.25), FREE).tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    with pytest.raises(BudgetError, match=r"remove at most 0\.25.*the only width"):
        select(held, scores, Budget(ratio=0.26), FREE)


# Ties -----------------------------------------------------------------------------------------------------------------
def test_tied_groups_shrink_in_proportion() -> None:
    graph = layers(4, 6, ties=[(0, 1)])  # two units of 2 + 3 channels
    scores = np.array([4.0, 1, 3, 2, 10, 60, 20, 50, 30, 40])
    alive = select(graph, scores, Budget(ratio=0.1), FREE)  # one channel of ten costs a whole unit
    assert alive.tolist() == [1, 0, 1, 0, 0, 1, 0, 1, 0, 1]


def test_the_score_of_a_tied_step_is_the_mean_of_what_it_removes() -> None:
    graph = layers(2, 2, 2, ties=[(0, 1), (2,)])
    # one step of the tie removes scores 1 and 6, mean 3.5
    for other, expected in ((3.0, [2, 2, 1]), (4.0, [1, 1, 2])):
        alive = select(graph, np.array([1.0, 9, 6, 9, other, 9]), Budget(ratio=0.1), FREE)
        assert widths(graph, alive) == expected


def test_the_score_of_a_rounded_step_is_the_mean_of_what_it_removes() -> None:
    # round_to=2 pairs the scores of a layer: (0, 8) has mean 4 and goes before (5, 5)
    graph = layers(6, 6)
    scores = np.array([0.0, 8, 9, 9, 99, 99, 5, 5, 6, 6, 99, 99])
    alive = select(graph, scores, Budget(ratio=1 / 6), Limits(round_to=2, min_width=1, max_ratio=1.0))
    assert alive.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    alive = select(graph, scores, Budget(ratio=0.5), Limits(round_to=2, min_width=1, max_ratio=1.0))
    assert alive.tolist() == [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1]


# Limits ---------------------------------------------------------------------------------------------------------------
def test_widths_are_multiples_of_round_to() -> None:
    graph = layers(12, 16)
    alive = select(graph, np.arange(28.0), Budget(ratio=0.3), Limits(round_to=8, min_width=1, max_ratio=1.0))
    assert widths(graph, alive) == [8, 8]  # 12 goes to 8 at once; 8.4 channels are asked for, 12 go
    assert alive.tolist() == [0] * 4 + [1] * 8 + [0] * 8 + [1] * 8


def test_a_width_that_is_no_multiple_may_stay_uncut() -> None:
    graph = layers(12, 16)
    scores = np.concatenate([np.full(12, 9.0), np.zeros(16)])
    alive = select(graph, scores, Budget(ratio=0.2), Limits(round_to=8, min_width=1, max_ratio=1.0))
    assert widths(graph, alive) == [12, 8]


def test_round_to_holds_for_every_group_of_a_tie() -> None:
    graph = layers(8, 16, ties=[(0, 1)])  # units of 1 + 2
    alive = select(graph, np.arange(24.0), Budget(ratio=0.1), Limits(round_to=4, min_width=1, max_ratio=1.0))
    assert widths(graph, alive) == [4, 8]


def test_min_width_holds_for_the_narrowest_group() -> None:
    graph = layers(8, 16, ties=[(0, 1)])
    with pytest.raises(BudgetError):
        select(graph, np.zeros(24), Budget(ratio=0.5), Limits(round_to=1, min_width=5, max_ratio=1.0))
    alive = select(graph, np.zeros(24), Budget(ratio=0.375), Limits(round_to=1, min_width=5, max_ratio=1.0))
    assert widths(graph, alive) == [5, 10]


def test_max_ratio_holds_per_group() -> None:
    graph = layers(10, 10)
    scores = np.concatenate([np.zeros(10), np.ones(10)])
    alive = select(graph, scores, Budget(ratio=0.45), Limits(round_to=1, min_width=1, max_ratio=0.7))
    assert widths(graph, alive) == [3, 8]  # exactly 70 % of the first


def test_frozen_channels_stay_whatever_their_score() -> None:
    graph = layers(4, 4, frozen={0: "Detect head"})
    alive = select(graph, np.array([0.0] * 4 + [1, 2, 3, 4]), Budget(ratio=0.5), FREE)
    assert alive.tolist() == [1, 1, 1, 1, 0, 0, 1, 1]  # half of the four prunable ones


# Budgets --------------------------------------------------------------------------------------------------------------
def test_flops_and_params_are_shares_of_the_parent() -> None:
    graph = layers(4, 4, price=(10.0, 1.0))  # 44 FLOPs, 8 parameters
    scores = np.arange(8.0)
    assert widths(graph, select(graph, scores, Budget(flops=0.55), FREE)) == [2, 4]  # 24 of 44 <= 24.2
    assert widths(graph, select(graph, scores, Budget(flops=0.54), FREE)) == [1, 4]  # 23.76 is below 24
    assert widths(graph, select(graph, scores, Budget(params=0.5), FREE)) == [1, 3]


def test_absolute_budgets() -> None:
    graph = layers(4, 4, price=(1000.0, 100.0))  # 4400 FLOPs
    alive = select(graph, np.arange(8.0), Budget(flops=2400.0), FREE)
    assert widths(graph, alive) == [2, 4]


def test_a_budget_that_is_met_exactly_counts_as_met() -> None:
    graph = layers(10)
    for kept in range(1, 10):
        assert widths(graph, select(graph, np.arange(10.0), Budget(params=kept / 10), FREE)) == [kept]


def test_several_budgets_hold_at_once() -> None:
    graph = layers(4, 4, price=(10.0, 1.0))
    cost = Cost(graph)
    alive = select(graph, np.array([5.0, 6, 7, 8, 1, 2, 3, 4]), Budget(flops=0.6, params=0.75, ratio=0.2), FREE, cost)
    w = np.array(widths(graph, alive))
    assert cost.of("flops", w) <= 0.6 * 44
    assert w.sum() <= 6
    assert w.tolist() == [2, 4]  # FLOPs ask for two of the dear ones, and that is two of eight parameters as well


def test_refill_takes_back_what_the_last_step_made_needless() -> None:
    graph = layers(4, 4, price=(1.0, 100.0))  # 404 FLOPs, budget 307: the cheap layer alone cannot do it
    scores = np.array([1.0, 99, 99, 99, 2, 99, 99, 99])
    assert select(graph, scores, Budget(flops=0.76), FREE).tolist() == [1, 1, 1, 1, 0, 1, 1, 1]


def test_refill_takes_back_the_most_important_first() -> None:
    graph = layers(4, 4, price=(1.0, 3.0))  # 16 FLOPs, budget 12: scores 1, 2, 3 save 3, too little; with 4 it is 6
    scores = np.array([1.0, 2, 3, 99, 4, 99, 99, 99])
    # 2 too many are saved: the cheap channels of scores 3 and 2 return, 1 stays cut
    assert select(graph, scores, Budget(flops=0.75), FREE).tolist() == [0, 1, 1, 1, 0, 1, 1, 1]


def test_out_of_reach_says_how_far_it_goes_and_why() -> None:
    graph = layers(8, 8, frozen={1: "Detect head"})
    with pytest.raises(BudgetError) as caught:
        select(graph, np.arange(16.0), Budget(flops=0.3), Limits(round_to=1, min_width=1, max_ratio=0.5))
    message = str(caught.value)
    assert "flops=0.3" in message
    assert (
        "max_ratio=0.5 and frozen layers leave at least 0.75" in message
    )  # half of the first layer, all of the second
    assert "(without the limits 0.562)" in message  # one of the first, all of the second: 9 of 16
    assert "8 channels: Detect head" in message
    assert "\n" not in message


def test_out_of_reach_repeats_a_number_as_it_was_typed() -> None:
    graph = layers(8, 8, frozen={1: "Detect head"}, price=(1e3, 1e3))  # 16,000 FLOPs
    with pytest.raises(OutOfReachError, match=r"^flops=4\.8K, 0\.3 of the parent, is out of reach") as caught:
        select(graph, np.arange(16.0), Budget(flops=4800), Limits(round_to=1, min_width=1, max_ratio=0.5))
    sent = pickle.loads(pickle.dumps(caught.value))  # as from another machine
    assert (str(sent), sent.key, sent.least) == (str(caught.value), "flops", 0.75)


def test_out_of_reach_names_the_key_that_was_given() -> None:
    with pytest.raises(BudgetError, match=r"ratio=0\.9"):
        select(layers(8), np.arange(8.0), Budget(ratio=0.9), Limits(round_to=1, min_width=4, max_ratio=1.0))


# Ways to rank ---------------------------------------------------------------------------------------------------------
def test_uniform_takes_the_same_share_of_every_group() -> None:
    graph = layers(4, 8)
    scores = np.array([4.0, 3, 2, 1, *range(100, 108)])  # globally the first layer is the weaker one
    limits = Limits(round_to=1, min_width=1, max_ratio=1.0, uniform=True)
    alive = select(graph, scores, Budget(ratio=0.5), limits)
    assert alive.tolist() == [1, 1, 0, 0] + [0] * 4 + [1] * 4
    assert widths(graph, select(graph, scores, Budget(ratio=0.25), limits)) == [3, 6]


def test_uniform_rounds_widths_up_and_knows_no_price() -> None:
    """56 of 80 channels may stay: 24 of 64 gone are 3/8 of the first, and the second can only lose half of its 16."""
    graph = layers(64, 16, price=(100.0, 1.0))
    limits = Limits(round_to=8, min_width=1, max_ratio=1.0, uniform=True)
    for per_cost in (False, True):
        alive = select(graph, np.arange(80.0), Budget(ratio=0.3), limits, per_cost=per_cost)
        assert widths(graph, alive) == [40, 16]


def test_per_cost_loses_less_for_the_same_budget() -> None:
    graph = layers(4, 4, price=(1.0, 3.0))  # 16 FLOPs, 13 may stay
    scores = np.array([1.0] * 4 + [1.5] * 4)
    plain = select(graph, scores, Budget(flops=13 / 16), FREE)
    wise = select(graph, scores, Budget(flops=13 / 16), FREE, per_cost=True)
    assert widths(graph, plain) == [1, 4]  # three of the first: loses 3
    assert widths(graph, wise) == [4, 3]  # one of the second saves as much: loses 1.5


def test_per_cost_uses_the_price_of_the_budget_that_is_set() -> None:
    graph = layers(4, 4, price=(1.0, 3.0))
    scores = np.array([1.0] * 4 + [1.5] * 4)
    alive = select(graph, scores, Budget(params=5 / 8), FREE, per_cost=True)  # a parameter costs the same everywhere
    assert widths(graph, alive) == [1, 4]


def test_of_several_budgets_the_one_that_binds_sets_the_price() -> None:
    """The other is met by what the first leaves, so the choice is that of the first alone."""
    graph = layers(4, 4, price=(1.0, 3.0))
    scores = np.array([1.0] * 4 + [1.5] * 4)
    by_params, by_flops = Budget(flops=0.99, params=5 / 8), Budget(flops=13 / 16, params=0.99)
    assert widths(graph, select(graph, scores, by_params, FREE, per_cost=True)) == [1, 4]  # loses 3, and not 4.5
    assert widths(graph, select(graph, scores, by_flops, FREE, per_cost=True)) == [4, 3]  # loses 1.5, and not 3


def test_where_several_budgets_bind_a_channel_is_worth_what_it_saves_of_each() -> None:
    """6 of 16 FLOPs have to go and 3 of 8 parameters; what is cheapest for one of them alone misses the other."""
    graph = layers(4, 4, price=(1.0, 3.0))
    budget = Budget(flops=10 / 16, params=5 / 8)
    for first, kept in ((1.0, [1, 3]), (2.0, [4, 1])):
        # A channel of the first saves 1 of 6 FLOPs and 1 of 3 parameters: a half; one of the second 5/6.
        scores = np.array([first] * 4 + [2.5] * 4)
        alive = select(graph, scores, budget, FREE, per_cost=True)
        assert widths(graph, alive) == kept
        for kind, share in (("flops", 10 / 16), ("params", 5 / 8)):
            cost = Cost(graph)
            assert cost.of(kind, np.array(kept, dtype=float)) <= share * cost.parent(kind)


# Dead channels --------------------------------------------------------------------------------------------------------
def test_dead_only_cuts_exactly_the_dead() -> None:
    dead = np.array([1, 0, 1, 0, 0, 0, 0, 1], dtype=bool)
    assert dead_only(layers(4, 4), dead).tolist() == (~dead).tolist()


def test_dead_only_goes_as_far_as_ties_allow() -> None:
    graph = layers(2, 4, ties=[(0, 1)])  # units of 1 + 2
    alive = dead_only(graph, np.array([0, 1, 1, 0, 1, 1], dtype=bool))
    assert alive.tolist() == [1, 0, 0, 1, 0, 1]  # the third dead one of the second group has no partner
    assert dead_only(graph, np.array([0, 0, 1, 1, 1, 1], dtype=bool)).all()
    assert dead_only(graph, np.array([1, 1, 1, 0, 0, 0], dtype=bool)).all()  # one dead of a unit of two


def test_dead_only_never_takes_the_last_of_a_group() -> None:
    graph = layers(4, 2, 4, ties=[(0,), (1, 2)])
    assert widths(graph, dead_only(graph, np.ones(10, dtype=bool))) == [1, 1, 2]


@pytest.mark.parametrize("wanted", [{"ratio": 0.4}, {"flops": 0.9}, {"params": 0.9}])
def test_where_all_is_frozen_no_budget_counts_as_met(wanted: dict[str, float]) -> None:
    graph = layers(4, 4, frozen={0: "Detect head", 1: "keep=b"}, price=(1e3, 1e3))
    with pytest.raises(BudgetError, match=r"out of reach.*Held by: .*keep=b"):
        select(graph, np.zeros(8), Budget(**wanted), Limits(round_to=1, min_width=1))


def test_dead_only_leaves_frozen_groups() -> None:
    graph = layers(4, 4, frozen={0: "keep"})
    assert widths(graph, dead_only(graph, np.ones(8, dtype=bool))) == [4, 1]


# Attention heads ------------------------------------------------------------------------------------------------------
def headed(keys: int = 1) -> ChannelGraph:
    """Three heads of two values and some keys, and a map of six channels that keeps their proportion."""
    graph = layers(2, 2, 2, *[keys] * 3, 6, ties=[(0, 1, 2, 3, 4, 5, 6)])
    return replace(graph, ties=[replace(graph.ties[0], heads=(((0, 3), (1, 4), (2, 5)),))])


def test_the_head_with_the_least_score_goes_first() -> None:
    graph = headed()
    #                  values              keys       map
    scores = np.array([5.0, 5, 1, 9, 4, 4, 1, 0.1, 3, 6, 1, 5, 2, 4, 3])  # sums 11, 10.1, 11
    alive = select(graph, scores, Budget(ratio=0.1), FREE)  # a third, as it is the smallest step
    assert widths(graph, alive) == [2, 0, 2, 1, 0, 1, 4]
    assert alive[9:].tolist() == [1, 0, 1, 0, 1, 1]
    assert widths(graph, select(graph, scores, Budget(ratio=0.4), FREE)) == [0, 0, 2, 0, 0, 1, 2]  # equal: in order


@pytest.mark.parametrize("none", [np.inf, np.nan])
def test_a_head_without_a_score_stays(none: float) -> None:
    graph, scores = headed(), np.arange(15.0)
    scores[0] = none  # the first head, which would go first
    assert widths(graph, select(graph, scores, Budget(ratio=0.1), FREE)) == [2, 0, 2, 1, 0, 1, 4]


def test_heads_that_stay_need_no_rounding() -> None:
    """Rounding and the least width hold for the map: its 4 of 6 are no multiple of 3, its 2 are too narrow."""
    graph, scores = headed(), np.ones(15)
    for limits in (Limits(round_to=3, min_width=1, max_ratio=1.0), Limits(round_to=1, min_width=6, max_ratio=1.0)):
        with pytest.raises(BudgetError):
            select(graph, scores, Budget(ratio=0.1), limits)
    limits = Limits(round_to=2, min_width=4, max_ratio=1.0)
    assert widths(graph, select(graph, scores, Budget(ratio=0.1), limits)) == [0, 2, 2, 0, 1, 1, 4]


def test_dead_only_takes_heads_that_are_dead_as_a_whole() -> None:
    graph = headed()
    dead = np.zeros(15, dtype=bool)
    dead[[2, 3, 9, 10, 11, 12]] = True  # both values of the second head, but not its key
    assert dead_only(graph, dead).all()
    dead[7] = True
    assert widths(graph, dead_only(graph, dead)) == [2, 0, 2, 1, 0, 1, 4]
    dead[[10, 11, 12]] = False  # only one of the six channels of the map: not a third of them
    assert dead_only(graph, dead).all()
