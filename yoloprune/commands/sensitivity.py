"""Where a network is tender: each group of layers narrowed alone, and looked at on images that were left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ultralytics

from yoloprune import files
from yoloprune.backend import (
    calibration_images,
    class_labels,
    compat,
    console,
    datasets,
    evaluation,
    head_task,
    held_images,
    host_arguments,
    model_facts,
    moved_layers,
    records,
    run_folders,
)
from yoloprune.checkpoint import provenance, saving
from yoloprune.commands import cut_and_repair, following, only_classes, row_by_row, sensitivity_table, side_by_side
from yoloprune.errors import ArgumentError
from yoloprune.native.candidates import Channels, Choice
from yoloprune.planning import narrowing
from yoloprune.probing.examples import generators_kept
from yoloprune.probing.forward import placed
from yoloprune.repair import recipes
from yoloprune.reporting import layer_table, plots, run_report, text_table
from yoloprune.reporting.facts import Report
from yoloprune.selection import ranking
from yoloprune.selection.calibration import calibration
from yoloprune.settings import command_line
from yoloprune.settings.budget import Limits
from yoloprune.settings.requests import SensitivityRequest
from yoloprune.tracing.trace_network import match

TABLE = "sensitivity.csv"


@console.heard_as_asked
@generators_kept()
def run(request: SensitivityRequest) -> list[dict[str, Any]]:
    """Narrow each group alone, see `api.sensitivity`."""
    compat.require("sensitivity")
    host_arguments.require(request.host)
    passed = request.host
    parent = saving.load(request.model)
    head_task.settle(parent, {}, asked=False)
    records.require_unmasked(parent.model)
    passed["data"] = data = datasets.given_or_own(parent, passed.get("data"), "sensitivity")
    datasets.require_split(data, passed.get("split"))
    passed["imgsz"] = imgsz = saving.image_size(parent, passed.get("imgsz"))
    origin = request.model if isinstance(request.model, (str, Path)) else parent.model_name
    told = {"mode": "sensitivity", "model": str(origin), **request.settings, **passed}
    told = run_folders.as_written({k: v for k, v in told.items() if v is not None})
    only_classes.require(parent, request.classes, data)
    parent, classes = only_classes.cut(parent, request.classes, imgsz)
    with (
        class_labels.view(classes.names, data) as seen,
        held_images.few(seen, parent.task, str(passed.get("split") or "val"), request.held, _seed(passed)) as held,
    ):
        with saving.told_who_wrote(parent):
            found = Channels(parent.model, Limits(native=False), imgsz)
        tried = narrowing.narrowings(found.graph, request.widths, _ties(parent, found, request.layer))
        sight = calibration(parent, seen, imgsz, passed)
        order = ranking.rank(parent, found.graph, request.criterion, Limits(native=False), sight)
        images = sight.images or []
        if not recipes.NEED_IMAGES.intersection(recipes.RECIPES[request.recover]):
            images = images[:1]  # which tell well enough what a channel gives on average
        look = _Look(parent, held[0], imgsz, passed)
        with row_by_row.opened("sensitivity", parent.task, told, passed, TABLE) as (folder, rows):
            todo = [None, *tried][len(rows) :]
            console.log(
                "sensitivity: ",
                f"{len(tried)} widths of {len({one.tie for one in tried})} groups, each alone, on {held[1]} images of "
                f"split={passed.get('split') or 'val'}{f'; goes on behind {len(rows)} of them' if rows else ''}",
            )
            bar = compat.TQDM(total=len(tried) + 1, initial=len(rows), desc=console.title("sensitivity: ") + "widths")
            for one in todo:
                alive = np.ones(found.graph.n_classes, dtype=bool)
                if one is not None:
                    alive = narrowing.survivors(found.graph, order.scores, one)
                choice = Choice(found.graph, alive, found.probe)
                with console.quiet():
                    child = parent
                    if one is not None:
                        child = cut_and_repair.narrowed(parent, choice.plan)
                        with placed(sight.device, parent.model, child.model):
                            cut_and_repair.repair(parent, child, choice.plan, request.recover, images, choice.probe)
                    figures = look(child)
                rows.append({"point": len(rows), **_named(choice, one), **figures})
                files.append_row(folder / TABLE, rows[-1], fresh=len(rows) == 1)
                bar.update(1)
            bar.close()
            _report(folder, rows, request, told)
    return rows


def _seed(passed: Mapping[str, Any]) -> int:
    return int(passed.get("seed") or 0)


def _ties(parent: ultralytics.YOLO, found: Channels, layers: Sequence[str]) -> set[int] | None:
    """Ties of the layers that were named, by the names of the model that was first pruned; None for all.

    Raises:
        ArgumentError: If a name matches nothing, or nothing that may be narrowed.
    """
    if not layers:
        return None
    wanted = match(parent.model, moved_layers.moved(layers, moved_layers.table_of(parent.model)), key="layer")
    ties = {t for t in range(len(found.graph.ties)) if wanted.keys() & set(narrowing.makers(found.graph, t))}
    if not ties:
        raise ArgumentError(f"layer={','.join(layers)}: none of them may be narrowed. 'yoloprune info' says why")
    return ties


class _Look:
    """Evaluates networks on the images that were left out."""

    def __init__(self, parent: ultralytics.YOLO, held: Path, imgsz: int, passed: Mapping[str, Any]) -> None:
        self.device = evaluation.device(passed.get("device"))
        told = {k: passed[k] for k in ("batch", "device", "workers") if passed.get(k) is not None}
        if self.device.type == "cpu":  # which is kept busy by the network
            told.setdefault("workers", 0)
        self.told = {**told, "data": str(held), "imgsz": imgsz, "split": "val"}
        self.batches: list[dict[str, Any]] = []
        if not model_facts.is_prompted(parent.model) and datasets.has_classes_of(parent, held):
            loaded = calibration_images.labelled(
                parent, held, imgsz, n=10**9, device=self.device, wanted="the loss needs some."
            )
            self.batches = list(loaded)

    def __call__(self, yolo: ultralytics.YOLO) -> dict[str, float]:
        """The loss where there are labels for it, and the figures of Ultralytics' validation."""
        told: dict[str, float] = {}
        if self.batches:
            told["loss"] = round(evaluation.loss(model_facts.with_loss(yolo).to(self.device), self.batches), 5)
        return {**told, **side_by_side.validated(yolo, self.told)[0]}


