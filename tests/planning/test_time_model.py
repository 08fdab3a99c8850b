"""Prices of time: hand-made networks whose times are known, and the choice that follows from them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import hand_graph

from yoloprune.errors import BudgetError
from yoloprune.planning import greedy_selection, time_model
from yoloprune.planning.channel_graph import Term
from yoloprune.planning.time_model import Layer, TimedBudget, TimedCost, TimeModel
from yoloprune.settings.budget import Limits

LAYERS = [
    Layer("3x3", 0, 1, 9, 1e6, 1e6),
    Layer("1x1", 2, 0, 1, 1e6, 1e6),
    Layer("depthwise", 3, None, 9, 1e6, 4e6),
]


def test_features_by_hand() -> None:
    """Kinds in the order of their names; 20 channels are 32 where steps are 16 wide."""
    found = time_model.features(LAYERS, np.array([20.0, 3.0, 16.0, 33.0]), 16)
    assert found == pytest.approx(
        [
            16 * 32 * 1e-3,
            (16 + 20) * 1e-3,  # 1x1
            32 * 16 * 9 * 1e-3,
            (20 + 3) * 1e-3,  # 3x3
            48 * 9 * 1e-3,
            33 * 5e-3,  # depthwise: four positions read for each one written
            1.0,
        ]
    )


@pytest.mark.parametrize("step", [8, 16, 32])
def test_prices_and_step_are_found_again(step: int) -> None:
    random = np.random.default_rng(0)
    prices = np.array([0.5, 2.0, 0.2, 0.0, 1.0, 3.0, 0.1])
    axes = [random.integers(8, 96, 4).astype(float) for _ in range(40)]
    shares = [float(time_model.features(LAYERS, one, step) @ prices) for one in axes]
    model = time_model.fit(LAYERS, axes, shares)
    assert model.step == step and model.prices == pytest.approx(prices, abs=1e-6)
    assert model.error < 1e-6 and model.of(axes[0]) == pytest.approx(shares[0])


def test_the_error_is_that_of_networks_that_were_left_out() -> None:
    random = np.random.default_rng(0)
    axes = [random.integers(8, 96, 4).astype(float) for _ in range(40)]
    shares = [float(time_model.features(LAYERS, one, 16).sum() * random.normal(1, 0.02)) for one in axes]
    model = time_model.fit(LAYERS, axes, shares)
    assert 0.01 < model.error < 0.04 and model.worst < 0.12


def in_rounds(factors: list[float], size: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, list[int]]:
    """Networks, what they take, what was measured where the parent is off by a factor in each round, and the rounds."""
    random = np.random.default_rng(0)
    rounds = [number for number in range(len(factors)) for _ in range(size)]
    axes = [random.integers(8, 96, 4).astype(float) for _ in rounds]
    shares = np.array([float(time_model.features(LAYERS, one, 8).sum()) for one in axes])
    return axes, shares, shares * np.array(factors)[rounds], rounds


def test_what_a_whole_round_is_off_by_is_the_parents_error() -> None:
    """The factors are 1 on average, so all prices are 1 as before."""
    axes, shares, measured, rounds = in_rounds([0.95, 1.05, 0.98, 1.02, 1.0], 8)
    model = time_model.fit(LAYERS, axes, measured.tolist(), rounds)
    assert [model.of(one) for one in axes] == pytest.approx(shares, rel=2e-3) and model.worst < 0.02
    assert time_model.fit(LAYERS, axes, measured.tolist()).worst > 0.04


def test_a_round_of_few_networks_explains_nothing() -> None:
    """One that has a network each would explain them all, whatever the prices."""
    axes, _, measured, rounds = in_rounds([0.95, 1.05] * 6, 3)
    alone = time_model.fit(LAYERS, axes, measured.tolist())
    assert time_model.fit(LAYERS, axes, measured.tolist(), rounds).error == alone.error > 0.02


def test_nothing_takes_less_than_no_time() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        rows, wanted = random.random((12, 4)), random.normal(size=12)
        found = time_model.nonnegative(rows, wanted)
        pull = rows.T @ (wanted - rows @ found)
        assert (found >= 0).all() and (pull <= 1e-8).all() and np.abs(pull[found > 0]).max(initial=0) < 1e-8


def test_channels_go_where_they_take_time() -> None:
    """Two layers of the same FLOPs, one of which takes nine times as long: it gives more, and rounding is free."""
    graph = hand_graph(
        {"slow.outputs": range(64), "fast.outputs": range(64, 128)},
        [0] * 64 + [1] * 64,
        flops=[Term(1.0, (0,)), Term(1.0, (1,))],
    )
    layers = (Layer("depthwise", 0, None, 9, 1e6, 0.0), Layer("other", 1, None, 9, 1e6, 0.0))
    share = 0.9 / (64 * 9e-3), 0.1 / (64 * 9e-3)
    cost = TimedCost(graph, TimeModel(layers, 16, np.array([share[0], 0, share[1], 0, 0.0]), 0.0, 0.0))
    assert cost.parent("time") == pytest.approx(1.0) and cost.of("flops", cost.full) == 128
    assert cost.slope("time") == pytest.approx([0.9 / 64, 0.1 / 64])
    limits = Limits(round_to=8, min_width=8, max_ratio=0.9)
    alive = greedy_selection.select(graph, np.ones(128), TimedBudget(latency=0.6), limits, cost, per_cost=True)
    assert (alive[:64].sum(), alive[64:].sum()) == (32, 64)
    with pytest.raises(BudgetError, match=r"^latency=0.05 of the parent is out of reach: .* leave at least 0.25 "):
        greedy_selection.select(graph, np.ones(128), TimedBudget(latency=0.05), limits, cost)
