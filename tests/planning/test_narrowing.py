"""One group narrowed, all others whole: which widths are tried, and who survives."""

from __future__ import annotations

import numpy as np
from conftest import hand_graph

from yoloprune.planning import narrowing
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.narrowing import Narrowing


def graph() -> ChannelGraph:
    """A layer of four channels; two layers of two and four that keep their proportion; one channel that is frozen."""
    axes = {
        "a.conv.outputs": [0, 1, 2, 3],
        "a.bn.outputs": [0, 1, 2, 3],
        "b.inputs": [0, 1, 2, 3],
        "b.outputs": [4, 5],
        "c.outputs": [6, 7, 8, 9],
        "d.outputs": [10],
    }
    return hand_graph(axes, [0] * 4 + [1] * 2 + [2] * 4 + [3], ties=[[0], [1, 2]], frozen={3: "the user said so"})


def test_shares_come_to_the_nearest_width_that_there_is() -> None:
    found = narrowing.narrowings(graph(), [0.25, 0.75, 0.6])
    # four steps: 0.75 is 3, 0.6 is nearest to 2, 0.25 is 1; two steps: 0.75 lies between 1 and 2, of which 2 is whole
    assert found == [
        Narrowing(0, 3, 0.75),
        Narrowing(0, 2, 0.6),
        Narrowing(0, 1, 0.25),
        Narrowing(1, 1, 0.75),
    ]


def test_only_the_ties_that_are_asked_for() -> None:
    assert {one.tie for one in narrowing.narrowings(graph(), [0.5], {1})} == {1}


def test_the_least_important_of_one_tie_go_and_nobody_else() -> None:
    scores = np.array([3.0, 1.0, 2.0, 4.0, 9.0, 8.0, 5.0, 7.0, 6.0, 4.0, 0.0])
    alive = narrowing.survivors(graph(), scores, Narrowing(0, 2, 0.5))
    assert np.flatnonzero(~alive).tolist() == [1, 2]
    alive = narrowing.survivors(graph(), scores, Narrowing(1, 1, 0.5))
    assert np.flatnonzero(~alive).tolist() == [5, 6, 9]  # half of each


def test_layers_that_make_the_channels() -> None:
    assert narrowing.makers(graph(), 0) == ["a.conv", "a.bn"]
    assert narrowing.makers(graph(), 1) == ["b", "c"]
