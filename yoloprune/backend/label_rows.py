"""What the labels of a data set hold, read from a few files, and whether a task can use that.

Ultralytics finds out while it reads all labels, which is after networks were built and images scored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from yoloprune.backend import compat

ENOUGH = 32
"""Label files with rows that are read; the same for each split."""

LOOKED_FOR = 2000
"""Images whose label files are looked for: of these most may be backgrounds."""

BOX = 5
"""Numbers in a row that is a class and a box."""

OUTLINE = 7
"""Numbers, at least, in one that is a class and an outline; Ultralytics reads rotated boxes from such rows, too."""

NEEDED = {
    "segment": ("segments", "class x1 y1 x2 y2 x3 y3 …"),
    "obb": ("rotated boxes", "class x1 y1 x2 y2 x3 y3 x4 y4"),
    "pose": ("keypoints", "class x y width height x1 y1 …"),
}
"""By task, what its labels are beyond boxes, and how a row of them looks."""


def lacking(task: str, told: Mapping[str, Any]) -> str:
    """What the labels of a data set are in place of what a task needs, in a few words.

    Args:
        task (str): Of the model.
        told (Mapping[str, Any]): What the YAML of the data set says, paths resolved.

    Returns:
        (str): Empty where they are of the kind that is needed, and where no label file is there.
    """
    if task not in NEEDED:
        return ""
    (what, row), points = NEEDED[task], told.get("kpt_shape")
    try:
        posed = BOX + int(points[0]) * int(points[1]) if points else 0
    except (TypeError, ValueError, LookupError):  # no shape at all, which Ultralytics says
        return ""
    numbers = f", {posed} numbers" if task == "pose" and points else ""
    needs = f"{'an' if task == 'obb' else 'a'} {task} model needs {what} ('{row}'{numbers})"
    if task == "pose" and not points:
        return f"its YAML has no kpt_shape, and {needs}"
    found = list(_lengths(told))
    if task == "pose":
        return "" if posed in found or not found else f"rows of its labels have {found[0]} numbers, and {needs}"
    outlines = [n for n in found if n >= OUTLINE and n != posed]
    return "" if outlines or not found else f"its labels are boxes{' with keypoints' if points else ''}, and {needs}"


def _lengths(told: Mapping[str, Any]) -> Iterator[int]:
    """How many numbers rows have, of a few label files of each split."""
    for split in ("val", "train"):
        images = islice(_images(told.get(split) or []), LOOKED_FOR)
        files = (Path(text) for image in images for text in compat.img2label_paths([image]))
        texts = (_read(file) for file in files if file.is_file())
        for text in islice((text for text in texts if text.strip()), ENOUGH):
            yield from (len(line.split()) for line in text.splitlines() if line.strip())


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:  # whoever needs it will say
        return ""


def _images(places: str | Sequence[str]) -> Iterator[str]:
    """Files in folders and lists, one by one: there may be hundreds of thousands, of which a few are enough."""
    for place in [places] if isinstance(places, (str, Path)) else places:
        if Path(place).is_dir():
            for folder, _, names in os.walk(place):
                yield from (os.path.join(folder, name) for name in sorted(names))
        elif Path(place).is_file():
            beside = str(Path(place).parent)
            with open(place, encoding="utf-8-sig") as lines:
                for line in filter(None, map(str.strip, lines)):
                    yield os.path.join(beside, line[2:]) if line.startswith("./") else line
