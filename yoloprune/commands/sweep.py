"""Where accuracy falls off: cut or mask, and repair, at several budgets, evaluate each, train nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune import files
from yoloprune.backend import (
    class_labels,
    compat,
    console,
    datasets,
    evaluation,
    head_task,
    host_arguments,
    per_image,
    records,
    run_folders,
)
from yoloprune.checkpoint import provenance, saving
from yoloprune.commands import following, interruptions, only_classes, trials
from yoloprune.planning import paired_bootstrap
from yoloprune.planning.paired_bootstrap import Findings, Interval
from yoloprune.probing.examples import generators_kept
from yoloprune.reporting import plots, run_report, text_table
from yoloprune.reporting.facts import Report, points_of
from yoloprune.reporting.verdict import BLIND
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.timing import Times
from yoloprune.selection.calibration import place
from yoloprune.settings import command_line
from yoloprune.settings.trial_requests import SweepRequest

Row = Mapping[str, Any]

LARGEST_LOSS = 0.25  # of what the parent has: `within=` counts in points, and a poor model has few to lose


@console.heard_as_asked
@generators_kept()
def run(request: SweepRequest) -> list[dict[str, Any]]:
    """Evaluate a model at several budgets directly after the cut and its repair, see `api.sweep`.

    The trace, the scores and the calibration images are the same for all points. Rows go to `sweep.csv` one by one.
    """
    compat.require("sweep")
    host_arguments.require(request.host)
    passed = request.host
    deployment = Deployment.asked(passed, place(passed.get("device")), request.threads)
    parent = saving.load(request.model)
    head_task.settle(parent, {}, asked=False)
    if request.masks is None:
        records.require_unmasked(parent.model)
    passed["data"] = datasets.given_or_own(parent, passed.get("data"), "sweep")
    datasets.require_split(passed["data"], passed.get("split"))
    passed["imgsz"] = saving.image_size(parent, passed.get("imgsz"))
    parent, classes = only_classes.cut(parent, request.classes, passed["imgsz"])
    with class_labels.view(classes.names, passed["data"]) as seen:
        return _swept(parent, request, passed, seen, deployment)


def _swept(
    parent: ultralytics.YOLO, request: SweepRequest, passed: Mapping[str, Any], seen: Any, deployment: Deployment
) -> list[dict[str, Any]]:
    """The rows of a sweep, on the labels of the model's classes."""
    model, within, imgsz = request.model, request.within, passed["imgsz"]
    (whole, *points), unreachable = trials.of_sweep(parent, seen, request, passed)

    rows: list[dict[str, Any]] = []
    with (
        bench.opened(deployment, parent.model, imgsz) if request.timed else nullcontext() as timer,
        run_folders.new_run(parent.task, "sweep", passed) as folder,
        interruptions.telling(
            lambda: following.after_part_of_sweep(
                folder, request, [p.name for p in points][max(len(rows) - 1, 0) :], len(points)
            )
        ),
    ):
        arguments = {k: v for k, v in {**request.settings, **passed}.items() if v is not None}
        origin = model if isinstance(model, (str, Path)) else parent.model_name
        run_folders.write_args(folder, {"mode": "sweep", "model": str(origin), **arguments, "save_dir": folder})
        row, all_found = _evaluate(whole, parent, {**passed, "data": seen}, folder)
        rows.append(row)
        key = text_table.headline(row)
        blind = _warned_of_blindness(row[key], key, within, passed["data"])
        differences = dict[str, Interval]()
        times = [] if timer is None else timer.time()
        rows[0].update(_ms(times))
        files.append_row(folder / "sweep.csv", rows[0], fresh=True)
        within = may_lose(within, rows[0][key])
        for i, point in enumerate(points, start=1):
            child, name = point.make(), point.name
            row, found_here = _evaluate(point, child, {**passed, "data": seen}, folder)
            rows.append(row)
            if (difference := paired_bootstrap.between(all_found, found_here)) is not None:
                differences[name] = difference
            times += [] if timer is None else timer.time(child.model)[1:]
            rows[-1].update(_ms(times))
            files.append_row(folder / "sweep.csv", rows[-1])
            said = f"\nmAP50-95 {differences[name]}" if name in differences else ""
            console.log("sweep: ", f"{i}/{len(points)}\n{text_table.table(rows[-1:])}{said}")

        cliff = None if blind else falls_off(rows, key, within)
        plots.plot_sweep(folder / "sweep.png", rows, key, within)
        facts = {"cliff": cliff, "out_of_reach": unreachable, "arguments": arguments}
        facts["differences"] = {name: vars(d) for name, d in differences.items()}
        facts = facts if timer is None else {**facts, "timing": timer.facts(times)}
        gflops = evaluation.gflops(parent.model, imgsz)
        said = describe(cliff, key, within) if cliff else "the parent finds too little to say where it falls off"
        taken = taken_by(cliff, rows)
        report = Report(
            "sweep",
            rows,
            facts,
            f"{said}. {taken[1]}",
            points=[] if request.masks is not None else points_of(_costs(rows, gflops), key),
            metric=key,
            repeat=following.again("sweep", folder, command_line.written(request)),
            versions=provenance.versions(),
        )
        page = run_report.write_report(folder, report)
        step = following.after_sweep(request, passed, taken[0])
        intervals = "".join(f"{name}: mAP50-95 {d}\n" for name, d in differences.items())
        told = f"{text_table.table(rows)}\n{intervals}{said}\n{taken[1]}"
        console.conclude("sweep: ", text_table.closing(f"\n{told}", [], [folder / "sweep.csv", page], step))
    return rows


