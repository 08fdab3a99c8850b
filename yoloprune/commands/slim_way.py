"""Which way a `slim` goes: prune a trained model, fade channels in a training, or train first."""

from __future__ import annotations

from typing import Any

import ultralytics

from yoloprune.backend import class_labels, console, datasets, model_facts, per_image, yaml_markers
from yoloprune.errors import ArgumentError
from yoloprune.settings.slim_request import SlimRequest


def knows(yolo: ultralytics.YOLO, request: SlimRequest, data: Any) -> bool:
    """Whether a model was trained for the classes of a data set."""
    if model_facts.is_untrained(yolo.model):
        return False
    if request.classes is not None or request.images is not None:
        return True  # `only_classes` judges; what it finds are its classes
    kept = yaml_markers.kept_classes(yolo)
    return datasets.has_classes_of(yolo, data) or class_labels.matched(kept, data) is not None


def require_interval(yolo: ultralytics.YOLO, request: SlimRequest) -> None:
    """Raise ArgumentError where an interval is asked for that no figure of the task has."""
    if request.confidence is not None and yolo.task not in per_image.TASKS:
        raise ArgumentError(
            f"confidence={request.confidence:g}: {yolo.task} models have no mAP whose images could be drawn again. "
            "Leave it out: max_drop= then counts the difference itself"
        )


def choose(request: SlimRequest, *, trained: bool) -> tuple[str, str]:
    """Which way: "prune", "sparse" or "train", as docs/results.md measured them, and why in words.

    Raises:
        ArgumentError: If epochs are too few for its trainings.
    """
    if request.images is not None and not trained:
        raise ArgumentError("images: must come with a trained model, which finds the labels in them. Train it first")
    found, why = request.way, "as asked for"
    if found == "auto" and trained:
        found, why = "prune", "the model knows the classes of data="
    elif found == "auto" and request.beyond_sparse is None:
        found, why = "sparse", "the model is not trained for the classes of data="
    elif found == "auto":
        found, beyond = "train", request.beyond_sparse
        why = f"the model learns the classes of data= first; sparse training has no {beyond}"
    if found == "train" and request.classes is not None:
        raise ArgumentError("classes: must come with a trained model, of which these are left. Train it first")
    if found == "prune" and not trained and request.max_drop is not None:
        raise ArgumentError("way=prune: max_drop= counts from a model that knows the classes of data=. Leave way= out")
    if found == "prune" and not trained:
        console.warn("slim: the model was not trained for the classes of data=, and way=prune cuts it nevertheless")
    request.trainings(found)
    return found, why


def stages_of(chosen: str, request: SlimRequest) -> int:
    """How many stages a way has behind the parent's, at most."""
    return 2 * len(request.trainings(chosen)) - (chosen != "prune")
