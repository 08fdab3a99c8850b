"""Where channels, FLOPs and time went in all rounds of a `slim` together: by the layers of the model before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import ultralytics
from torch import nn

from yoloprune.backend import model_facts, moved_layers, yolo_tracing
from yoloprune.planning.cost import Cost
from yoloprune.runtimes.layer_times import by_layer


def over_rounds(
    before: ultralytics.YOLO, after: ultralytics.YOLO, imgsz: int, device: torch.device
) -> list[dict[str, Any]]:
    """One row per layer of the model that was pruned first, and what cuts left of it, in however many rows that is.

    Args:
        before (YOLO): The model before the first cut.
        after (YOLO): The same after the last one.
        imgsz (int): Side of the images at which FLOPs and time are told.
        device (torch.device): Where layers are timed.

    Returns:
        (list[dict[str, Any]]): As rows of `layer_table`; "width" is that of what a layer hands on, 0 of the head.
    """
    layers: list[nn.Module] = [*model_facts.network(before.model).model]
    count = moved_layers.count(moved_layers.table_of(before.model)) or len(layers)
    old, new = (_figures(yolo.model, imgsz, device) for yolo in (before, after))
    at_first, at_last = (_places(yolo.model, count) for yolo in (before, after))
    rows = []
    for i in range(count):
        mine, theirs = ([found[at] for at in places[i]] for found, places in ((old, at_first), (new, at_last)))
        what = type(layers[at_first[i][0]]).__name__ if len(mine) == 1 else f"{len(mine)} rows"
        # the last of several rows hands on
        width, kept = (round(found[-1]["width"]) if found else 0 for found in (mine, theirs))
        row: dict[str, Any] = {"layer": f"model.{i} ({what})", "width": width, "kept": kept}
        row |= {"state": "frozen: head" if i == count - 1 else "prunable", "coupled with": [], "parts": None}
        for kind, digits in (("MFLOPs", 3), ("ms", 4)):
            whole, left = (round(sum(one[kind] for one in found), digits) for found in (mine, theirs))
            row |= {kind: whole, f"{kind} kept": left}
        rows.append(row)
    return rows


def _places(model: nn.Module, count: int) -> dict[int, list[int]]:
    """The rows of a model that are a layer of the model that was first pruned, by that layer's number."""
    moved = moved_layers.layers(moved_layers.table_of(model))
    return {i: moved.get(i, [i]) for i in range(count)}


def _figures(model: nn.Module, imgsz: int, device: torch.device) -> dict[int, Mapping[str, float]]:
    """By number of a layer, how wide what it hands on is, its operations in millions, and its milliseconds."""
    graph = yolo_tracing.trace_yolo(model, imgsz=imgsz)
    cost = Cost(graph)
    names = [f"model.{i}" for i in range(len(model_facts.network(model).model))]
    flops = dict.fromkeys(range(len(names)), 0.0)
    for module, count in cost.by_module("flops", cost.full).items():
        if (at := _number(module)) is not None:
            flops[at] += count / 1e6
    widths = {axis.module: axis.width for axis in graph.axes if axis.side == "count"}
    (times,) = by_layer([model], names, imgsz, device)
    return {i: {"width": widths.get(name, 0), "MFLOPs": flops[i], "ms": times[name]} for i, name in enumerate(names)}


def _number(module: str) -> int | None:
    parts: Sequence[str] = module.split(".")
    return int(parts[1]) if len(parts) > 1 and parts[0] == "model" and parts[1].isdigit() else None
