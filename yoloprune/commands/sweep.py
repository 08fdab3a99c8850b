"""Where accuracy falls off: cut or mask, and repair, at several budgets, evaluate each, train nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import ultralytics

from yoloprune import csv_rows
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
from yoloprune.commands import following, only_classes, pieces, row_by_row, sweep_table, trials
from yoloprune.commands.sweep_points import Labels, Points
from yoloprune.planning import paired_bootstrap
from yoloprune.planning.paired_bootstrap import Findings, Interval
from yoloprune.probing.random_draws import generators_kept
from yoloprune.reporting import plots, run_report, text_table
from yoloprune.reporting.facts import Report, points_of
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.timing import Times
from yoloprune.selection.calibration import place
from yoloprune.settings import command_line
from yoloprune.settings.trial_requests import SweepRequest

TABLE, PROGRESS, FOUND = "sweep.csv", ".progress.json", ".parent.npz"
"""What grows row by row; beside it, until the run is over, what rows do not hold."""


@console.heard_as_asked
@console.speaking_as("sweep")
@generators_kept()
def run(request: SweepRequest) -> list[dict[str, Any]]:
    """Evaluate a model at several budgets directly after the cut and its repair, see `api.sweep`.

    The trace, the scores and the calibration images are the same for all points. Rows go to `sweep.csv` one by one.
    """
    compat.require("sweep")
    if request.ray:
        pieces.Ray.require()
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
    only_classes.require(parent, request.classes, passed["data"])
    parent, classes = only_classes.cut(parent, request.classes, passed["imgsz"])
    with class_labels.view(classes.names, passed["data"]) as seen:
        elsewhere = (classes.names, passed["data"])  # the view of a data set lies in a folder of this machine
        return _swept(parent, request, passed, (None, seen), elsewhere, deployment)


def _swept(
    parent: ultralytics.YOLO,
    request: SweepRequest,
    passed: Mapping[str, Any],
    here: Labels,
    elsewhere: Labels,
    deployment: Deployment,
) -> list[dict[str, Any]]:
    """The rows of a sweep, on the labels of the model's classes, as this machine and others find them."""
    model, within, imgsz = request.model, request.within, passed["imgsz"]
    (whole, *points), unreachable, images = trials.of_sweep(parent, here[1], request, passed)
    work = Points(parent, here, passed, request.recover, images, torch.get_num_threads(), request.timed)
    cluster = work.cluster() if request.ray else None

    arguments = {k: v for k, v in {**request.settings, **passed}.items() if v is not None}
    origin = model if isinstance(model, (str, Path)) else parent.model_name
    told = run_folders.as_written({"mode": "sweep", "model": str(origin), **arguments})
    with (
        bench.opened(deployment, parent.model, imgsz) if request.timed else nullcontext() as timer,
        row_by_row.opened("sweep", parent, told, passed, TABLE) as (folder, rows),
    ):
        so_far = _SoFar.read(folder, rows)
        if rows:
            console.log(
                "sweep: ", f"{len(rows) - 1} of {len(points)} points are done already\n{text_table.table(rows)}"
            )
        else:
            tried = work.evaluate(whole, parent)
            so_far.parent = tried.found
            so_far.add(folder, tried.row, None, [] if timer is None else timer.time())
            rows.append(tried.row)
        key = text_table.headline(rows[0])
        blind = sweep_table.warned_of_blindness(rows[0][key], key, within, passed["data"])
        within = sweep_table.may_lose(within, rows[0][key])
        done = {row["model"] for row in rows}
        left = [point for point in points if point.name not in done]
        with pieces.spread(work if cluster is None else work.sent(elsewhere), left, ray=cluster) as results:
            for tried in results:
                difference = paired_bootstrap.between(so_far.parent, tried.found, (rows[0][key], tried.row[key]))
                times = [] if timer is None or tried.child is None else timer.time(tried.child.model)[1:]
                so_far.add(folder, tried.row, difference, times)
                rows.append(tried.row)
                said = "" if difference is None else f"\nmAP50-95 {difference}"
                console.log("sweep: ", f"{len(rows) - 1}/{len(points)}\n{text_table.table([rows[0], rows[-1]])}{said}")

        cliff = None if blind else sweep_table.falls_off(rows, key, within)
        plots.plot_sweep(folder / "sweep.png", rows, key, within)
        facts = {"cliff": cliff, "out_of_reach": unreachable, "arguments": arguments}
        facts["differences"] = {name: vars(d) for name, d in so_far.differences.items()}
        facts = facts if timer is None else {**facts, "timing": timer.facts(so_far.times)}
        gflops = evaluation.gflops(parent.model, imgsz)
        none = "the parent finds too little to say where it falls off"
        said = sweep_table.describe(cliff, key, within) if cliff else none
        taken = sweep_table.taken_by(cliff, rows)
        report = Report(
            "sweep",
            rows,
            facts,
            f"{said}. {taken[1]}",
            points=[] if request.masks is not None else points_of(_costs(rows, gflops), key),
            metric=key,
            repeat=following.again("sweep", folder, command_line.written(request)),
            versions=provenance.versions(),
            notes=[f"{name}: mAP50-95 {d}" for name, d in so_far.differences.items()],
        )
        page = run_report.write_report(folder, report)
        so_far.over(folder)
        step = following.after_sweep(request, passed, taken[0])
        intervals = "".join(f"{line}\n" for line in report.notes)
        how = "cut" if request.masks is None else "masked"
        how += "" if request.recover == "none" else " and repaired"
        heading = f"{Path(str(origin)).name} {how} at each point, nothing trained"
        told_all = f"{heading}\n{text_table.table(rows)}\n{intervals}{said}\n{taken[1]}"
        console.conclude("sweep: ", text_table.closing(told_all, [], [folder / TABLE, page], step))
    return rows


