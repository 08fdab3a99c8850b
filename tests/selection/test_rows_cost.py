"""What is said of the importance that widths of a model YAML cost, on graphs and scores written by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import hand_graph

from yoloprune.backend import console
from yoloprune.planning.branch import Branch
from yoloprune.selection import decision
from yoloprune.selection.ranking import Ranking
from yoloprune.settings.budget import Budget, Limits


def told(lost: float, least: float, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said where native widths lose so much, and free ones so much: one channel each of two groups."""
    heard: list[str] = []
    monkeypatch.setattr(console, "warn", heard.append)
    free, native = np.array([False, True]), np.array([True, False])
    names = SimpleNamespace(of=lambda module: f"layer {module}")
    groups = [SimpleNamespace(frozen=None, axes=[f"{name}.outputs"]) for name in "ab"]
    held = [SimpleNamespace(frozen="one width", axes=["a.outputs"]), groups[1]]
    graph = SimpleNamespace(groups=groups, classes=lambda g: np.array([g]), names=names)
    found: Any = SimpleNamespace(graph=graph, native=SimpleNamespace(groups=held))
    gone = {native.tobytes(): lost, free.tobytes(): least}
    order: Any = SimpleNamespace(lost=lambda graph, alive: gone[alive.tobytes()], select=lambda graph, wanted: free)
    choice: Any = SimpleNamespace(described=object(), alive=native, graph=graph)
    decision._tell_what_rows_cost(found, order, choice, Budget(flops=0.5))
    return heard


@pytest.mark.parametrize(("lost", "least", "times"), [(3.0, 2.0, "1.5"), (19.0, 2.0, "9.5"), (5.0, 0.0, "over 10")])
def test_much_more_is_said_with_its_layer(
    lost: float, least: float, times: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (said,) = told(lost, least, monkeypatch)
    assert f"lose {times} times the importance" in said and "no other width of layer a." in said


@pytest.mark.parametrize(("lost", "least"), [(2.4, 2.0), (0.0, 0.0)])
def test_little_more_is_not(lost: float, least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(lost, least, monkeypatch) == []


def test_of_a_branch_its_own_importance_is_lost() -> None:
    """Four channels of 10 each are in a branch of 3, two of 1 and 2 behind it: 3 + 1, and 10 where one of them goes."""
    axes = {"m.a.outputs": [0, 1, 2, 3], "o.outputs": [4, 5]}
    graph = replace(hand_graph(axes, [0] * 4 + [1] * 2), branches=(Branch("m", (0,)),))
    order = Ranking(np.array([10.0, 10, 10, 10, 1, 2]), {"m": 3.0}, True, Limits())
    assert order.lost(graph, np.array([0, 0, 0, 0, 0, 1], dtype=bool)) == 4
    assert order.lost(graph, np.array([0, 1, 1, 1, 1, 1], dtype=bool)) == 10
