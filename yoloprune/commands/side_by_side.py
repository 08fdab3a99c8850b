"""Two models on the same validation data: figures by class, and what they find in the same few images."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

import numpy as np
import ultralytics
from PIL import Image

from yoloprune.backend import calibration_images, compat, console, datasets, evaluation
from yoloprune.checkpoint import saving
from yoloprune.errors import DataError, raised_by
from yoloprune.reporting.facts import ClassFigures, ExampleImage, Outline
from yoloprune.torch_internals import is_out_of_memory

SHOWN = 8
"""So many images are shown."""

PIXELS = 480
"""Longer side of an image in a page."""

CONFIDENCE = 0.25
"""Of what is drawn, as `yolo predict` has it."""

OUTLINED = frozenset({"detect", "segment", "pose", "obb"})
"""Tasks whose results have outlines."""


@dataclass(frozen=True)
class Looks:
    """Two models on the same data.

    Attributes:
        figures (tuple[Mapping[str, float], ...]): Of both, as `evaluation.metrics` names them; empty where they were
            not validated.
        by_class (list[ClassFigures]): By class of the data.
        images (list[ExampleImage]): What both find in a few images.
    """

    figures: tuple[Mapping[str, float], ...] = ()
    by_class: list[ClassFigures] = field(default_factory=list)
    images: list[ExampleImage] = field(default_factory=list)

    def in_front(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Rows of a table with the figures behind the name of the model."""
        found = self.figures or ({},) * len(rows)
        return [{"model": row["model"], **figures, **row} for row, figures in zip(rows, found, strict=True)]


def look(
    before: ultralytics.YOLO,
    after: ultralytics.YOLO,
    data: Any,
    imgsz: int,
    passed: Mapping[str, Any],
    *,
    validate: bool,
    command: str = "prune",
) -> Looks:
    """Look at two models side by side, as far as the data allow: what goes wrong is said, and the models stand.

    Args:
        before (YOLO): The first model, stays untouched.
        after (YOLO): The second one.
        data (Any): The data set; nothing happens without one.
        imgsz (int): Size at which they look.
        passed (Mapping[str, Any]): Ultralytics' arguments, of which `device` counts.
        validate (bool): Whether to validate both.
        command (str): Who says what goes wrong.
    """
    if not data:
        return Looks()
    device = passed.get("device") or None
    found = Looks()
    try:
        if validate and datasets.has_classes_of(before, data):
            told = {"data": data, "imgsz": imgsz, "device": device, "plots": False, "workers": 0}
            (first, ones, boxes), (last, others, _) = (validated(yolo, told) for yolo in (before, after))
            found = Looks((first, last), by_class(ones, others, boxes))
        return replace(found, images=examples(before, after, data, imgsz, device))
    except Exception as e:  # Ultralytics reads foreign files here; the models are made, and are not lost for a page
        if raised_by(e) != "ultralytics" and not isinstance(e, DataError) and not is_out_of_memory(e):
            raise
        console.warn(f"{command}: the page shows less than it could: data={data}: {shorten(str(e), 300)}")
        return found


def validated(yolo: ultralytics.YOLO, arguments: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float], Any]:
    """Validate a copy of a model; nothing is written, and caches of labels are neither read nor left.

    Args:
        yolo (YOLO): The model, stays untouched.
        arguments (Mapping[str, Any]): Of Ultralytics' validation.

    Returns:
        (tuple): Its figures as `evaluation.metrics` names them, mAP50-95 by class, and objects by class or None.
    """
    probe = saving.with_model(yolo, copy.deepcopy(yolo.model))  # validation fuses the one it runs
    everything = np.iinfo(np.int32).max
    with TemporaryDirectory() as folder, datasets.untouched(everything, np.random.default_rng(0)):
        evaluation.validate(probe, {**arguments, "project": folder, "name": "val", "verbose": False})
    return evaluation.metrics(probe), *evaluation.by_class(probe)


def by_class(
    before: Mapping[str, float], after: Mapping[str, float], boxes: Mapping[str, int] | None
) -> list[ClassFigures]:
    """Figures of the classes that both models were validated on."""
    return [
        ClassFigures(name, None if boxes is None else boxes.get(name, 0), before[name], after[name])
        for name in before
        if name in after
    ]