def _costs(rows: Sequence[Mapping[str, Any]], gflops: float) -> list[dict[str, Any]]:
    """Rows with the GFLOPs that are left of the parent's."""
    return [{**row, "GFLOPs": row["flops"] * gflops} for row in rows]


@dataclass
class _SoFar:
    """What was found besides the rows.

    Attributes:
        parent (Findings | None): What the parent found in each image.
        differences (dict[str, Interval]): By point, how far it is from the parent.
        times (list[Times]): One per row, where they are measured.
    """

    parent: Findings | None = None
    differences: dict[str, Interval] = field(default_factory=dict)
    times: list[Times] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, rows: Sequence[Mapping[str, Any]]) -> _SoFar:
        """Of an interrupted run as far as its rows go."""
        if not rows or not (folder / PROGRESS).is_file():
            return cls()
        told = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        done = {row["model"] for row in rows}
        differences = {name: Interval(**d) for name, d in told["differences"].items() if name in done}
        return cls(per_image.load(folder / FOUND), differences, [Times(**t) for t in told["times"][: len(rows)]])

    def add(self, folder: Path, row: dict[str, Any], difference: Interval | None, times: Sequence[Times]) -> None:
        """Keep what belongs to a row, then the row itself, which says that it is done."""
        if difference is not None:
            self.differences[row["model"]] = difference
        self.times += times
        row.update({"ms": times[-1].median} if times else {})
        fresh = row["model"] == "parent"
        if fresh:
            self.over(folder)  # of a run before, with exist_ok
        if fresh and self.parent is not None:
            per_image.save(folder / FOUND, self.parent)
        told = {
            "differences": {k: vars(d) for k, d in self.differences.items()},
            "times": [vars(t) for t in self.times],
        }
        run_report.write_text(folder / PROGRESS, json.dumps(told))
        csv_rows.append_row(folder / TABLE, row, fresh=fresh)

    @staticmethod
    def over(folder: Path) -> None:
        """Take away what is in the report now."""
        for name in (PROGRESS, FOUND):
            (folder / name).unlink(missing_ok=True)
