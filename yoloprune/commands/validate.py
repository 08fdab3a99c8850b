"""Validate models side by side: accuracy, size, and time per image."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from yoloprune.backend import compat, console, datasets, evaluation, head_task, host_arguments, per_image, run_folders
from yoloprune.checkpoint import saving
from yoloprune.checkpoint.loading import ModelSource
from yoloprune.commands import only_classes
from yoloprune.planning import paired_bootstrap
from yoloprune.probing.examples import generators_kept
from yoloprune.reporting import run_report, text_table
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.settings.requests import ValRequest


def run(request: ValRequest) -> list[dict[str, Any]]:
    """Validate, side by side with another model when one is given, see `api.val`."""
    compat.require("val")
    host_arguments.require(request.host)
    model, against = request.model, request.against
    alone = Path(model).stem if isinstance(model, (str, Path)) else "network"  # "model" would be renamed, and warned of
    models = {alone: model} if against is None else {"parent": against, "pruned": model}
    return compare(models, threads=request.threads, **request.host)


@generators_kept()
def compare(
    models: Mapping[str, ModelSource], *, command: str = "val", threads: int | None = None, **passed: Any
) -> list[dict[str, Any]]:
    """Validate models one after the other on the same data, then time them taking turns, see `api.compare`."""
    device = evaluation.device(passed.get("device"))
    deployment = Deployment.asked(passed, device, threads)
    loaded = {name: saving.load(m, prunable=False) for name, m in models.items()}
    passed["data"] = datasets.given_or_own(list(loaded.values())[-1], passed.get("data"), command)
    for yolo in loaded.values():
        head_task.settle(yolo, passed)
        datasets.require_channels(yolo, passed["data"])
    imgsz = saving.image_size(next(iter(loaded.values())), passed.get("imgsz"))
    with run_folders.new_run(next(iter(loaded.values())).task, command, passed) as folder:
        rows, networks, found = [], [], []
        for name, yolo in loaded.items():
            networks.append(copy.deepcopy(yolo.model))  # validation fuses the one it runs
            sizes = evaluation.measure(yolo.model, imgsz)
            place = {"imgsz": imgsz, "project": str(folder.resolve()), "name": name, "exist_ok": True}
            with only_classes.looked_at(yolo, passed, loaded.values()) as asked, per_image.watched(yolo) as watch:
                evaluation.validate(yolo, {**asked, **place})
            found.append(watch.findings())
            rows.append({"model": name, **evaluation.metrics(yolo), **sizes})
        with bench.opened(deployment, networks[0], imgsz) as timer:
            timing = add_times(command, rows, timer, *networks[1:])
        others = zip([*loaded][1:], found[1:], strict=True)
        differences = {name: d for name, f in others if (d := paired_bootstrap.between(found[0], f)) is not None}
        facts = {"command": command, "device": str(device), "imgsz": imgsz, "timing": timing, "arguments": passed}
        facts["differences"] = {name: vars(d) for name, d in differences.items()}
        run_report.write_report(folder, facts, rows)
        said = "".join(f"{name}: mAP50-95 {d}\n" for name, d in differences.items())
        console.log(f"{command}: ", f"imgsz {imgsz}, {deployment}\n{text_table.table(rows)}\n{said}saved {folder}")
    return rows


def add_times(command: str, rows: Sequence[dict[str, Any]], timer: bench.Bench, *others: nn.Module) -> dict[str, Any]:
    """Put milliseconds per image into the rows of the parent on a bench and of others.

    Returns:
        (dict[str, Any]): What was measured and on what, for the report.
    """
    times = timer.time(*others)
    for row, found in zip(rows, times, strict=True):
        row["ms"] = found.median
    if (said := bench.unsteady(times)) is not None:
        console.log(f"{command}: ", said)
    return timer.facts(times)
