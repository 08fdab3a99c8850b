"""What a sensitivity analysis came to: one row per group, what it loses at each width, and which ones are tender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from yoloprune.reporting import text_table

NAMED = 3
"""So many groups are named, as those that lose most."""


@dataclass(frozen=True)
class Summary:
    """Of all rows.

    Attributes:
        metric (str): The figure that counts, e.g. mAP50-95.
        names (list[str]): Of the groups, in the order of the network.
        columns (list[str]): The shares that were kept, as text.
        panels (dict[str, np.ndarray]): By title, what is lost, shape (groups, shares), NaN where nothing was tried.
        rows (list[dict]): One per group: name, channels, points lost by share.
        tender (list[str]): Names of the groups that lose most, none whose loss may be nothing or chance.
        said (str): That in one sentence.
    """

    metric: str
    names: list[str]
    columns: list[str]
    panels: dict[str, np.ndarray]
    rows: list[dict[str, Any]]
    tender: list[str]
    said: str


def summed_up(rows: Sequence[Mapping[str, Any]], titles: Mapping[float, str], images: int) -> Summary:
    """Sum up what was tried.

    Args:
        rows (Sequence[Mapping]): Of the parent first, then one per group and width, or per layer and mask.
        titles (Mapping[float, str]): The shares that were kept, and what they are called.
        images (int): How many images all were looked at on.
    """
    parent, *tried = rows
    metric = text_table.headline(parent)
    shares = sorted(titles, reverse=True)
    names = list(dict.fromkeys(str(row["group"]) for row in tried))
    columns = [titles[share] for share in shares]
    size = "weights" if "nonzero" in parent else "channels"
    panels = {f"points of {metric} lost": np.full((len(names), len(shares)), np.nan)}
    if "loss" in parent:
        panels["rise of the loss"] = np.full((len(names), len(shares)), np.nan)
    of: dict[str, dict[str, Any]] = {}
    for row in tried:
        at = names.index(str(row["group"])), shares.index(row["share"])
        lost = {f"points of {metric} lost": 100 * (parent[metric] - row[metric])}
        lost |= {"rise of the loss": row["loss"] - parent["loss"]} if "loss" in parent else {}
        for title, value in lost.items():
            panels[title][at] = value
        group = of.setdefault(str(row["group"]), {"group": row["group"], size: row["width"]})
        group[f"lost at {columns[at[1]]}"] = round(lost[f"points of {metric} lost"], 2) + 0.0  # no -0
    tender, said = _tenderest(names, [*panels.values()], metric, "masks" if size == "weights" else "widths")
    narrowest = {str(row["group"]): row for row in sorted(tried, key=lambda row: -row["share"])}  # loses most, if any
    sure = {name for name, row in narrowest.items() if row.get("low") in (None, "") or float(row["low"]) > 0}
    if doubtful := [name for name in tender if name not in sure]:
        which = "that" if len(doubtful) == len(tender) else f"that of {', '.join(doubtful)}"
        said += f". On {images} images {which} may be chance: the 95 % interval (paired bootstrap) reaches nothing lost"
    tender = [name for name in tender if name in sure]
    return Summary(metric, names, columns, panels, list(of.values()), tender, said)


def _tenderest(names: Sequence[str], panels: Sequence[np.ndarray], metric: str, tried: str) -> tuple[list[str], str]:
    """Which groups lose most, and that in a sentence, which says what is equal.

    By the most points that a group loses at any width, to the digit that is shown; of equals by how far the loss rises,
    where that is known, then by what both are over all widths.

    Args:
        names (Sequence[str]): Of the groups.
        panels (Sequence[np.ndarray]): Points lost and, where known, the rise of the loss, shape (groups, shares).
        metric (str): What points are of.
        tried (str): "widths" or "masks".
    """
    worst = [np.nan_to_num(values, nan=-np.inf).max(1) for values in panels]
    digits = (1, 5)[: len(panels)]
    marks = np.stack([*map(np.round, worst, digits), *(np.nanmean(v, 1).round(5) for v in panels)], 1) + 0.0  # no -0
    order = sorted(range(len(names)), key=lambda i: (-marks[i]).tolist())
    if len(names) > 1 and (marks == marks[0]).all():
        each = f"each of the {len(names)} groups loses the same, {marks[0][0]:.1f} points of {metric} at most"
        return [], f"No group is tenderer than others: {each}"
    named = [i for i in order[:NAMED] if marks[i][0] > 0]
    if not named:
        none = f"No group alone loses 0.1 points of {metric} at any of these {tried}"
        risen = [names[i] for i in order[:NAMED] if len(panels) > 1 and marks[i][1] > 0]
        return [], none + (f"; the loss rises most with {', '.join(risen)}" if risen else "")
    listed = ", ".join(f"{names[i]} ({marks[i][0]:.1f})" for i in named)
    said = f"Tenderest {'are' if len(named) > 1 else 'is'} {listed}: "
    said += f"the most points of {metric} that each loses at one of these {tried}"
    alike = [i for i in order[len(named) :] if (marks[i] == marks[named[-1]]).all()]
    beside = order[: len(named) + 1]
    if any(marks[a][0] == marks[b][0] and (marks[a] != marks[b]).any() for a, b in pairwise(beside)):
        by = "whose loss rises more" if len(panels) > 1 else "that loses more over all widths"
        said += f"; of equals the one {by} comes first"
    if alike:
        rest = f" and {len(alike) - NAMED} more" if len(alike) > NAMED else ""
        said += f"; the same as {names[named[-1]]}: {', '.join(names[i] for i in alike[:NAMED])}{rest}"
    if equal := [(a, b) for a, b in pairwise(named) if (marks[a] == marks[b]).all()]:
        said += f"; equal: {', '.join(f'{names[a]} and {names[b]}' for a, b in equal)}"
    return [names[i] for i in named], said
