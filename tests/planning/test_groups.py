"""Plans: what they keep, what they refuse, and that they survive being written down."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import hand_graph, random_alive

from yoloprune.errors import PlanError
from yoloprune.planning.channel_graph import Axis, ChannelGraph
from yoloprune.planning.plan import Keep, Plan
from yoloprune.planning.tie import Tie


def c2f() -> ChannelGraph:
    """A C2f block: `cv1` in two halves, the second also made by the bottleneck `m`; `cv2` reads both, then `m`."""
    return hand_graph(
        {
            "cv1.outputs": [0, 1, 2, 3],
            "m.outputs": [2, 3],
            "cv2.inputs": [0, 1, 2, 3, 2, 3],
            "cv2.outputs": [4, 5],
            "product.count": [2, 3],
        },
        group_of=[0, 0, 1, 1, 2, 2],
        ties=[(0, 1)],
        frozen={2: "Detect head"},
    )


def alive(*cut: int, n: int = 6) -> np.ndarray:
    """Mask of n classes without the named ones."""
    mask = np.ones(n, dtype=bool)
    mask[list(cut)] = False
    return mask


def test_plan_lists_kept_positions_of_every_axis_that_shrinks() -> None:
    plan = c2f().plan(alive(0, 3))
    assert dict(plan.keep) == {
        "cv1": Keep(outputs=(1, 2), of=(4, None)),
        "m": Keep(outputs=(0,), of=(2, None)),
        "cv2": Keep(inputs=(1, 2, 4), of=(None, 6)),  # class 2 stands at 2 and at 4
    }
    assert len(plan) == 3


def test_plan_joins_both_sides_of_a_module() -> None:
    graph = hand_graph({"a.inputs": [0, 1], "a.outputs": [2, 3, 4]}, group_of=[0, 0, 1, 1, 1])
    assert graph.plan(alive(0, 2, 4, n=5)).keep == {"a": Keep(outputs=(1,), inputs=(1,), of=(3, 2))}


def test_plan_of_everything_is_empty() -> None:
    assert len(c2f().plan(alive())) == 0


def test_plan_refuses_frozen_channels() -> None:
    with pytest.raises(PlanError, match="group2 may not be cut: Detect head"):
        c2f().plan(alive(4))


@pytest.mark.parametrize("cut", [(0,), (2,), (0, 1, 2)])
def test_plan_refuses_unequal_halves(cut: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match=r"group0, group1 must keep the proportion \(2, 2\)"):
        c2f().plan(alive(*cut))


def test_plan_holds_ties_in_proportion() -> None:
    graph = hand_graph({"a.outputs": [0, 1], "b.outputs": [2, 3, 4, 5]}, group_of=[0, 0, 1, 1, 1, 1], ties=[(0, 1)])
    assert len(graph.plan(alive(1, 3, 5))) == 2  # 1 of 2 and 2 of 4
    for cut in ((1,), (1, 3), (3, 5), (1, 3, 4, 5)):
        with pytest.raises(PlanError, match=r"proportion \(2, 4\)"):
            graph.plan(alive(*cut))


def test_plan_refuses_fractions_of_a_unit() -> None:
    graph = hand_graph(
        {"a.outputs": [0, 1], "b.outputs": [2, 3, 4]}, group_of=[0, 0, 1, 1, 1], ties=[(0, 1)]
    )  # units: gcd(2, 3) = 1, all or nothing
    for cut in ((0, 2), (0, 2, 3)):
        with pytest.raises(PlanError, match="proportion"):
            graph.plan(alive(*cut, n=5))


def test_plan_refuses_an_empty_axis() -> None:
    with pytest.raises(PlanError, match=r"cv1\.outputs would lose all its 4 channels"):
        c2f().plan(alive(0, 1, 2, 3))
    graph = hand_graph({"a.outputs": [0, 1], "b.outputs": [1]}, group_of=[0, 1])
    with pytest.raises(PlanError, match=r"b\.outputs would lose all its 1 channels"):
        graph.plan(alive(1, n=2))


def test_graph_properties() -> None:
    graph = c2f()
    assert graph.n_classes == 6
    assert graph.prunable.tolist() == [True] * 4 + [False] * 2
    assert [graph.classes(g).tolist() for g in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert str(Axis("cv1", "outputs", 4)) == "cv1.outputs"
    assert hand_graph({}, []).prunable.shape == (0,)


def test_tie_units_are_the_greatest_common_divisor() -> None:
    tie = Tie((0, 1, 2), (4, 6, 10))
    assert tie.units == 2
    assert [tie.widths(u) for u in range(3)] == [(0, 0, 0), (2, 3, 5), (4, 6, 10)]


def attention() -> ChannelGraph:
    """Two heads of one key (class 4, 5) and two values; a map of four channels is what the values add to."""
    graph = hand_graph(
        {"qkv.outputs": [4, 0, 1, 5, 2, 3], "proj.inputs": [0, 1, 2, 3], "map.outputs": [6, 7, 8, 9]},
        group_of=[0, 0, 1, 1, 2, 3, 4, 4, 4, 4],
    )
    tie = Tie((0, 1, 2, 3, 4), (2, 2, 1, 1, 4), heads=(((0, 2), (1, 3)),))
    return replace(graph, ties=[tie], heads={0: 2})


def test_a_head_goes_as_a_whole() -> None:
    graph = attention()
    (tie,) = graph.ties
    assert tie.units == 2  # gcd of four channels and two heads
    assert [tie.widths(u) for u in range(3)] == [(0, 0, 0, 0, 0), (2, 0, 1, 0, 2), (2, 2, 1, 1, 4)]
    plan = graph.plan(alive(0, 1, 4, 6, 9, n=10))  # the first head, and two of the four channels
    assert plan.keep["qkv"] == Keep(outputs=(3, 4, 5), of=(6, None), heads=1)
    assert plan.keep["proj"] == Keep(inputs=(2, 3), of=(None, 4))
    assert plan.keep["map"] == Keep(outputs=(1, 2), of=(4, None))
    written = json.loads(json.dumps(plan.to_dict()))
    assert written["qkv"] == {"outputs": [3, 4, 5], "of": [6, None], "heads": 1}
    assert Plan.from_dict(written) == plan
    assert plan.widths()["qkv"] == {"outputs": 3, "of": [6, None], "heads": 1}
    assert Plan.from_widths(plan.widths()).keep["qkv"] == Keep(outputs=(0, 1, 2), of=(6, None), heads=1)


@pytest.mark.parametrize(
    "cut",
    [
        (0, 2, 6, 7),  # half of the values of each head
        (0, 1, 6, 7),  # a head without its key
        (0, 1, 5, 6, 7),  # the values of one head, the key of the other
        (0, 1, 4),  # a head, and all four channels
        (0, 1, 4, 6),  # a head, and a quarter of the channels
        (6, 7),  # no head, and half of the channels
    ],
)
def test_plan_refuses_what_leaves_a_part_of_a_head(cut: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="proportion"):
        attention().plan(alive(*cut, n=10))


def test_plan_survives_json() -> None:
    plan = c2f().plan(alive(0, 3))
    written = json.loads(json.dumps(plan.to_dict()))
    assert written["cv2"] == {"inputs": [1, 2, 4], "of": [None, 6]}
    assert Plan.from_dict(written) == plan


def test_widths_survive_json_and_keep_the_shape() -> None:
    plan = c2f().plan(alive(0, 3))
    written = json.loads(json.dumps(plan.widths()))
    assert written["cv1"] == {"outputs": 2, "of": [4, None]}
    assert written["cv2"] == {"inputs": 3, "of": [None, 6]}
    first = Plan.from_widths(written)
    assert first.keep["cv2"] == Keep(inputs=(0, 1, 2), of=(None, 6))
    assert first.widths() == plan.widths()


@pytest.mark.parametrize("seed", range(20))
def test_random_plans_survive_being_written(seed: int) -> None:
    graph = c2f()
    plan = graph.plan(random_alive(graph, seed))
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert Plan.from_widths(plan.widths()).widths() == plan.widths()


@pytest.mark.parametrize(
    "data",
    [
        [1, 2],
        {"a": 3},
        {"a": {"outputs": 3}},
        {"a": {"rows": [1]}},
        {"a": {"outputs": [0], "of": [2, None], "heads": "1"}},
        {"a": {"outputs": [0], "of": 4}},
        {"a": {"outputs": [0], "of": [4]}},
        {"a": {"outputs": [0], "of": ["4", None]}},
        {"a": {"outputs": ["0"], "of": [4, None]}},
        {"a": {"inputs": [0.5], "of": [None, 4]}},
        "plan",
    ],
    ids=str,
)
def test_what_is_no_plan_is_refused(data: object) -> None:
    with pytest.raises(PlanError, match="Not a plan"):
        Plan.from_dict(data)  # type: ignore[arg-type]


def test_what_is_held_later_holds_what_is_tied_to_it() -> None:
    graph = c2f()
    held = graph.holding([0], "seen to go wrong")
    assert [g.frozen for g in held.groups] == ["seen to go wrong", "seen to go wrong", "Detect head"]
    assert held.ties == [] and not held.prunable.any()
    assert graph.prunable.sum() == 4, "the graph itself stays as it was"
    with pytest.raises(PlanError, match="may not be cut: seen to go wrong"):
        held.plan(alive(0, 3))
