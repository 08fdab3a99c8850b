"""What a sweep came to: where accuracy falls off, and which budget it would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from yoloprune.backend import console
from yoloprune.commands import following
from yoloprune.reporting import plots
from yoloprune.reporting.verdict import BLIND

Row = Mapping[str, Any]

LARGEST_LOSS = 0.25  # of what the parent has: `within=` counts in points, and a poor model has few to lose


def warned_of_blindness(had: float, key: str, within: float, data: Any) -> bool:
    """Whether a parent has no more than it may lose; warns where that is so, or where it finds next to nothing."""
    blind = 100 * had <= within
    if had < BLIND:
        console.warn(
            f"sweep: the parent finds next to nothing on data={data} ({key} {had:.4f}): {following.TRAIN_FIRST}; "
            "budgets are compared all the same"
        )
    elif blind:
        console.warn(
            f"sweep: the parent itself has {key}={had:.4f}, so no point can lose within={within:g} points; "
            f"{following.TRAIN_FIRST}"
        )
    return blind


def taken_by(cliff: Mapping[str, Any] | None, rows: Sequence[Row]) -> tuple[str | None, str]:
    """Which budget a sweep would take, None for none, and why."""
    if cliff is None:
        return None, "No budget can be named."
    if cliff["safe"] == "parent":
        return rows[1]["model"], f"{rows[1]['model']} is the mildest cut that was tried: fine-tune it, and look again."
    return cliff["safe"], f"Take {cliff['safe']}, the smallest of those, and fine-tune it."


def falls_off(rows: Sequence[Row], key: str, within: float) -> dict[str, Any]:
    """Where accuracy falls off.

    Args:
        rows (Sequence[Mapping]): The parent first, then points from large to small.
        key (str): The figure to look at, a fraction of 1.
        within (float): Points (hundredths) that may be lost.

    Returns:
        (dict[str, Any]): "safe", the smallest point such that neither it nor any larger one loses more than `within`
            points (the parent when the first does); "lost", the points that it loses, below 0 where it gains;
            "steepest", the two neighbours between which most is lost per FLOP, or per weight of masks: the drop begins
            at the first. None where nothing is lost anywhere.
    """
    safe, axis = rows[0], plots.axis_of(rows)
    for row in rows[1:]:
        if 100 * (rows[0][key] - row[key]) > within + 1e-9:
            break
        safe = row
    falls = [(above, below) for above, below in pairwise(rows) if above[key] > below[key]]
    steepest = max(
        falls, key=lambda two: (two[0][key] - two[1][key]) / max(two[0][axis] - two[1][axis], 1e-9), default=None
    )
    lost = round(100 * (rows[0][key] - safe[key]), 2)
    return {"safe": safe["model"], "lost": lost, "steepest": steepest and [row["model"] for row in steepest]}


def may_lose(within: float, parent: float) -> float:
    """How many points a cut may lose: `within`, but of a poor parent no more than a share of what it has."""
    return min(within, 100 * LARGEST_LOSS * parent)


def describe(cliff: Mapping[str, Any], key: str, within: float) -> str:
    """The sentence that a sweep ends with, of two halves where anything is lost."""
    lost = cliff["lost"]
    change = f"{abs(lost):.1f} {'gained' if lost <= -0.05 else 'lost'}"
    safe = (
        f"no point is within {within:.3g} points of the parent's {key}"
        if cliff["safe"] == "parent"
        else f"down to {cliff['safe']}, {key} stays within {within:.3g} points of the parent's ({change})"
    )
    if cliff["steepest"] is None:
        return safe
    first, second = cliff["steepest"]
    return f"{safe}; it falls most steeply from {first} to {second}"
