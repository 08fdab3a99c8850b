"""How much hangs on each weight of the layers that a mask takes, by `score=`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ultralytics

from yoloprune.backend import datasets, model_facts, progress_bar
from yoloprune.errors import DataError
from yoloprune.importance import single_weights
from yoloprune.probing.forward import placed
from yoloprune.selection.calibration import Calibration, labelled
from yoloprune.settings.mask_options import n_of_m

NEEDS = {"auto": "nothing", "magnitude": "nothing", "random": "nothing", "wanda": "images", "taylor": "labels"}
"""What each word of `score=` looks at beside the weights."""


def best(parent: ultralytics.YOLO, data: Any, pattern: str) -> str:
    """What `score=auto` stands for: the best that was measured with the repair, of what the data at hand allow.

    The estimate of the loss tells layers and filters apart, less so four weights that lie beside each other.
    """
    if n_of_m(pattern) is not None:
        return "magnitude"
    if not data or model_facts.is_prompted(parent.model) or not datasets.has_classes_of(parent, data):
        return "magnitude"
    return "taylor"


def scored(parent: ultralytics.YOLO, names: Sequence[str], score: str, sight: Calibration) -> single_weights.Scores:
    """Score weights.

    Args:
        parent (YOLO): The model before it is masked.
        names (Sequence[str]): Its layers that are masked.
        score (str): `score=`.
        sight (Calibration): What scores look at.

    Returns:
        (dict[str, Tensor]): By layer; those that no image runs through are left out where images decide.

    Raises:
        ModelError: If the score is taylor and the model's loss needs more than labels.
        DataError: If there are no images, or none runs through any of the layers, or what comes of them is no number.
    """
    if score == "magnitude":
        found = single_weights.magnitude(parent.model, names)
    elif score == "random":
        found = single_weights.random(parent.model, names, sight.seed)
    elif score == "taylor":
        model = model_facts.with_loss(parent)
        batches = labelled(parent, sight, "magnitude")
        with placed(sight.device, model):
            found = single_weights.taylor(model, names, batches)
    else:
        images = sight.images or []
        with progress_bar.Wait(len(images), "ranking weights") as wait, placed(sight.device, parent.model):
            found = single_weights.wanda(parent.model, names, wait.over(images))
    if not found:
        raise DataError(f"score={score}: no image runs through a layer that is masked")
    if bad := next((name for name, values in found.items() if not values.isfinite().all()), None):
        what = f"the weights of {bad}" if NEEDS[score] == "nothing" else f"the images, or what {bad} makes of them,"
        raise DataError(f"score={score}: {what} are not all numbers (NaN or infinite), so nothing can be ranked.")
    return found