def _named(choice: Choice, one: narrowing.Narrowing | None) -> dict[str, Any]:
    """The columns of a row that say what was narrowed, and what of the whole network stays."""
    kept = {k: round(v, 5) for k, v in choice.kept().items() if k != "channels"}
    if one is None:
        return {"group": "parent", "layers": "", "width": 0, "kept": 0, "share": 1.0, **kept}
    tie = choice.graph.ties[one.tie]
    layers = list(dict.fromkeys(map(layer_table.layer_name, narrowing.makers(choice.graph, one.tie))))
    widths = (sum(tie.sizes), int(choice.widths[list(tie.groups)].sum()))
    return {
        "group": layers[0],
        "layers": " ".join(layers),
        "width": widths[0],
        "kept": widths[1],
        "share": one.asked,
        **kept,
    }


def _report(folder: Path, rows: list[dict[str, Any]], request: SensitivityRequest, told: Mapping[str, Any]) -> None:
    """Picture, page, and what is said at the end."""
    found = sensitivity_table.summed_up(rows, request.widths)
    picture = plots.plot_sensitivity(folder / "sensitivity.png", found.names, found.columns, found.panels)
    words = following.again("sensitivity", folder, command_line.written(request))
    report = Report(
        "sensitivity",
        found.rows,
        {"widths": rows, "arguments": told},
        found.said,
        metric=found.metric,
        repeat=words,
        versions=provenance.versions(),
    )
    page = run_report.write_report(folder, report, [picture])
    cut = {"model": told["model"], "data": told["data"], "flops": 0.5, "keep": ",".join(found.tender) or None}
    step = following.typed("yoloprune prune", told["imgsz"], **cut)
    said = f"\n{text_table.table(found.rows)}\n{found.said}"
    console.conclude("sensitivity: ", text_table.closing(said, [], [folder / TABLE, picture, page], step))
