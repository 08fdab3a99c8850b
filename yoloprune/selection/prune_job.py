"""What a cut looks at: its data set, images, device and limits; once for `prune`, once for all points of `sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import ultralytics
from torch import Tensor

from yoloprune.backend import calibration_images, console, datasets, evaluation, model_facts
from yoloprune.errors import ArgumentError
from yoloprune.settings.budget import Limits
from yoloprune.settings.commands import NEED_IMAGES, PRUNE_BUDGETS


def data_set(parent: ultralytics.YOLO, told: Mapping[str, Any], passed: Mapping[str, Any]) -> Any:
    """What scores and repairs look at: `data=`, else the data set that the model was trained on, where it is at hand.

    `data=False` stands for none, and so does a cut without a budget, which takes only what is dead already.

    Raises:
        ArgumentError: If a score or repair needs images and there are none.
    """
    given = passed.get("data")
    if given:
        return given
    needy = [key for key, values in NEED_IMAGES.items() if told[key] in values]
    budgeted = any(told[option.name] is not None for option in PRUNE_BUDGETS)
    looking = given is None and (needy or (budgeted and "auto" in (told["score"], told["recover"])))
    found = datasets.own(parent) if looking else given
    if found:
        console.log("prune: ", f"scores and repairs look at data={found}, the model's own; data=False goes without")
    elif needy:
        key = needy[0]
        raise ArgumentError(f"{key}={told[key]}: must come with data=, whose images it needs. Received no data")
    return found


def images(parent: ultralytics.YOLO, passed: Mapping[str, Any]) -> list[Tensor] | None:
    """Calibration images of `data=`, None without it, at `imgsz=`; 128 at imgsz 320 take 157 MB."""
    if not passed.get("data"):
        return None
    if passed.get("device") in (None, "") and torch.cuda.is_available():
        console.log("prune: ", "scores and repairs are computed on the CPU; device=0 is faster")
    return calibration_images.batches(
        passed["data"],
        passed["imgsz"],
        task=parent.task,
        channels=model_facts.channels(parent.model),
        device=place(passed),
        seed=passed.get("seed") or 0,
    )


def place(passed: Mapping[str, Any]) -> torch.device:
    """Where scores and repairs are measured: `device=`, and the CPU without it."""
    return torch.device("cpu") if passed.get("device") in (None, "") else evaluation.device(passed["device"])


def limits(told: Mapping[str, Any]) -> Limits:
    """The limits among the settings of a command."""
    return Limits(**{k: told[k] for k in Limits.__dataclass_fields__ if k in told})
