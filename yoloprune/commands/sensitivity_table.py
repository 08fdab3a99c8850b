"""What a sensitivity analysis came to: one row per group, what it loses at each width, and which ones are tender."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        tender (list[str]): Names of the groups that lose most.
        said (str): That in one sentence.
    """

    metric: str
    names: list[str]
    columns: list[str]
    panels: dict[str, np.ndarray]
    rows: list[dict[str, Any]]
    tender: list[str]
    said: str


def summed_up(rows: Sequence[Mapping[str, Any]], titles: Mapping[float, str]) -> Summary:
    """Sum up what was tried.

    Args:
        rows (Sequence[Mapping]): Of the parent first, then one per group and width, or per layer and mask.
        titles (Mapping[float, str]): The shares that were kept, and what they are called.
    """
    parent, *tried = rows
    beside = {"point", "group", "layers", "width", "kept", "share", "flops", "params", "nonzero", "loss"}
    metric = text_table.headline(k for k in parent if k not in beside)
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
    worst = [np.nan_to_num(values, nan=-np.inf).max(1) for values in panels.values()]
    order = np.lexsort([-values for values in reversed(worst)])[:NAMED]  # by the loss where mAP does not tell
    tender = [names[i] for i in order]
    named = ", ".join(f"{names[i]} ({worst[0][i]:.1f})" for i in order)
    any_of = "masks" if size == "weights" else "widths"
    said = f"Tenderest are {named}, with the most points of {metric} that they lose at any of these {any_of}"
    return Summary(metric, names, columns, panels, list(of.values()), tender, said)
