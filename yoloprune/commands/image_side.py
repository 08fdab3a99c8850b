"""`imgsz=auto`: the side of the image becomes part of the budget of FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ultralytics

from yoloprune.backend import calibration_images, console, evaluation
from yoloprune.checkpoint import saving
from yoloprune.errors import ArgumentError, DataError
from yoloprune.planning import image_side
from yoloprune.settings.budget import Budget
from yoloprune.settings.keys import AUTO
from yoloprune.settings.value_kinds import write_amount

UNKNOWN = 0.0
"""Objects of which nothing is known count as small, so that the image stays the larger."""


@dataclass(frozen=True)
class Side:
    """Sides of square images in pixels.

    Attributes:
        imgsz (int): Of the network that comes out; its FLOPs are counted there.
        parent (int): Where the parent's FLOPs count.
    """

    imgsz: int
    parent: int


def settle(
    yolo: ultralytics.YOLO, budget: Budget, passed: Mapping[str, Any], data: Any, command: str
) -> tuple[Side, Budget]:
    """Choose the side where it is left open, and what its widths may use.

    Args:
        yolo (YOLO): The parent.
        budget (Budget): What was asked for; for a side that is left open it counts against the parent at its own.
        passed (Mapping[str, Any]): Ultralytics' arguments.
        data (str | Path | None): Where objects are to be found.
        command (str): What is said begins with it.

    Returns:
        (Side): Where FLOPs count.
        (Budget): Of the FLOPs there.

    Raises:
        ArgumentError: If more FLOPs are asked for than there are.
    """
    if passed.get("imgsz") != AUTO:
        given = saving.image_size(yolo, passed.get("imgsz"))
        return Side(given, given), budget
    own, asked = saving.image_size(yolo, None), budget.flops or 1.0  # `checking` demands it
    flops = asked if asked < 1 else asked / (1e9 * evaluation.gflops(yolo.model, own))
    if flops >= 1:
        raise ArgumentError(f"flops={write_amount(asked)}: at imgsz {own} the model has no more than that")
    objects = typical_object(yolo, data, own, passed.get("seed") or 0)
    side, left = image_side.shared(flops, own, max(32, int(max(yolo.model.stride))), objects)
    seen = f"; objects measure {objects:.0f} pixels there" if objects else ""
    console.log(
        f"{command}: ",
        f"imgsz=auto: {side} pixels, where {left:.1%} of the FLOPs are {flops:.1%} of those at {own}{seen}",
    )
    return Side(side, own), replace(budget, flops=left)


def typical_object(yolo: ultralytics.YOLO, data: Any, imgsz: int, seed: int = 0) -> float:
    """Median side of the objects in training images, the root of their boxes' areas, in pixels at `imgsz`.

    Images of classification show one object each.
    """
    if yolo.task == "classify":
        return float(imgsz)
    if not data:
        return UNKNOWN
    try:
        batches = calibration_images.labelled(yolo, data, imgsz, seed=seed)
        boxes = [batch["bboxes"][:, 2:4].prod(1).sqrt().cpu().numpy() for batch in batches if "bboxes" in batch]
    except DataError:  # without a label
        return UNKNOWN
    found = np.concatenate(boxes) if boxes else np.empty(0)
    return float(np.median(found)) * imgsz if len(found) else UNKNOWN
