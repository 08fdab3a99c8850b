"""Two models on the same validation data: figures by class, and what they find in the same few images."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import ultralytics
from PIL import Image

from yoloprune.backend import compat, console, datasets, evaluation, label_caches, per_image, plain_images
from yoloprune.backend.progress_bar import Wait
from yoloprune.checkpoint import saving
from yoloprune.commands import outlines
from yoloprune.errors import DataError, raised_by
from yoloprune.planning.paired_bootstrap import Findings
from yoloprune.reporting.facts import ClassFigures, ExampleImage
from yoloprune.torch_internals import is_out_of_memory

MANY = 1000
"""Validation images up to which a processor validates without being asked."""

NO_DATA = "{} with data= does it, and 'yoloprune val' with data= and against="
"""Why nothing is known without a data set."""

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
        figures (tuple[Mapping[str, Any], ...]): Of both, as `evaluation.metrics` names them; empty where they were
            not validated.
        by_class (list[ClassFigures]): By class of the data.
        images (list[ExampleImage]): What both find in a few images.
        unseen (str): Why there are no figures, and what would give them; empty where there are.
    """

    figures: tuple[Mapping[str, Any], ...] = ()
    by_class: list[ClassFigures] = field(default_factory=list)
    images: list[ExampleImage] = field(default_factory=list)
    unseen: str = ""

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
    validate: bool | None,
    command: str = "prune",
    called: str = "pruned",
    before_imgsz: int | None = None,
    known: Looks | None = None,
) -> Looks:
    """Look at two models side by side, as far as the data allow: what goes wrong is said, and the models stand.

    Args:
        before (YOLO): The first model, stays untouched.
        after (YOLO): The second one.
        data (Any): The data set; nothing happens without one.
        imgsz (int): Size at which they look.
        passed (Mapping[str, Any]): Ultralytics' arguments, of which `device` counts.
        validate (bool | None): Whether to validate both; None unless a processor would take too long.
        command (str): Who says what goes wrong.
        called (str): What the second one is called in the table.
        before_imgsz (int | None): Size at which the first one looks, where it is another.
        known (Looks | None): How good both are, where that is known already.
    """
    sides = (before_imgsz or imgsz, imgsz)
    if not data:
        return Looks(unseen=NO_DATA.format(command))
    device = passed.get("device") or None
    found = known or Looks()
    try:
        unseen = "" if known else _unseen(before, data, device, validate)
        found = replace(found, unseen=unseen)
        if not known and not unseen:
            told = {"data": data, "device": device, "plots": False}
            if evaluation.device(device).type == "cpu":  # which is kept busy by the network
                told["workers"] = 0
            first, last = (
                validated(yolo, {**told, "imgsz": side}) for yolo, side in zip((before, after), sides, strict=True)
            )
            found = Looks((first.figures, last.figures), by_class({"parent": first.classes, called: last.classes}))
        split = str(passed.get("split") or "val")
        return replace(found, images=examples(before, after, data, sides, device, split))
    except Exception as e:  # Ultralytics reads foreign files here; the models are made, and are not lost for a page
        if raised_by(e) != "ultralytics" and not isinstance(e, DataError) and not is_out_of_memory(e):
            raise
        console.warn(f"{command}: the page shows less than it could: data={data}: {shorten(str(e), 300)}")
        return found if found.figures else replace(found, unseen=f"looking at data={data} failed")


def _unseen(yolo: ultralytics.YOLO, data: Any, device: Any, validate: bool | None) -> str:
    """Why models are not to be validated on a data set, empty where they are; see `look`."""
    if validate is False:
        return f"val=True measures it on data={data}"
    if not datasets.has_classes_of(yolo, data):
        return f"data={data} has other classes ({datasets.difference(yolo, data)}); after 'yoloprune finetune' it is"
    if validate is None and yolo.task != "classify" and evaluation.device(device).type == "cpu":
        count = len(plain_images.files_in(datasets.check(data)["val"]))
        if count > MANY:
            return f"{count} images are not validated on the CPU unasked, val=True does it"
    return ""


def shown(
    before: ultralytics.YOLO, after: ultralytics.YOLO, passed: Mapping[str, Any], sides: tuple[int, int], command: str
) -> list[ExampleImage]:
    """What two models, each at its side, find in a few images of the split that was validated, see `look`."""
    first, last = sides
    return look(
        before, after, passed.get("data"), last, passed, validate=False, command=command, before_imgsz=first
    ).images


