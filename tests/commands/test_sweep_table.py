"""Where accuracy falls off: what counts as that, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from yoloprune.backend import console
from yoloprune.commands import sweep_table
from yoloprune.reporting.text_table import headline


def points(*figures: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows of (FLOPs, mAP50-95), the parent first."""
    return [
        {"model": "parent" if i == 0 else f"flops={flops}", "flops": flops, "mAP50": 0.9, "mAP50-95": figure}
        for i, (flops, figure) in enumerate(figures)
    ]


@pytest.mark.parametrize(
    ("within", "safe", "lost"),
    [(3.0, "flops=0.8", 3.0), (2.9, "flops=0.9", 1.0), (0.5, "parent", 0.0), (10.0, "flops=0.5", 9.0)],
)
def test_safe_is_the_smallest_point_before_the_first_that_loses_too_much(within: float, safe: str, lost: float) -> None:
    rows = points((1, 0.6), (0.9, 0.59), (0.8, 0.57), (0.7, 0.5), (0.6, 0.58), (0.5, 0.51))
    found = sweep_table.falls_off(rows, "mAP50-95", within)
    assert (found["safe"], found["lost"]) == (safe, pytest.approx(lost))


def test_steepest_is_per_flop() -> None:
    rows = points((1, 0.6), (0.9, 0.58), (0.5, 0.51), (0.4, 0.48), (0.2, 0.43))  # 20, 17.5, 30 and 25 points per FLOP
    assert sweep_table.falls_off(rows, "mAP50-95", 3)["steepest"] == ["flops=0.5", "flops=0.4"]


def test_a_poor_model_has_few_points_to_lose() -> None:
    assert sweep_table.may_lose(3, 0.4) == 3 and sweep_table.may_lose(3, 0.12) == 3
    rows = [{"model": m, "mAP50-95": v, "flops": f} for m, v, f in (("parent", 0.032, 1), ("a", 0.013, 0.9))]
    assert sweep_table.falls_off(rows, "mAP50-95", sweep_table.may_lose(3, 0.032))["safe"] == "parent"


def test_a_parent_with_little_is_told_of_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    blind = [sweep_table.warned_of_blindness(had, "mAP50-95", 0.5, "a.yaml") for had in (0.3, 0.008, 0.004)]
    assert blind == [False, False, True]
    assert [s[:61] for s in said] == ["sweep: the parent finds next to nothing on data=a.yaml (mAP50"] * 2
    assert sweep_table.warned_of_blindness(0.02, "mAP50-95", 3, "a.yaml") and "so no point can lose within=3" in said[2]


def test_description_names_the_points() -> None:
    rows = points((1, 0.6), (0.9, 0.59), (0.8, 0.4))
    said = [sweep_table.describe(sweep_table.falls_off(rows, "mAP50-95", w), "mAP50-95", w) for w in (3, 0.5)]
    assert said[0].startswith("down to flops=0.9, mAP50-95 stays within 3 points of the parent's (1.0 lost);")
    assert said[0].endswith("from flops=0.9 to flops=0.8")
    assert said[1].startswith("no point is within 0.5 points")


def test_what_rises_is_gained_and_falls_nowhere() -> None:
    found = sweep_table.falls_off(points((1, 0.6), (0.9, 0.61), (0.8, 0.614)), "mAP50-95", 3)
    assert found == {"safe": "flops=0.8", "lost": -1.4, "steepest": None}
    said = sweep_table.describe(found, "mAP50-95", 3)
    assert said == "down to flops=0.8, mAP50-95 stays within 3 points of the parent's (1.4 gained)"
    found = sweep_table.falls_off(points((1, 0.6), (0.9, 0.62), (0.8, 0.60004)), "mAP50-95", 3)
    said = sweep_table.describe(found, "mAP50-95", 3)
    assert said.endswith("(0.0 lost); it falls most steeply from flops=0.9 to flops=0.8")


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (["mAP50", "mAP50-95"], "mAP50-95"),
        (["mAP50", "mAP50-95", "mAP50(M)", "mAP50-95(M)"], "mAP50-95(M)"),
        (["accuracy_top1", "accuracy_top5"], "accuracy_top1"),
        (["metrics/mAP50(B)", "metrics/mAP50-95(B)", "metrics/mAP50-95(P)"], "metrics/mAP50-95(P)"),
        ([], ""),
    ],
)
def test_the_figure_that_counts(figures: list[str], expected: str) -> None:
    assert headline(figures) == expected
