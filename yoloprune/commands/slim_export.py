"""The last stage of a `slim`: Ultralytics exports the model, and what the file says is set beside what torch says."""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import ultralytics
from torch import Tensor

from yoloprune.backend import class_labels, compat, console, evaluation, model_facts, yaml_markers
from yoloprune.checkpoint import saving
from yoloprune.commands import finetune
from yoloprune.commands.slim_stages import Done, Stage
from yoloprune.commands.slim_work import Work
from yoloprune.runtimes import engines
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.registry import missing

TOLERANCE = 1e-3
"""Of the largest value; see `deviation`, and docs/exports.md."""

BOX = 4  # the first rows of a detector's output; behind them one for each class, then what else its task has


def export(part: Path, work: Work, tuned: Stage, deployment: Deployment) -> Done:
    """Export a model, compare it with torch, and validate the file.

    Args:
        part (Path): Where the file goes.
        work (Work): The request.
        tuned (Stage): The model.
        deployment (Deployment): Format and arguments.
    """
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    copy = part / tuned.file.name
    shutil.copyfile(tuned.file, copy)  # Ultralytics writes beside it
    yolo = saving.load(copy)
    told = {**deployment.arguments, "imgsz": work.imgsz, "device": str(deployment.device)}
    try:
        with compat.replaced({"AUTOINSTALL": False}):
            file = Path(yolo.export(format=deployment.format, **told))
    except ModuleNotFoundError as e:
        raise missing(deployment.format, e.name or str(e)) from None
    copy.unlink()
    error = compared(saving.load(tuned.file), file, deployment, work.imgsz)
    if error is not None:
        away = f"is {error:.1e} from what torch computes" if error < math.inf else "puts out what is no number"
        said = f"{file.name} {away} (accepted: {TOLERANCE:.0e})"
        if error > TOLERANCE:
            console.warn(f"slim: {said}; look at its mAP in the table before you ship it")
        else:
            console.log("slim: ", said)
    row = validated(file, tuned, work)
    size = sum(f.stat().st_size for f in ([file] if file.is_file() else file.rglob("*")) if f.is_file())
    written = str(error) if error == math.inf else error  # JSON has no infinity
    return Done(file, {**row, "MB": round(size / 1e6, 2)}, more={"error": written, **deployment.facts()})


def compared(yolo: ultralytics.YOLO, file: Path, deployment: Deployment, imgsz: int) -> float | None:
    """How far an export is from torch on an image of noise, None where the two cannot be set side by side.

    After NMS, at another precision or with findings in an order of their own that is no error.
    """
    if deployment.arguments.get("nms") or deployment.facts()["precision"] != "fp32":
        return None
    channels, device = model_facts.channels(yolo.model), deployment.device
    images = torch.rand(1, channels, imgsz, imgsz, generator=torch.Generator().manual_seed(0)).to(device)
    network = evaluation.fused_copy(yolo.model).to(device)
    with torch.inference_mode():
        expected = _first(network(images)).cpu()
        found = torch.as_tensor(_first(engines.backend(file, deployment)(images))).float().cpu()
    if getattr(model_facts.network(yolo.model).model[-1], "end2end", False):
        return None
    return deviation(expected, found, len(yolo.model.names))


def deviation(expected: Tensor, found: Tensor, classes: int) -> float | None:
    """Largest difference as a share of the largest value, infinite where a value is none.

    Boxes, scores, and behind them keypoints in pixels, mask coefficients or angles, each have a scale of their own.

    Args:
        expected (Tensor): What torch computes, of detectors and their like of shape (B, 4 + classes + more, anchors).
        found (Tensor): What the export computes.
        classes (int): How many classes there are.

    Returns:
        (float | None): None where the two are of other shapes.
    """
    if found.shape != expected.shape:
        return None
    if not found.isfinite().all():
        return math.inf
    at = (0, BOX, BOX + classes, None) if expected.ndim == 3 else (0, None)
    pairs = [(expected[:, a:b], found[:, a:b]) for a, b in itertools.pairwise(at)]
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) for a, b in pairs if a.numel())


def _first(outputs: Any) -> Any:
    """What is read from a network that returns several things."""
    while isinstance(outputs, (list, tuple)):
        outputs = outputs[0]
    return outputs


def validated(file: Path, tuned: Stage, work: Work) -> dict[str, float]:
    """mAP of an exported file, as `yolo val model=` gives it."""
    yolo = saving.load(tuned.file)
    exported = ultralytics.YOLO(str(file), task=yolo.task)
    passed = {k: v for k, v in work.request.passed.items() if k in finetune.LIKE_THE_END - {"batch"} and v is not None}
    with (
        class_labels.view(yaml_markers.kept_classes(yolo), work.data) as seen,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
    ):
        place = {"project": folder, "name": "val", "data": seen, "imgsz": work.imgsz, "verbose": False}
        evaluation.validate(exported, {**passed, **place})
    return evaluation.metrics(exported)
