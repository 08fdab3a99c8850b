"""Prices follow the network as it becomes narrower: what is lost under a budget is least, worked out by Lagrange."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import hand_graph
from hand_layers import FREE, widths

from yoloprune.planning.channel_graph import ChannelGraph, Term
from yoloprune.planning.cost import Cost
from yoloprune.planning.greedy_selection import select
from yoloprune.planning.price import Price
from yoloprune.settings.budget import Budget

N = 48


@pytest.fixture
def graph() -> ChannelGraph:
    """Layers of 48: the second reads the first, and what reads the third keeps its width of 48."""
    axes = {name: range(i * N, (i + 1) * N) for i, name in enumerate(("a.outputs", "b.outputs", "c.outputs"))}
    return hand_graph(axes, [0] * N + [1] * N + [2] * N, flops=[Term(1.0, (0, 1)), Term(N, (2,))])


def test_the_next_channel_of_every_layer_is_worth_as_much_for_its_price_there(graph: ChannelGraph) -> None:
    """The k-th channel of each layer that goes is worth k. At widths of 32, 32 and 24 it is the 16th for a price of 32,
    twice, and the 24th for 48: one half each. By the prices of the parent, 48 each, equally many of all would go.
    """
    scores = np.tile(np.arange(1.0, N + 1), 3)
    alive = select(graph, scores, Budget(flops=(32 * 32 + 48 * 24) / (2 * N * N)), FREE, per_cost=True)
    assert widths(graph, alive) == [32, 32, 24]
    assert scores[~alive].sum() == 2 * (16 * 17 / 2) + 24 * 25 / 2


def test_without_a_price_they_follow_nothing(graph: ChannelGraph) -> None:
    left = widths(graph, select(graph, np.tile(np.arange(1.0, N + 1), 3), Budget(flops=0.5), FREE))
    assert max(left) - min(left) == 1


def test_prices_go_half_way() -> None:
    """A channel of the first layer costs the 6 that read it, and at half the widths 3; the root of 6 * 3 between."""
    graph = hand_graph({"a.outputs": range(4), "b.outputs": range(4, 10)}, [0] * 4 + [1] * 6, flops=[Term(1.0, (0, 1))])
    price = Price.of_parent(Cost(graph), {"flops": 1.0})
    assert price.channel.tolist() == [6, 4]
    assert price.nearer(np.array([2.0, 3.0])).channel == pytest.approx([18**0.5, 8**0.5])
    assert price.nearer(np.array([0.0, 3.0])).channel == pytest.approx([18**0.5, 4])  # the first may be a branch


@pytest.mark.parametrize("seed", range(20))
def test_no_more_is_lost_than_by_prices_of_the_parent(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    sizes = random.integers(4, 20, 5)
    ends = np.cumsum([0, *sizes])
    axes = {f"l{i}.outputs": range(ends[i], ends[i + 1]) for i in range(5)}
    pairs = [Term(random.uniform(0.1, 3), (int(a), int(b))) for a, b in random.integers(0, 5, (4, 2)) if a != b]
    alone = [Term(random.uniform(1, 30), (i,)) for i in range(5)]
    graph = hand_graph(axes, np.repeat(range(5), sizes), flops=[*pairs, *alone])
    scores = random.random(graph.n_classes)

    def lost() -> float:
        alive = select(graph, scores, Budget(flops=0.5), FREE, per_cost=True)
        assert Cost(graph).of("flops", graph.widths(alive)) <= 0.5 * Cost(graph).parent("flops") * (1 + 1e-9)
        return float(scores[~alive].sum())

    following = lost()
    monkeypatch.setattr("yoloprune.planning.greedy_selection.ROUNDS", 0)
    assert following <= lost()