def _warned_of_blindness(had: float, key: str, within: float, data: Any) -> bool:
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
    return cliff["safe"], f"{cliff['safe']} is the smallest of them, so that is what to take before fine-tuning."


def _costs(rows: Sequence[Row], gflops: float) -> list[dict[str, Any]]:
    """Rows with the GFLOPs that are left of the parent's."""
    return [{**row, "GFLOPs": row["flops"] * gflops} for row in rows]


def _ms(times: Sequence[Times]) -> dict[str, float]:
    """The column of the last network that was timed, if any was."""
    return {"ms": times[-1].median} if times else {}


def _evaluate(
    trial: trials.Trial, yolo: ultralytics.YOLO, passed: Mapping[str, Any], folder: Path
) -> tuple[dict[str, Any], Findings | None]:
    probe = saving.with_model(yolo, copy.deepcopy(yolo.model))  # validation may fuse the one it runs
    given = {k: v for k, v in passed.items() if k != "seed"}
    with per_image.watched(probe) as watch:
        evaluation.validate(probe, {**given, "project": str(folder.resolve()), "name": "val", "exist_ok": True})
    return {"model": trial.name, **trial.told, **evaluation.metrics(probe)}, watch.findings()


def falls_off(rows: Sequence[Row], key: str, within: float) -> dict[str, Any]:
    """Where accuracy falls off.

    Args:
        rows (Sequence[Mapping]): The parent first, then points from large to small.
        key (str): The figure to look at, a fraction of 1.
        within (float): Points (hundredths) that may be lost.

    Returns:
        (dict[str, Any]): "safe", the smallest point such that neither it nor any larger one loses more than `within`
            points (the parent when the first does); "lost", the points that it loses; "steepest", the two neighbours
            between which most is lost per FLOP, or per weight of masks: the drop begins at the first.
    """
    safe, axis = rows[0], plots.axis_of(rows)
    for row in rows[1:]:
        if 100 * (rows[0][key] - row[key]) > within + 1e-9:
            break
        safe = row
    above, below = max(
        pairwise(rows), key=lambda two: (two[0][key] - two[1][key]) / max(two[0][axis] - two[1][axis], 1e-9)
    )
    lost = round(100 * (rows[0][key] - safe[key]), 2)
    return {"safe": safe["model"], "lost": lost, "steepest": [above["model"], below["model"]]}


def may_lose(within: float, parent: float) -> float:
    """How many points a cut may lose: `within`, but of a poor parent no more than a share of what it has."""
    return min(within, 100 * LARGEST_LOSS * parent)


def describe(cliff: Mapping[str, Any], key: str, within: float) -> str:
    """The two sentences that a sweep ends with."""
    first, second = cliff["steepest"]
    safe = (
        f"no point is within {within:.3g} points of the parent's {key}"
        if cliff["safe"] == "parent"
        else f"down to {cliff['safe']}, {key} stays within {within:.3g} points of the parent's "
        f"({cliff['lost']:.1f} lost)"
    )
    return f"{safe}; it falls most steeply from {first} to {second}"
