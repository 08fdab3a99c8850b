"""`layers=`: how much of single layers may go, instead of `max_ratio`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import hand_graph

from yoloprune.errors import ArgumentError
from yoloprune.planning import greedy_selection, steps
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.settings.budget import Budget, Limits

LOOSE = Limits(round_to=1, min_width=1, max_ratio=0.8)


def graph() -> ChannelGraph:
    """Two widths of ten, of the same cost per channel; `b` reads `a`."""
    return hand_graph({"a.outputs": range(10), "b.inputs": range(10), "b.outputs": range(10, 20)}, [0] * 10 + [1] * 10)


def with_axes(shares: dict[str, float]) -> ChannelGraph:
    found = graph()
    named = [["a.outputs", "b.inputs"], ["b.outputs"]]
    found.groups = [type(g)(g.name, g.size, g.frozen, tuple(n)) for g, n in zip(found.groups, named, strict=True)]
    return steps.with_ceilings(found, shares)


@pytest.mark.parametrize(
    ("shares", "narrowest"),
    [({}, (2, 2)), ({"a": 0.3}, (7, 2)), ({"a": 1.0, "b": 0.0}, (1, 10)), ({"b": 0.5}, (2, 5)), ({"c": 0.1}, (2, 2))],
)
def test_narrowest_widths(shares: dict[str, float], narrowest: tuple[int, int]) -> None:
    found = with_axes(shares)
    least = [min([*steps.allowed(tie, LOOSE, found), tie.units]) for tie in found.ties]
    assert tuple(least) == narrowest


@pytest.mark.parametrize(
    ("shares", "narrowest"), [({"a": 0.3, "b": 0.6}, 7), ({"a": 0.9}, 2), ({"a": 0.9, "b": 0.9}, 1), ({"b": 0.6}, 4)]
)
def test_a_tie_obeys_the_strictest_of_its_layers(shares: dict[str, float], narrowest: int) -> None:
    """Of a layer that is not named that is `max_ratio`, 0.8."""
    found = with_axes(shares)
    tie = type(found.ties[0])((0, 1), (10, 10))
    assert min(steps.allowed(tie, LOOSE, found)) == narrowest


def test_the_budget_is_met_where_it_may_be() -> None:
    found = with_axes({"a": 0.2})
    alive = greedy_selection.select(found, np.ones(20), Budget(ratio=0.5), LOOSE)
    kept = np.bincount(found.group_of[alive], minlength=2)
    assert tuple(kept) == (8, 2)  # without the ceiling five each, or any other ten


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("model.2.*=0.3,model.4=0.5", (("model.2.*", 0.3), ("model.4", 0.5))),
        ({"model.2.*": 0.3}, (("model.2.*", 0.3),)),
        ([["backbone", 1]], (("backbone", 1.0),)),
        ((), ()),
        ("", ()),
        (None, ()),
    ],
)
def test_what_is_given_is_pairs(value: Any, found: tuple[tuple[str, float], ...]) -> None:
    assert Limits(layers=value).layers == found
    assert Limits(layers=Limits(layers=value).layers).layers == found


@pytest.mark.parametrize("value", ["model.2", "model.2=1.5", "=0.3", "a b=0.3", {"model.2": "much"}, 0.5, "a=nan"])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentError, match=r"layers=.*: must be names or patterns with a share"):
        Limits(layers=value)
