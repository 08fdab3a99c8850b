"""A channel graph as a table: one row per layer, with its width, what may be cut, and what goes with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from yoloprune.planning.branch import holder, removed
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.layer_names import PIECE
from yoloprune.reporting.text_table import Row

LEGEND = (
    "coupled with: loses the same channels; parts: widths that keep their proportion; a leading dot: in the same block"
)
PIECES = ":1, :2 behind a name: the pieces of what was one layer in the parent, each of a width of its own"

ONCE = (
    "(a channel that layers share counts once here, in the table at each; a fixed input is made by none and has no row)"
)


def layer_rows(graph: ChannelGraph, widths: np.ndarray | None = None) -> list[dict[str, Any]]:
    """One row per layer that makes channels, under the name that `keep=` takes.

    Args:
        graph (ChannelGraph): A traced model.
        widths (np.ndarray | None): Widths of the groups after a cut, shape (groups,).

    Returns:
        (list[dict[str, Any]]): "layer", "width" and "kept" (channels), "state" ("prunable", "frozen" with the reason,
            or "removed" with its branch), "coupled with" (layers that lose the same channels, depthwise ones and sums
            among them), "parts" (widths that keep their proportion, e.g. the halves of a `chunk`).
    """
    consumers = {a.module for a in graph.axes if a.side == "inputs"}
    groups_of = [list(dict.fromkeys(graph.group_of[c].tolist())) for c in graph.class_of]
    writers: dict[int, list[str]] = {}
    for axis, groups in zip(graph.axes, groups_of, strict=True):
        for g in groups if axis.side == "outputs" else ():
            writers.setdefault(g, []).append(axis.module)
    rows: list[dict[str, Any]] = []
    kept = None if widths is None else Cost(graph).axes(np.array(widths, dtype=float))
    gone = [] if widths is None else removed(graph.branches, np.array(widths))
    for i, (axis, classes, groups) in enumerate(zip(graph.axes, graph.class_of, groups_of, strict=True)):
        makes = axis.module in consumers or any(writers[g][0] == axis.module for g in groups if g in writers)
        name = _called(graph, axis.module)
        if axis.side != "outputs" or not makes or any(r["layer"] == name for r in rows):
            continue
        row: dict[str, Any] = {"layer": name, "width": axis.width}
        if kept is not None:
            row["kept"] = round(kept[i])
        branch = holder(gone, axis.module)
        row["state"] = _state(graph, classes, groups) if branch is None else f"removed: {graph.names.of(branch.name)}"
        partners = dict.fromkeys(_called(graph, m) for g in groups for m in writers[g])
        row["coupled with"] = [p for p in partners if p != row["layer"]]
        row["parts"] = _parts(graph, groups)
        rows.append(row)
    return rows


def with_costs(rows: Sequence[Row], graph: ChannelGraph, widths: np.ndarray) -> list[dict[str, Any]]:
    """Layer rows with "MFLOPs" and "MFLOPs kept": what a layer costs before and after, and what follows its channels.

    Layers without a row, such as depthwise ones, count for the row before them in the order of the network.

    Args:
        rows (Sequence[Row]): From `layer_rows`.
        graph (ChannelGraph): A traced model.
        widths (np.ndarray): Widths of the groups after the cut, shape (groups,).
    """
    cost = Cost(graph)
    named = {str(row["layer"]) for row in rows}
    sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in named}
    for i, at in enumerate((cost.full, widths.astype(float))):
        found: dict[str, float] = {}
        for module, flops in cost.by_module("flops", at).items():
            name = _called(graph, module)
            found[name] = found.get(name, 0.0) + flops
        place = str(rows[0]["layer"]) if rows else ""
        for name in dict.fromkeys(_called(graph, axis.module) for axis in graph.axes):
            place = name if name in named else place
            if place:
                sums[place][i] += found.pop(name, 0.0) / 1e6
    return [
        {**row, "MFLOPs": round(sums[str(row["layer"])][0], 3), "MFLOPs kept": round(sums[str(row["layer"])][1], 3)}
        for row in rows
    ]


def with_times(rows: Sequence[Row], times: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Layer rows with "ms" and "ms kept", milliseconds before and after, where they were measured.

    Args:
        rows (Sequence[Row]): From `layer_rows`.
        times (Sequence[Mapping[str, float]]): By layer, before and after; empty where nothing was measured.
    """
    if not times:
        return [dict(row) for row in rows]
    before, after = times
    return [{**row, "ms": before[str(row["layer"])], "ms kept": after[str(row["layer"])]} for row in rows]


