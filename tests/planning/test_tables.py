"""What objects of a plan show of themselves, to the letter; and the units that dead channels leave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import hand_graph

from yoloprune.errors import PlanError
from yoloprune.planning import greedy_selection
from yoloprune.planning.plan import Plan
from yoloprune.planning.tables import LONGEST, MOST, in_text


def test_a_table_in_plain_text() -> None:
    rows = [("a", 1), ("bbb", 22)]
    assert in_text("title", ("name", "n"), rows) == "title\nname  n\na     1\nbbb   22"
    assert in_text("title", ("name", "n"), []) == "title"


@pytest.mark.parametrize(("count", "last"), [(MOST, f"{MOST - 1}"), (MOST + 1, "and 1 more")])
def test_so_many_rows_and_no_more(count: int, last: str) -> None:
    assert in_text("t", ("n",), [(i,) for i in range(count)]).splitlines()[-1] == last


@pytest.mark.parametrize(("letters", "shown"), [(LONGEST, "x" * LONGEST), (LONGEST + 1, "x" * (LONGEST - 1) + "…")])
def test_so_many_letters_and_no_more(letters: int, shown: str) -> None:
    assert in_text("t", ("c",), [("x" * letters,)]).splitlines()[-1] == shown


def test_a_graph_shows_first_what_may_change() -> None:
    graph = hand_graph({"a.outputs": range(8)}, [0] * 2 + [1] * 4 + [2] * 2, ties=[(1, 2)], frozen={0: "fixed input"})
    assert repr(graph) == (
        "ChannelGraph: 3 widths, 6 of 8 channels may go\n"
        "width   channels  why\n"
        "group1  4         tied with 1 more\n"
        "group2  2         tied with 1 more\n"
        "group0  2         fixed input"
    )


def test_the_first_group_of_a_tie_names_a_width_that_is_not_allowed() -> None:
    graph = hand_graph({"a.outputs": range(8)}, [0] * 4 + [1] * 4, ties=[(1, 0)])
    graph.ties = [replace(graph.ties[0], allowed=(2,))]
    with pytest.raises(PlanError, match=r"^group1 may not be 3 wide"):
        graph.plan(np.array([True, True, True, False] * 2))


def test_the_dead_leave_the_narrowest_unit_that_is_allowed_and_wide_enough() -> None:
    graph = hand_graph({"a.outputs": range(8)}, [0] * 8)
    graph.ties = [replace(graph.ties[0], allowed=(2, 5, 6))]
    dead = np.array([True] * 4 + [False] * 4)  # four are alive: 2 is too narrow, 5 the next
    assert greedy_selection.dead_only(graph, dead).sum() == 5
    graph.ties = [replace(graph.ties[0], allowed=(2, 4, 6))]
    assert greedy_selection.dead_only(graph, dead).sum() == 4


@pytest.mark.parametrize("content", [None, "not json", "[]", '{"format": 0, "keep": {}}'])
def test_what_is_no_plan_is_told(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(PlanError, match=r"plan\.json"):
        Plan.load(file)