def examples(
    before: ultralytics.YOLO, after: ultralytics.YOLO, data: Any, imgsz: Any, device: Any, split: str = "val"
) -> list[ExampleImage]:
    """What two models find in a few images, drawn by chance from a split: the same ones for the same data.

    Args:
        before (YOLO): The first model, stays untouched.
        after (YOLO): The second one.
        data (str | Path): The data set, with the classes of the models.
        imgsz (int): Size at which they look.
        device (Any): Where they run.
        split (str): Of the data set.

    Returns:
        (list[ExampleImage]): Empty for tasks without outlines, and where the data has no such split.
    """
    if before.task not in OUTLINED or not data:
        return []
    try:
        told = datasets.check(data)
        files = calibration_images.files_in(told[split])
    except (DataError, KeyError):
        return []
    names = list(told["names"].values() if isinstance(told["names"], dict) else told["names"])
    drawn = [files[i] for i in sorted(np.random.default_rng(0).permutation(len(files))[:SHOWN])]
    look = {"imgsz": imgsz, "device": device, "conf": CONFIDENCE, "verbose": False, "save": False}
    found = []
    for yolo in (before, after):
        probe = saving.with_model(yolo, copy.deepcopy(yolo.model))
        with TemporaryDirectory() as folder:  # a predictor makes itself a folder
            results = [probe.predict(file, project=folder, **look)[0] for file in drawn]
        found.append([_outlines(result) for result in results])
    shown = []
    for file, text, first, second in zip(drawn, compat.img2label_paths(drawn), *found, strict=True):
        changed = compare(first, second)
        labels = _labels(Path(text), before.task, names)
        jpeg, size = _small(file)
        shown.append(ExampleImage(Path(file).name, size, jpeg, round(changed, 4), labels, first, second))
    return sorted(shown, key=lambda image: -image.changed)


def compare(first: list[Outline], second: list[Outline]) -> float:
    """Mark what both models find, and say how much changed.

    Pairs of one class are taken by falling IoU, each outline once, down to 0.5.

    Returns:
        (float): 1 - 2 sum(IoU of the pairs) / (outlines of both): 0 where all are the same, 1 without any pair.
    """
    pairs = [
        (iou, i, j)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if a["name"] == b["name"] and (iou := _iou(a["points"], b["points"])) >= 0.5
    ]
    total = 0.0
    left, right = set(range(len(first))), set(range(len(second)))
    for iou, i, j in sorted(pairs, reverse=True):
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
            first[i]["matched"] = second[j]["matched"] = True
            total += iou
    n = len(first) + len(second)
    return 1 - 2 * total / n if n else 0.0


def _iou(a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]) -> float:
    """Of the upright boxes around two outlines."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = ((*np.min(p, 0), *np.max(p, 0)) for p in (a, b))
    across, down = min(aw, bw) - max(ax, bx), min(ah, bh) - max(ay, by)
    both = max(across, 0.0) * max(down, 0.0)
    either = (aw - ax) * (ah - ay) + (bw - bx) * (bh - by) - both
    return float(both / either) if either > 0 else 0.0


def _outlines(result: Any) -> list[Outline]:
    """What a model found in one image, as outlines."""
    if result.obb is not None:
        boxes, corners = result.obb, result.obb.xyxyxyxyn.tolist()
    else:
        boxes = result.boxes
        masks = result.masks.xyn if result.masks is not None else [()] * len(boxes)
        upright = boxes.xyxyn.tolist()
        corners = [m if len(m) > 2 else _corners(*box) for m, box in zip(masks, upright, strict=True)]
    return [
        Outline(name=str(result.names[int(c)]), score=round(float(s), 4), points=_rounded(points), matched=False)
        for c, s, points in zip(boxes.cls.tolist(), boxes.conf.tolist(), corners, strict=True)
    ]


def _labels(file: Path, task: str, names: Sequence[str]) -> list[Outline]:
    """The objects of a label file; lines that are none are passed over, Ultralytics warns of them."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            number, *rest = (float(v) for v in line.split())
            name = names[int(number)]
        except (ValueError, IndexError):
            continue
        if task in {"segment", "obb"} and len(rest) >= 6:
            points = list(zip(rest[::2], rest[1::2], strict=False))
        elif len(rest) >= 4:
            x, y, w, h = rest[:4]
            points = _corners(x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        else:
            continue
        found.append(Outline(name=str(name), score=None, points=_rounded(points), matched=True))
    return found


def _corners(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _rounded(points: Any, most: int = 60) -> list[tuple[float, float]]:
    """Four digits are a pixel of the largest image; of the many corners of a mask some are enough."""
    step = -(-len(points) // most)
    return [(round(float(x), 4), round(float(y), 4)) for x, y in points[::step]]


def _small(file: str) -> tuple[bytes, tuple[int, int]]:
    """A JPEG of an image for a page, and its width and height."""
    array = compat.imread(file)
    image = Image.fromarray(
        np.ascontiguousarray(array[..., ::-1]) if array.shape[-1] == 3 else array.squeeze()[..., :3]
    )
    image.thumbnail((PIXELS, PIXELS))
    image.convert("RGB").save(kept := BytesIO(), "jpeg", quality=80)
    return kept.getvalue(), image.size
