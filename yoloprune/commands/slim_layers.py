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
    """One row per layer of a model, and what its cuts left of it, in however many rows that is written now.

    Args:
        before (YOLO): The model before the first cut.
        after (YOLO): The same after the last one.
        imgsz (int): Side of the images at which FLOPs and time are told.
        device (torch.device): Where layers are timed.

    Returns:
        (list[dict[str, Any]]): As rows of `layer_table`; "width" is that of what a layer hands on, 0 of the head.
    """
    moved = moved_layers.layers(moved_layers.table_of(after.model))
    layers: list[nn.Module] = [*model_facts.network(before.model).model]
    places = {i: [i] for i in range(len(layers))}
    places |= {i: moved.get(i, [i]) for i in places}
    old, new = (_figures(yolo.model, imgsz, device) for yolo in (before, after))
    rows = []
    for i, layer in enumerate(layers):
        mine, theirs = old[i], [new[at] for at in places[i] if at in new]
        last = new.get(places[i][-1]) if places[i] else None  # the last of several rows hands on
        row: dict[str, Any] = {"layer": f"model.{i} ({type(layer).__name__})", "width": round(mine["width"])}
        row["kept"] = 0 if last is None else round(last["width"])
        row |= {"state": "prunable" if mine["width"] else "frozen: head", "coupled with": [], "parts": None}
        for kind, digits in (("MFLOPs", 3), ("ms", 4)):
            row |= {kind: round(mine[kind], digits), f"{kind} kept": round(sum(one[kind] for one in theirs), digits)}
        rows.append(row)
    return rows


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
