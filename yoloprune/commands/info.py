"""Show a model: its groups, its layers, where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from yoloprune.backend import compat, console, host_arguments, moved_layers, yaml_markers, yolo_tracing
from yoloprune.backend.yaml_markers import CLASSES
from yoloprune.checkpoint import held_masks, saving
from yoloprune.checkpoint.loading import ModelSource
from yoloprune.importance import dead_channels
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.plan import Plan
from yoloprune.probing.random_draws import generators_kept
from yoloprune.reporting import layer_table, text_table
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.selection.calibration import place
from yoloprune.settings.view_requests import InfoRequest


@generators_kept()
def run(request: InfoRequest) -> list[dict[str, Any]]:
    """Print the layers of a model, see `api.info`."""
    compat.require("info")
    host_arguments.require(request.host)
    passed = request.passed
    deployment = Deployment.asked(passed, place(passed.get("device")), request.threads, passed.get("batch"))
    yolo = saving.load(request.model)
    imgsz = saving.image_size(yolo, request.passed.get("imgsz"))
    with saving.told_who_wrote(yolo):
        graph = yolo_tracing.trace_yolo(yolo.model, imgsz=imgsz, keep=request.keep)
    rows = layer_table.layer_rows(graph)
    cost = Cost(graph)
    free, dead = int(graph.prunable.sum()), int(dead_channels.dead(yolo.model, graph).sum())
    lines = [
        f"{cost.parent('params'):,.0f} parameters, {cost.parent('flops') / 1e9:.3g} GFLOPs at imgsz {imgsz}; "
        f"{free:,} of {graph.n_classes:,} channels prunable in {len(graph.ties)} widths, {dead:,} dead; "
        f"no cut reaches {cost.fixed('flops') / cost.parent('flops'):.0%} of the FLOPs",
        text_table.table(layer_table.shortened(rows)),
        *layer_table.legend(rows),
        *layer_table.summary(graph),
        *(f"no rule for operation {op} in {where}" for op, where in graph.unknown.items()),
        *_moved(moved_layers.layers(moved_layers.table_of(yolo.model))),
        *_removed(yolo.model),
    ]
    if request.timed:
        with bench.opened(deployment, yolo.model, imgsz) as timer:
            found = timer.time()
        ms, told = found[0], bench.unsteady(found)
        lines += [f"{ms.median:.2f} ms per image in {deployment}, p95 {ms.p95:.2f}" + (f" ({told})" if told else "")]
    if yaml_markers.masks_of(yolo) is not None:
        lines.append(f"masked, {held_masks.said(yolo.model)}")
    if (past := saving.provenance(yolo)) is not None:
        lines += ["", *_history(past)]
    console.log("info: ", "\n".join(lines))
    return rows


@generators_kept()
def trace(model: ModelSource, *, imgsz: int | None = None, keep: tuple[str, ...] = ()) -> ChannelGraph:
    """Find the channel groups of a model, see `api.trace`."""
    compat.require("trace")
    yolo = saving.load(model)
    return yolo_tracing.trace_yolo(yolo.model, imgsz=saving.image_size(yolo, imgsz), keep=keep)


def _moved(places: Mapping[int, list[int]]) -> list[str]:
    """Where the layers of the model that was first pruned are now, as Ultralytics numbers them; nothing else does."""
    if not places:
        return []
    spans = (
        f"{old} is {new[0]}" + (f" to {new[-1]}" if len(new) > 1 else "") if new else f"{old} is gone"
        for old, new in places.items()
    )
    said = "names are those of the parent, here and in keep=, layers=, layer= and freeze=; as rows of the YAML by now"
    return [f"{said} {', '.join(spans)}"]


def _removed(model: nn.Module) -> list[str]:
    """Which branches went as a whole, by the names that they had."""
    names = moved_layers.names_of(model)
    gone = [*names.gone, *map(names.of, Plan.from_widths(saving.pruned_widths(model) or {}).removed)]
    return [f"branches that went as a whole: {', '.join(gone)}"] if gone else []


def _classes(told: Mapping[str, Any]) -> str:
    return f"{', '.join(told['names'])} of {told['of']}"


def _history(told: Mapping[str, Any]) -> list[str]:
    """Provenance in short lines, the last pruning first."""
    lines = []
    for cut in (told, *reversed(told.get("earlier", []))):
        parent = cut.get("parent") or {"name": "a live model", "sha256": None}
        done = "masked" if "pattern" in cut.get("arguments", {}) else "pruned"
        lines += [
            f"{done} by yoloprune from {parent['name']}, {cut.get('date', 'date unknown')}",
            *([f"  parent's sha256  {parent['sha256']}"] if parent["sha256"] else []),
            *([f"  classes          {_classes(cut[CLASSES])}"] if cut.get(CLASSES) else []),
            f"  arguments        {' '.join(f'{k}={v}' for k, v in cut.get('arguments', {}).items() if v != [])}",
            f"  versions         {', '.join(f'{k} {v}' for k, v in cut.get('versions', {}).items())}",
        ]
    return lines
