"""One point of a sweep, which needs no other: cut or mask, repair, validate."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import ultralytics
from torch import Tensor

from yoloprune.backend import class_labels, evaluation, per_image
from yoloprune.checkpoint import saving
from yoloprune.commands import cut_and_repair, mask
from yoloprune.commands.pieces import Ray
from yoloprune.native.candidates import Choice
from yoloprune.planning.paired_bootstrap import Findings
from yoloprune.selection.calibration import Calibration, place

Labels = tuple[Sequence[str] | None, Any]
"""A data set, and the classes to which its labels are held, None for all: see `class_labels.view`."""


@dataclass(frozen=True)
class Point:
    """One point.

    Attributes:
        name (str): As one types it; "parent" of the whole.
        told (Mapping[str, float]): The columns of its row that say what is left.
        left (Choice | Mapping[str, Tensor]): Which channels stay, or, by layer, which weights.
    """

    name: str
    told: Mapping[str, float]
    left: Choice | Mapping[str, Tensor]


@dataclass(frozen=True)
class Tried:
    """What came of a point.

    Attributes:
        row (dict[str, Any]): Shares that are kept, and figures of the validation.
        found (Findings | None): What was found in each image.
        child (YOLO | None): The network, where it is to be timed.
    """

    row: dict[str, Any]
    found: Findings | None
    child: ultralytics.YOLO | None = None


@dataclass(frozen=True)
class Points:
    """All that the points of a sweep share; whole in itself, so that another process can take it.

    Attributes:
        parent (YOLO): The model before the cut.
        labels (Labels): What networks are validated on.
        passed (Mapping): Ultralytics' arguments.
        recover (str): How a cut is repaired.
        images (list[Tensor] | None): What the repair looks at.
        threads (int): Of torch: sums of another number of threads differ in their last digits.
        timed (bool): Whether networks are handed back.
    """

    parent: ultralytics.YOLO
    labels: Labels
    passed: Mapping[str, Any]
    recover: str
    images: list[Tensor] | None
    threads: int
    timed: bool = False

    def __call__(self, point: Point) -> Tried:
        """Cut or mask to one budget, repair and validate."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        device = place(self.passed.get("device"))
        images = None if self.images is None else [batch.to(device) for batch in self.images]
        if isinstance(left := point.left, Choice):
            child = cut_and_repair.cut(self.parent, left.plan, self.recover, images, left.probe).child
        else:
            sight = Calibration(self.passed["imgsz"], None, device=device, images=images)
            child = mask.masked(self.parent, left, self.recover, sight)
        return self.evaluate(point, child)

    def cluster(self) -> Ray:
        """What a point takes on a cluster: as many cores as threads here, and a GPU where one is used here."""
        return Ray(self.threads, int(evaluation.device(self.passed.get("device")).type == "cuda"))

    def sent(self, labels: Labels) -> Points:
        """The same for another machine, whose only GPU is the first, and where the labels are those given."""
        images = None if self.images is None else [batch.cpu() for batch in self.images]
        passed = {**self.passed, "device": 0} if place(self.passed.get("device")).type == "cuda" else self.passed
        return replace(self, labels=labels, passed=passed, images=images)

    def evaluate(self, point: Point, yolo: ultralytics.YOLO) -> Tried:
        """Validate the network of a point."""
        probe = saving.with_model(yolo, copy.deepcopy(yolo.model))  # validation may fuse the one it runs
        given = {k: v for k, v in self.passed.items() if k != "seed"}
        with (
            class_labels.view(*self.labels) as seen,
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            per_image.watched(probe) as watch,
        ):
            evaluation.validate(probe, {**given, "data": seen, "project": folder, "name": "val", "exist_ok": True})
        row = {"model": point.name, **point.told, **evaluation.metrics(probe)}
        return Tried(row, watch.findings(), yolo if self.timed else None)
