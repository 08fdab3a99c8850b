"""`imgsz=auto`: the side of the image becomes part of the budget of FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ultralytics

from yoloprune.backend import console, evaluation
from yoloprune.checkpoint import saving
from yoloprune.errors import ArgumentError
from yoloprune.planning import image_side
from yoloprune.settings.budget import Budget
from yoloprune.settings.keys import AUTO
from yoloprune.settings.value_kinds import write_amount


@dataclass(frozen=True)
class Side:
    """Sides of square images in pixels.

    Attributes:
        imgsz (int): Of the network that comes out; its FLOPs are counted there.
        parent (int): Where the parent's FLOPs count.
    """

    imgsz: int
    parent: int


def settle(yolo: ultralytics.YOLO, budget: Budget, passed: Mapping[str, Any], command: str) -> tuple[Side, Budget]:
    """Choose the side where it is left open, and what its widths may use.

    Args:
        yolo (YOLO): The parent.
        budget (Budget): What was asked for; for a side that is left open it counts against the parent at its own.
        passed (Mapping[str, Any]): Ultralytics' arguments.
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
    side, left = image_side.shared(flops, own, max(32, int(max(yolo.model.stride))))
    console.log(
        f"{command}: ",
        f"imgsz=auto: {side} pixels, where {left:.1%} of the FLOPs are {flops:.1%} of those at {own}",
    )
    return Side(side, own), replace(budget, flops=left)
