"""Cut channels out: choose, cut, prove, repair, save, report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
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
    progress_bar,
    records,
    run_folders,
    yaml_markers,
)
from yoloprune.checkpoint import saving
from yoloprune.checkpoint.loading import ModelSource
from yoloprune.commands import cut_and_repair, following, image_side, only_classes, packing, prune_report, side_by_side
from yoloprune.commands.validate import add_times
from yoloprune.native import candidates
from yoloprune.probing.random_draws import generators_kept
from yoloprune.reporting import run_report, text_table
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.selection import decision, device_times, latency_search
from yoloprune.selection.calibration import calibration, data_set, place
from yoloprune.settings.keys import AUTO
from yoloprune.settings.requests import PruneRequest


@dataclass(frozen=True)
class PruneResult:
    """What came of a cut.

    Attributes:
        model (YOLO): The pruned model, loaded from its file.
        file (Path): `<run>/weights/pruned.pt`.
        choice (Choice): Which channels stayed, and what can say them.
        cut (Cut): The proof, and how far the outputs moved.
        rows (list[dict]): The printed table: parent and pruned.
        next_step (str): What to type now.
    """

    model: ultralytics.YOLO
    file: Path
    choice: candidates.Choice
    cut: cut_and_repair.Cut
    rows: list[dict[str, Any]]
    next_step: str

    def __repr__(self) -> str:
        """The table, and the next command."""
        return text_table.closing("", self.rows, [self.file], self.next_step).lstrip()


Judge = Callable[[ultralytics.YOLO], side_by_side.Looks]
"""From a cut model to how good its parent and it are."""


@generators_kept()
def run(request: PruneRequest, judge: Judge | None = None, *, timed: bool = False) -> PruneResult:
    """Prune, see `api.prune`.

    Args:
        request (PruneRequest): What to do.
        judge (Judge | None): Validates in place of this command, for a caller that knows the parent already.
        timed (bool): Whether the caller measures times, so that the page shows those of layers.
    """
    compat.require("prune")
    host_arguments.require(request.host)
    host_arguments.require_openable(request.host)
    passed = request.passed
    deployment = Deployment.asked(passed, place(passed.get("device")), request.threads, passed.get("batch"))
    times = None if request.times is None else device_times.read(request.times)
    whole = saving.load(request.model)
    head_task.settle(whole, {}, asked=False)
    records.require_unmasked(whole.model)
    run_folders.require_other(whole.task, "prune", request.host, "pruned.pt", whole.ckpt_path)
    data = data_set(whole, request)
    only_classes.require(whole, request.classes, data)
    chosen = passed.get("imgsz") == AUTO and request.timed
    share = image_side.share_of_time(whole, request.latency, deployment) if chosen else None
    parent, classes = only_classes.cut(whole, request.classes, image_side.reference(whole, passed))
    side, budget = image_side.settle(parent, request.budget, passed, "prune", share)
    asked, request = request, replace(request, budget=budget)
    told = image_side.told_as_asked(parent, asked.budget, side)
    if side.imgsz != side.parent:
        whole, parent = (saving.at_side(yolo, side.imgsz) for yolo in (whole, parent))
    imgsz = side.imgsz
    with saving.told_who_wrote(parent), told:
        ready = decision.prepared(parent, request, imgsz, times)
    timed_on = deployment.device if timed or request.timed else None
    if asked.timed and asked.latency is not None:
        request = replace(request, latency=image_side.time_left(whole, asked.latency, side, deployment, "prune"))
    start = _Start(asked, whole, parent, classes, data, side, ready, timed_on)
    with bench.opened(deployment, whole.model, imgsz) if request.timed else nullcontext(times) as clock:
        return _run(request, start, clock, judge)


class _Start(NamedTuple):
    """What was asked for, of the parent at its own side, and what is known before images are looked at; `timed_on` is
    where layers are timed, None for nowhere.
    """

    asked: PruneRequest
    whole: ultralytics.YOLO
    parent: ultralytics.YOLO
    classes: only_classes.Kept
    data: Any
    side: image_side.Side
    ready: candidates.Channels | candidates.Choice
    timed_on: torch.device | None


def _run(
    request: PruneRequest,
    start: _Start,
    clock: bench.Bench | device_times.DeviceTimes | None,
    judge: Judge | None,
) -> PruneResult:
    """Prune a parent at an image size to what is left for widths there, with a clock where times are wanted."""
    model: ModelSource = request.model
    asked, whole, parent, classes, data, side, ready, timed_on = start
    imgsz = side.imgsz
    if yaml_markers.entry_of(parent) is not None:
        console.log("prune: ", "the model was pruned before; fractions are of what is left of it")
    seed = request.passed.get("seed") or 0
    with saving.told_who_wrote(parent), class_labels.few(classes.names, data, seed) as seen:
        drawn = request.budgeted and "auto" in (request.criterion.score, request.recover)
        sight = calibration(parent, seen, imgsz, request.passed, folder=request.images, drawn=drawn)
        choice, order = decision.choose(parent, request, sight, ready, clock)
    if gone := choice.plan.removed:
        console.log("prune: ", f"branches that go as a whole: {', '.join(map(choice.graph.names.of, gone))}")
    dead = not request.budgeted
    how = request.recover if not choice.alive.all() else "none"
    done = cut_and_repair.cut(parent, choice.plan, how, sight.repairing, choice.probe, dead=dead)
    arguments = _arguments(request, data, imgsz)
    origin = (parent.ckpt_path or model) if isinstance(model, (str, Path)) else None  # "small" stands for small.pt
    facts = classes.noted(saving.make_provenance(origin, arguments))
    had, has = classes.columns()
    had, has = {**had, **side.told(of_parent=True)}, {**has, **side.told(of_parent=False)}
    with progress_bar.Wait(5, "saving and reading back") as wait:
        choice, child, checkpoint = packing.packed(done.child, choice, facts, insists=request.limits.native is True)
        wait.tick()
        rows: list[dict[str, Any]] = [{"model": "parent", **had, **evaluation.measure(whole.model, side.parent)}]
        wait.tick()
    with run_folders.new_run(parent.task, "prune", request.host) as folder:
        target = folder / "weights" / "pruned.pt"
        checkpoint.require_room(target)
        with files.staged(folder) as part:
            file = part / target.relative_to(folder)
            with wait:
                checkpoint.write(file)
                saved = saving.load(file)
                wait.tick()
                packing.require_saved(child, saved, choice)
                wait.tick()
                rows.append({"model": "pruned", **has, **evaluation.measure(saved.model, imgsz)})
                wait.tick()
            origin_name = str(origin or parent.model_name)
            written = _arguments(asked, data, AUTO if asked.passed.get("imgsz") == AUTO else imgsz)
            run_folders.write_args(part, {"mode": "prune", "model": origin_name, **written, "save_dir": folder})
            timing = _timed(rows, clock, whole, child, side) if isinstance(clock, bench.Bench) else None
            layer_times: list[dict[str, float]] = []
            if timed_on is not None:
                layer_times = prune_report.layer_times(parent, done.child, choice, imgsz, timed_on)
            if isinstance(clock, device_times.DeviceTimes):
                timing = clock.predicted(parent.model, choice)
            with class_labels.view(classes.names, data) as seen:
                looks = side_by_side.look(
                    parent,
                    saved,
                    seen,
                    imgsz,
                    request.passed,
                    validate=_is_validated(request),
                    before_imgsz=side.parent,
                    known=judge(saved) if judge else None,
                )
            rows = looks.in_front(rows)
            told_of = prune_report.Told(
                asked, choice, order, done, rows, looks, facts, timing, layer_times, side, folder
            )
            said = prune_report.write(part, told_of)
    checkpoint.tidy(target)
    if isinstance(clock, device_times.DeviceTimes) and timing is not None:
        promise = f"latency={request.latency}: {timing['predicted']:.3f} of the parent's {clock.ms:.2f} ms is predicted"
        words = clock.again(target, origin or "...", data)
        console.conclude(
            "prune: ", f"{promise} in {clock}, and cannot be measured here. To have it timed there:\n  {words}"
        )
    elif asked.latency is not None:
        latency_search.judge(asked.latency, *(row["ms"] for row in rows))
    step = following.after_prune(
        (whole, child),
        asked,
        target,
        choice,
        rows,
        data=data or datasets.own(whole),
        imgsz=imgsz,
        unrepaired=not dead and sight.images is None,
    )
    files_now = [target, folder / run_report.HTML]
    console.conclude("prune: ", text_table.closing(said, rows, files_now, step))
    return PruneResult(saving.load(target), target, choice, done, rows, step)


def _arguments(request: PruneRequest, data: Any, imgsz: Any) -> dict[str, Any]:
    """What is written of a request: all that is set."""
    told = {**request.kwargs(), "imgsz": imgsz, "data": data or request.passed.get("data")}
    return {k: v for k, v in told.items() if v is not None}


def _timed(
    rows: list[dict[str, Any]],
    clock: bench.Bench,
    whole: ultralytics.YOLO,
    child: ultralytics.YOLO,
    side: image_side.Side,
) -> dict[str, Any]:
    """Put milliseconds into the rows, the parent's at its own side; what was measured and on what."""
    if side.imgsz == side.parent:
        return add_times("prune", rows, clock, child.model)
    with bench.opened(clock.deployment, whole.model, side.parent) as own:
        return add_times("prune", rows, own, child.model, sides=[side.imgsz])


def _is_validated(request: PruneRequest) -> bool | None:
    """Whether both models are: on the model's own data set by `val=True` alone; None where that is not said."""
    wanted = request.passed.get("val")
    if wanted is not None:
        return bool(wanted)
    return None if request.passed.get("data") else False