Figures = tuple[Mapping[str, float], Mapping[str, int] | None]
"""Of one model, from `evaluation.by_class`: mAP50-95 by class, and labelled objects by class where they are counted."""


class Validated(NamedTuple):
    """What a validation found.

    Attributes:
        figures (dict[str, float]): As `evaluation.metrics` names them.
        classes (Figures): By class.
        found (Findings | None): Image by image, None where the task has no mAP.
    """

    figures: dict[str, float]
    classes: Figures
    found: Findings | None


def validated(yolo: ultralytics.YOLO, arguments: Mapping[str, Any]) -> Validated:
    """Validate a copy of a model; nothing is written, and caches of labels are neither read nor left.

    Args:
        yolo (YOLO): The model, stays untouched.
        arguments (Mapping[str, Any]): Of Ultralytics' validation.
    """
    probe = saving.with_model(yolo, copy.deepcopy(yolo.model))  # validation fuses the one it runs
    everything = np.iinfo(np.int32).max
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        label_caches.untouched(everything, np.random.default_rng(0)),
        per_image.watched(probe) as watch,
    ):
        evaluation.validate(probe, {**arguments, "project": folder, "name": "val", "verbose": False})
    return Validated(evaluation.metrics(probe), evaluation.by_class(probe), watch.findings())


def by_class(models: Mapping[str, Figures]) -> list[ClassFigures]:
    """Figures of the classes that all models were validated on, by name of the model; the first one counts objects."""
    (first, boxes), *others = models.values()
    return [
        ClassFigures(name, None if boxes is None else boxes.get(name, 0), {m: of[0][name] for m, of in models.items()})
        for name in first
        if all(name in other for other, _ in others)
    ]


def examples(
    before: ultralytics.YOLO,
    after: ultralytics.YOLO,
    data: Any,
    sides: tuple[int, int],
    device: Any,
    split: str = "val",
) -> list[ExampleImage]:
    """What two models find in a few images, drawn by chance from a split: the same ones for the same data.

    Args:
        before (YOLO): The first model, stays untouched.
        after (YOLO): The second one.
        data (str | Path): The data set, with the classes of the models.
        sides (tuple[int, int]): Sizes at which the two look.
        device (Any): Where they run.
        split (str): Of the data set.

    Returns:
        (list[ExampleImage]): Empty for tasks without outlines, and where the data has no such split.
    """
    if before.task not in OUTLINED or not data:
        return []
    try:
        told = datasets.check(data)
        files = plain_images.files_in(told[split])
    except (DataError, KeyError):
        return []
    names = list(told["names"].values() if isinstance(told["names"], dict) else told["names"])
    drawn = [files[i] for i in sorted(np.random.default_rng(0).permutation(len(files))[:SHOWN])]
    look = {"device": device, "conf": CONFIDENCE, "verbose": False, "save": False}
    found = []
    with Wait(2 * len(drawn), "looking at images") as wait:
        for yolo, side in zip((before, after), sides, strict=True):
            probe = saving.with_model(yolo, copy.deepcopy(yolo.model))
            with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a predictor makes itself a folder
                results = [probe.predict(file, project=folder, imgsz=side, **look)[0] for file in wait.over(drawn)]
            found.append([outlines.found(result) for result in results])
    shown = []
    for file, text, first, second in zip(drawn, compat.img2label_paths(drawn), *found, strict=True):
        changed = outlines.compare(first, second)
        labels = outlines.labels(Path(text), before.task, names)
        jpeg, size = _small(file)
        shown.append(ExampleImage(Path(file).name, size, jpeg, round(changed, 4), labels, first, second))
    return sorted(shown, key=lambda image: -image.changed)


def _small(file: str) -> tuple[bytes, tuple[int, int]]:
    """A JPEG of an image for a page, and its width and height."""
    array = compat.imread(file)
    image = Image.fromarray(
        np.ascontiguousarray(array[..., ::-1]) if array.shape[-1] == 3 else array.squeeze()[..., :3]
    )
    image.thumbnail((PIXELS, PIXELS))
    image.convert("RGB").save(kept := BytesIO(), "jpeg", quality=80)
    return kept.getvalue(), image.size