def frozen_layers(rows: Sequence[Row]) -> list[str]:
    """What may not be cut, by reason, with the layers: those of one block share an entry."""
    places: dict[str, list[str]] = {}
    for row in rows:
        for part in str(row["state"]).split("; "):
            if part.startswith("frozen: "):
                places.setdefault(part.removeprefix("frozen: "), []).append(str(row["layer"]))
    return [f"{reason}: {_together(names)}" for reason, names in places.items()]


def _together(names: Sequence[str]) -> str:
    blocks: dict[str, list[str]] = {}
    for name in names:
        blocks.setdefault(_block(name), []).append(name)
    return ", ".join(
        f"{block}.* ({len(found)} layers)" if len(found) > 2 else ", ".join(found) for block, found in blocks.items()
    )


def layer_name(module: str) -> str:
    """Name of a layer as a user knows it: "model.0" for the convolution and the batch-norm of a `Conv` block, and for
    parameters that a layer of another kind keeps.
    """
    block, _, last = module.rpartition(".")
    return block if block and last in {"conv", "bn", "weight", "bias"} else module


def modules(graph: ChannelGraph) -> dict[str, str]:
    """By layer as it is printed, the module that it is."""
    return {_called(graph, axis.module): layer_name(axis.module) for axis in graph.axes}


def _called(graph: ChannelGraph, module: str) -> str:
    """Name of a layer as it is printed."""
    return layer_name(graph.names.of(module))


def _state(graph: ChannelGraph, classes: np.ndarray, groups: Sequence[int]) -> str:
    frozen = list(dict.fromkeys(graph.groups[g].frozen for g in groups if graph.groups[g].frozen))
    free = int(graph.prunable[classes].sum())
    return "; ".join(
        [*([f"{free} prunable" if frozen else "prunable"] if free else []), *(f"frozen: {reason}" for reason in frozen)]
    )


def _parts(graph: ChannelGraph, groups: Sequence[int]) -> str | None:
    sizes = [t.sizes[t.groups.index(g)] for g in groups for t in graph.ties if g in t.groups and len(t.groups) > 1]
    if len(sizes) < 2:
        return None
    return f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 else " + ".join(map(str, sizes))


def legend(rows: Sequence[Row]) -> list[str]:
    """What the columns and names of a layer table mean."""
    return [LEGEND, *([PIECES] if any(PIECE in str(row["layer"]) for row in rows) else [])]


def summary(graph: ChannelGraph) -> list[str]:
    """What is frozen, by reason and most first, without the places, which the table tells."""
    count: Counter[str] = Counter()
    for group in graph.groups:
        if group.frozen:
            count[group.frozen.rsplit(" in ", 1)[0]] += group.size
    told = [f"{n:,} channels frozen: {reason}" for reason, n in count.most_common()]
    return [*told, ONCE] if told else []


def shortened(rows: Sequence[Row], length: int = 44) -> list[dict[str, Any]]:
    """Layer rows for a terminal: layers that are frozen for one reason in one block share a row, lists are shortened.

    Args:
        rows (Sequence[Row]): See `layer_rows`.
        length (int): Most characters of a text.

    Returns:
        (list[dict[str, Any]]): Fewer and shorter rows; a name with a leading dot lies in the same block as the layer.
    """
    short: list[dict[str, Any]] = []
    for (state, block), run in groupby(rows, lambda r: (r["state"], _block(r["layer"]))):
        found = [dict(r) for r in run]
        if state.startswith("frozen") and len(found) > 2:
            total: dict[str, int] = {k: sum(r[k] for r in found) for k in ("width", "kept") if k in found[0]}
            found = [{"layer": f"{block}.* ({len(found)} layers)", **total, "state": state, "coupled with": []}]
        short += found
    for row in short:
        block = _block(row["layer"])
        names = [n.removeprefix(block) if n.startswith(f"{block}.") else n for n in row["coupled with"]]
        while len(", ".join(names)) > length:
            names = [*names[:-2], f"{len(row['coupled with']) - len(names) + 2} more"]
        row["coupled with"] = ", ".join(names) or None
        row["state"] = row["state"] if len(row["state"]) <= length else f"{row['state'][: length - 1]}…"
    return short


def _block(name: str) -> str:
    """The first two parts of a dotted name: "model.22" of "model.22.cv2.0"."""
    return ".".join(name.split(".")[:2])
