"""Objects in an image as outlines: from label files, from what a model found, and which of two models' are the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yoloprune.backend import compat
from yoloprune.reporting.facts import Outline


def colour(number: int) -> str:
    """The colour of a class by its number, as `yolo predict` draws it."""
    return "#{:02x}{:02x}{:02x}".format(*compat.colors(number))


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


def found(result: Any) -> list[Outline]:
    """What a model found in one image, as outlines."""
    if result.obb is not None:
        boxes, corners = result.obb, result.obb.xyxyxyxyn.tolist()
    else:
        boxes = result.boxes
        masks = result.masks.xyn if result.masks is not None else [()] * len(boxes)
        upright = boxes.xyxyn.tolist()
        corners = [m if len(m) > 2 else _corners(*box) for m, box in zip(masks, upright, strict=True)]
    return [
        Outline(
            name=str(result.names[int(c)]),
            colour=colour(int(c)),
            score=round(float(s), 4),
            points=_rounded(points),
            matched=False,
        )
        for c, s, points in zip(boxes.cls.tolist(), boxes.conf.tolist(), corners, strict=True)
    ]


def labels(file: Path, task: str, names: Sequence[str]) -> list[Outline]:
    """The objects of a label file; lines that are none are passed over, Ultralytics warns of them."""
    listed = []
    text = file.read_text(encoding="utf-8-sig", errors="replace") if file.is_file() else ""
    for line in text.splitlines():
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
        shown = colour(int(number))
        listed.append(Outline(name=str(name), colour=shown, score=None, points=_rounded(points), matched=True))
    return listed


def _corners(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _rounded(points: Any, most: int = 60) -> list[tuple[float, float]]:
    """Four digits are a pixel of the largest image; of the many corners of a mask some are enough."""
    step = -(-len(points) // most)
    return [(round(float(x), 4), round(float(y), 4)) for x, y in points[::step]]
