"""What a `slim` begins with: what was asked for, looked at before anything is written, and the way that it goes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ultralytics

from yoloprune.backend import console, datasets, evaluation, found_labels, head_task, host_arguments, records
from yoloprune.checkpoint import saving
from yoloprune.commands import finetune, following, image_side, only_classes, parent_labels, slim_way
from yoloprune.commands.slim_stages import Stages
from yoloprune.commands.slim_work import Work, labelled
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.registry import TORCH
from yoloprune.settings import command_line
from yoloprune.settings.keys import AUTO
from yoloprune.settings.slim_request import SlimRequest


class Start(NamedTuple):
    """What is known before anything is written.

    Attributes:
        request (SlimRequest): As it was asked for.
        settled (SlimRequest): The same with what `imgsz=auto` stands for.
        parent (YOLO): The model.
        seen (YOLO): The model with the classes that stay.
        names (list[str] | None): Those, where it knew more once.
        data (Any): The data set, None where images are labelled first.
        by (Labeller | None): Who labels those.
        side (Side): Sides of the images.
        deployment (Deployment): What is exported and timed, and where.
        way (str): "prune", "sparse" or "train".
        why (str): What decided that.
        trained (bool): Whether the parent knows the classes of the data.
        began (float): When, by `time.perf_counter`.
    """

    request: SlimRequest
    settled: SlimRequest
    parent: ultralytics.YOLO
    seen: ultralytics.YOLO
    names: list[str] | None
    data: Any
    by: found_labels.Labeller | None
    side: image_side.Side
    deployment: Deployment
    way: str
    why: str
    trained: bool
    began: float

    @property
    def origin(self) -> str:
        """Where the model came from."""
        model = self.request.model
        return str(model if isinstance(model, (str, Path)) else self.parent.model_name)

    @property
    def arguments(self) -> dict[str, Any]:
        """All that was asked for, as the run's args.yaml holds it."""
        told = {**self.request.kwargs(), "model": self.origin, "data": self.data}
        return {k: v for k, v in told.items() if v is not None}


def started(request: SlimRequest) -> Start:
    """Look at all that was asked for, and choose side and way; raises what is wrong with it."""
    began, passed = time.perf_counter(), request.passed
    host_arguments.require({k: v for k, v in request.host.items() if k not in request.shipped})
    host_arguments.require_openable(request.host)
    parent = saving.load(request.model)
    head_task.settle(parent, passed)
    records.require_unmasked(parent.model)
    data, by = None, None
    if request.images is None:
        data = datasets.given_or_own(parent, passed.get("data"), "slim")
        datasets.require(data)
        datasets.require_channels(parent, data)
    else:
        by = parent_labels.labeller(parent, parent, "model", request.labels_conf, passed)
    finetune.require_teachable(parent, {"distill_model": request.distill})
    slim_way.require_interval(parent, request)
    device = evaluation.device(passed.get("device"))
    deployment = Deployment.asked({**request.shipped, "data": data or request.images}, device, request.threads)
    share = request.latency if isinstance(request.latency, float) else None  # `checking` demands it with imgsz=auto
    only_classes.require(parent, request.classes, data)
    seen, classes = only_classes.cut(parent, request.classes, image_side.reference(parent, passed))
    side, budget = image_side.settle(seen, request.budget, passed, "slim", share)
    trained = slim_way.knows(parent, request, data)
    way, why = slim_way.choose(request, trained=trained)
    told_side = {"imgsz": side.imgsz} if passed.get("imgsz") == AUTO else {}
    settled = replace(request, budget=budget, passed={**passed, **told_side})
    return Start(request, settled, parent, seen, classes.names, data, by, side, deployment, way, why, trained, began)


def announce(start: Start, stages: Stages) -> None:
    """Say what is going to be done, and where."""
    request = start.request
    unfinished = f"a stage lies in N-name{following.UNFINISHED} there until it is done"
    wanted = ("flops", "params", "sparsity", "latency", "max_drop")
    targets = command_line.pairs({k: request.settings[k] for k in wanted})
    told_way = f"{', '.join(targets)}, way={start.way} ({start.why}), epochs={request.epochs} in all"
    console.log("slim: ", f"{told_way}, {stages.folder} ({unfinished})")
    around = 1 + (start.by is not None) + (start.deployment.format != TORCH)  # the parent, its labels, and an export
    stages.total = around + slim_way.stages_of(start.way, request)


def work_of(start: Start, stages: Stages) -> Work:
    """What does the stages, on labels that are there, or made first."""
    data, deployment = start.data, start.deployment
    if (by := start.by) is not None:
        data = stages.run("labels", lambda part: labelled(part, start.request, by, start.origin)).file
        calibrated = {"data": str(data)} if "data" in deployment.arguments else {}
        deployment = replace(deployment, arguments={**deployment.arguments, **calibrated})
    return Work(start.settled, data, start.side, deployment)
