"""What a network's head is made for, beside what its record and the user call its task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from yoloprune.backend.model_facts import network
from yoloprune.errors import ArgumentError, ModelError

HEADS = {
    **dict.fromkeys(("Detect", "v10Detect", "WorldDetect", "YOLOEDetect", "RTDETRDecoder"), "detect"),
    **dict.fromkeys(("Segment", "Segment26", "YOLOESegment", "YOLOESegment26"), "segment"),
    **dict.fromkeys(("Pose", "Pose26"), "pose"),
    **dict.fromkeys(("OBB", "OBB26"), "obb"),
    "Classify": "classify",
    "SemanticSegment": "semantic",
    "Depth": "depth",
}
"""Task of each of Ultralytics' heads."""


def of_head(model: nn.Module) -> str | None:
    """The task that the head is made for; None where it is a class of somebody else, which may do anything."""
    kind = type(network(model).model[-1])
    return HEADS.get(kind.__name__) if kind.__module__.startswith("ultralytics.") else None


def settle(yolo: Any, passed: Mapping[str, Any], *, asked: bool = True) -> None:
    """Refuse a head that contradicts the task, by which Ultralytics chooses trainer, labels and loss.

    Trained like that, a model fails after its first epoch or learns with half of its head.

    Args:
        yolo (YOLO): The model; `task=` decides where its record is wrong.
        passed (Mapping): Ultralytics' arguments.
        asked (bool): Whether the command takes `task=`.

    Raises:
        ArgumentError: If `task=` is not what the head is made for.
        ModelError: If the record is not, and `task=` is not given.
    """
    meant, given, model = of_head(yolo.model), passed.get("task"), yolo.model
    if meant is None:
        return
    kind = type(network(model).model[-1]).__name__
    if given not in (None, meant):
        raise ArgumentError(f"task={given}: the model ends in {kind}, which is made for {meant}. Leave task= away.")
    if given is None and yolo.task != meant:
        raise ModelError(
            f"The model ends in {kind}, which is made for {meant}, but its record says task={yolo.task}. Give "
            f"{f'task={meant}, or ' if asked else ''}the YOLO object after yolo.task = '{meant}'."
        )
    yolo.task = model.task = meant  # a network may have a record of its own
