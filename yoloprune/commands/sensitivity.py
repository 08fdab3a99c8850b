"""Where a network is tender: each group of layers narrowed alone, and looked at on images that were left out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune import csv_rows
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
    records,
    run_folders,
)
from yoloprune.checkpoint import provenance, saving
from yoloprune.commands import following, only_classes, row_by_row, sensitivity_table, side_by_side, trials
from yoloprune.errors import BudgetError
from yoloprune.native import candidates
from yoloprune.planning import paired_bootstrap
from yoloprune.planning.paired_bootstrap import Findings
from yoloprune.probing.random_draws import generators_kept
from yoloprune.reporting import plots, run_report, text_table
from yoloprune.reporting.facts import Report
from yoloprune.settings import command_line
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.trial_requests import SensitivityRequest

TABLE = "sensitivity.csv"
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the FLOPs, to which to prune next, the first that is within reach."""


@console.heard_as_asked
@console.speaking_as("sensitivity")
@generators_kept()
def run(request: SensitivityRequest) -> list[dict[str, Any]]:
    """Narrow each group alone, see `api.sensitivity`."""
    compat.require("sensitivity")
    host_arguments.require(request.host)
    passed = request.host
    parent = saving.load(request.model)
    head_task.settle(parent, {}, asked=False)
    if request.masks is None:
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
        tried = trials.of_sensitivity(parent, seen, request, passed)
        look = _Look(parent, held[0], imgsz, passed)
        with row_by_row.opened("sensitivity", parent, told, passed, TABLE) as (folder, rows):
            what, of = ("widths", "groups") if request.masks is None else ("masks", "layers")
            console.log(
                "sensitivity: ",
                f"{len(tried) - 1} {what} of {len({one.name for one in tried[1:]})} {of}, each alone, on "
                f"{held[1]} images of split={passed.get('split') or 'val'}"
                f"{f'; {len(rows) - 1} of them are done already' if rows else ''}",
            )
            bar = compat.TQDM(total=len(tried), initial=len(rows), desc=console.title("sensitivity: ") + what)
            with console.quiet():  # of a run that goes on: its parent once more
                before = look(tried[0].make())[1] if rows and "low" in rows[0] else None
            for one in tried[len(rows) :]:
                with console.quiet():
                    figures, found = look(one.make())
                before = before if rows else found
                row = {"point": len(rows), **one.told, **figures}
                rows.append(row)
                row |= _chance((before, found), rows)
                csv_rows.append_row(folder / TABLE, row, fresh=len(rows) == 1)
                bar.update(1)
            bar.close()
            _report(folder, rows, request, told, parent, held[1])
    return rows


def _within_reach(parent: ultralytics.YOLO, tender: Sequence[str], imgsz: int) -> tuple[tuple[str, ...], float | None]:
    """Which of the tender layers `prune` shall leave alone, and to what share of the FLOPs it can go then.

    All of them and the first share that can be met; where none can be, the least tender of them is not left alone.
    """
    for count in range(len(tender), -1, -1):
        keep = tuple(tender[:count])
        found = candidates.Channels(parent.model, Limits(keep=keep, native=False), imgsz)
        for share in SHARES:
            with contextlib.suppress(BudgetError):
                found.require_reach(Budget(flops=share))
                return keep, share
    return tuple(tender), None


def _chance(found: tuple[Findings | None, Findings | None], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Ends of the 95 % interval of what the last row lost against the first, in points, where the task has mAP."""
    key = text_table.headline(rows[0])
    difference = paired_bootstrap.between(*found, (rows[0][key], rows[-1][key]))
    return {} if difference is None else {"low": -difference.high, "high": -difference.low}


def _seed(passed: Mapping[str, Any]) -> int:
    return int(passed.get("seed") or 0)


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

    def __call__(self, yolo: ultralytics.YOLO) -> tuple[dict[str, float], Findings | None]:
        """The loss where there are labels for it, the figures of Ultralytics' validation, and what it found."""
        told: dict[str, float] = {}
        if self.batches:
            told["loss"] = round(evaluation.loss(model_facts.with_loss(yolo).to(self.device), self.batches), 5)
        seen = side_by_side.validated(yolo, self.told)
        return {**told, **seen.figures}, seen.found


def _report(
    folder: Path,
    rows: list[dict[str, Any]],
    request: SensitivityRequest,
    told: Mapping[str, Any],
    parent: ultralytics.YOLO,
    images: int,
) -> None:
    """Picture, page, and what is said at the end."""
    columns = {share: f"{100 * share:g} %" for share in request.widths}
    if request.masks is not None:
        columns = {round(1 - zeros.sparsity, 6): str(zeros) for zeros in request.masks.each}
    found = sensitivity_table.summed_up(rows, columns, images)
    of = "channels kept" if request.masks is None else "mask of one layer"
    picture = plots.plot_sensitivity(folder / "sensitivity.png", found.names, found.columns, found.panels, of)
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
    model = told["model"] if isinstance(request.model, (str, Path)) else request.model
    cut: dict[str, Any] = {"model": model, "data": told["data"], "keep": ",".join(found.tender) or None}
    if request.masks is None:
        keep, share = _within_reach(parent, found.tender, told["imgsz"])
        cut |= {"keep": ",".join(keep) or None, "flops": share, "classes": request.classes}
        step = following.typed("yoloprune prune", told["imgsz"], **cut)
    else:
        asked = {key: told.get(key) for key in ("pattern", "head") if told.get(key)}
        most = {} if told.get("sparsity") is None else {"sparsity": request.masks.each[-1].sparsity}
        step = following.typed("yoloprune mask", told["imgsz"], **cut, **asked, **most)
    alone = "group alone is narrowed" if request.masks is None else "layer alone is masked"
    said = f"points of {found.metric} lost where one {alone}\n{text_table.table(found.rows)}\n{found.said}"
    console.conclude("sensitivity: ", text_table.closing(said, [], [folder / TABLE, picture, page], step))
