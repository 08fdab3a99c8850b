"""A seeded detection data set of drawn shapes, for demonstrations and tests that need no download.

Circles, squares and triangles of any vivid colour, size and rotation lie on a noisy greyish gradient crossed by lines;
some hide part of a neighbour and some leave the picture. Colour says nothing about the class, so a model has to learn
the outline. Labels come from the geometry: the extent within the picture, whether or not a neighbour covers part of it.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import yaml

from yoloprune.errors import DataError

NAMES = ("circle", "square", "triangle")
_CORNERS = (0, 4, 3)  # per class; 0 means round
_FORMAT = 1  # raise when the drawing changes, so that an older set is not taken for the new one
_SPLITS = ("train", "val")


def make_shapes(folder: str | Path, *, train: int, val: int, imgsz: int, seed: int = 0) -> Path:
    """Write a data set of coloured shapes in the Ultralytics layout, or reuse the same one already there.

    The files are written to a temporary neighbour of `folder` that is renamed at the end, so a run that is interrupted
    leaves no half set. Image `i` of a split depends on `seed`, the split and `i` alone: a larger set starts with the
    images of a smaller one, and no image of `train` occurs in `val`.

    Args:
        folder (str | Path): Where the set shall be; may be missing or empty, or hold the same set.
        train (int): Number of training images, at least 1.
        val (int): Number of validation images, at least 1.
        imgsz (int): Side of the square images in pixels, at least 32.
        seed (int): Seed of the drawing, not negative.

    Returns:
        (Path): The absolute path of `data.yaml`, ready for `data=` of Ultralytics.

    Raises:
        DataError: An argument is out of range, or `folder` holds something else or an incomplete set.
    """
    for name, value, least in (("train", train, 1), ("val", val, 1), ("imgsz", imgsz, 32), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise DataError(f"'{name}' must be an integer of at least {least}. Received: {value!r}")
    folder = Path(folder).resolve()
    record = {"format": _FORMAT, "train": train, "val": val, "imgsz": imgsz, "seed": seed}
    if _holds(folder, record):
        return folder / "data.yaml"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        part = Path(scratch) / folder.name
        for split in _SPLITS:
            _write_split(part, split, record[split], imgsz, seed)
        # Without `path`, Ultralytics resolves `train` and `val` against the folder of data.yaml: the set can be moved.
        text = {"train": "images/train", "val": "images/val", "names": dict(enumerate(NAMES)), "shapes": record}
        (part / "data.yaml").write_text(yaml.safe_dump(text, sort_keys=False), encoding="utf-8")
        try:
            if folder.exists():
                folder.rmdir()  # empty, as `_holds` saw; POSIX could rename over it, Windows could not
            part.rename(folder)
        except OSError as e:  # another process was faster: good if it wrote the same set
            if not _holds(folder, record):
                raise DataError(f"cannot put the shapes data set at '{folder}': {e}") from e
    return folder / "data.yaml"


def _holds(folder: Path, record: dict[str, int]) -> bool:
    """Tell whether `folder` holds the set that `record` describes; False when it is missing or empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["shapes"]
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        found = "something else"
    if found != record:
        raise DataError(f"'{folder}' must be missing, empty or the shapes data set {record}. Received: {found}")
    for kind, suffix in (("images", "jpg"), ("labels", "txt")):
        for split in _SPLITS:
            n = len(list((folder / kind / split).glob(f"*.{suffix}")))
            if n != record[split]:
                raise DataError(f"'{folder}' must hold {record[split]} {kind} in '{kind}/{split}'. Received: {n}")
    return True


def _write_split(root: Path, split: str, count: int, imgsz: int, seed: int) -> None:
    """Write `count` pictures and label files of one split below `root`."""
    import cv2

    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i in range(count):
        image, classes, boxes = _scene(np.random.default_rng([seed, _SPLITS.index(split), i]), imgsz)
        name = f"{split}_{i:05d}"
        (images / f"{name}.jpg").write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
        xywh = np.concatenate([boxes[:, :2] + boxes[:, 2:], 2 * (boxes[:, 2:] - boxes[:, :2])], 1) / (2 * imgsz)
        lines = (f"{c} " + " ".join(f"{v:.6f}" for v in row) for c, row in zip(classes, xywh, strict=True))
        (labels / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _scene(rng: np.random.Generator, imgsz: int) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Draw one picture `(imgsz, imgsz, 3)`; also return the n classes and the boxes `(n, 4)`, xyxy in pixels."""
    t = np.linspace(0, 1, imgsz)[:, None]
    corner = rng.uniform(50, 205) + rng.uniform(-40, 40, (2, 2, 3))  # greyish, so that shapes stand out
    left, right = (corner[0, i] * (1 - t) + corner[1, i] * t for i in (0, 1))
    image = left[:, None] * (1 - t) + right[:, None] * t
    for _ in range(rng.integers(2, 6)):
        (dx, dy), angle = _offsets(rng.uniform(0, imgsz, 2), imgsz), rng.uniform(0, math.pi)
        alpha = np.clip(1.5 - np.abs(dx * math.cos(angle) + dy * math.sin(angle)), 0, 1)  # two pixels wide
        image += alpha[..., None] * (rng.uniform(0, 255, 3) - image)
    classes: list[int] = []
    boxes = np.zeros((0, 4))
    wanted = rng.integers(1, 6)
    for _ in range(20 * wanted):  # crowded pictures may end up with fewer
        kind, radius, angle = int(rng.integers(len(NAMES))), imgsz * rng.uniform(0.1, 0.25), rng.uniform(0, 2 * math.pi)
        centre, colour = rng.uniform(0.5 * radius, imgsz - 0.5 * radius, 2), rng.uniform(0, 255, 3)
        alpha, box = _shape(_CORNERS[kind], centre, radius, angle, imgsz)
        if np.ptp(colour) < 100 or _overlap(box, boxes) > 0.2:
            continue
        image += alpha[..., None] * (colour - image)
        classes.append(kind)
        boxes = np.vstack([boxes, box])
        if len(classes) == wanted:
            break
    image += rng.normal(0, rng.uniform(2, 12), image.shape)
    return np.clip(image, 0, 255).round().astype(np.uint8), classes, boxes


def _shape(corners: int, centre: np.ndarray, radius: float, angle: float, imgsz: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coverage `(imgsz, imgsz)` in [0, 1] and the visible box `(4,)` of a disc or regular polygon."""
    dx, dy = _offsets(centre, imgsz)
    if corners == 0:
        distance = np.hypot(dx, dy) - radius
        outline = np.clip([centre - radius, centre + radius], 0, imgsz)
    else:
        tips = angle + 2 * math.pi * np.arange(corners) / corners
        outline = _crop(centre + radius * np.stack([np.cos(tips), np.sin(tips)], 1), imgsz)
        normals = tips + math.pi / corners
        inner = radius * math.cos(math.pi / corners)
        distance = np.max([dx * math.cos(a) + dy * math.sin(a) for a in normals], 0) - inner
    return np.clip(0.5 - distance, 0, 1), np.concatenate([outline.min(0), outline.max(0)])


def _crop(polygon: np.ndarray, imgsz: int) -> np.ndarray:
    """Cut a convex polygon `(n, 2)` at the borders of the picture (Sutherland and Hodgman 1974)."""
    for axis, border, sign in ((0, 0, 1), (0, imgsz, -1), (1, 0, 1), (1, imgsz, -1)):
        points = []
        for p, q in zip(polygon, np.roll(polygon, -1, 0), strict=True):
            inside, inside_next = sign * (p[axis] - border), sign * (q[axis] - border)
            if inside >= 0:
                points.append(p)
            if inside * inside_next < 0:
                points.append(p + (q - p) * inside / (inside - inside_next))
        polygon = np.array(points)
    return polygon


def _offsets(point: np.ndarray, imgsz: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x `(1, imgsz)` and y `(imgsz, 1)` of the pixel centres, which lie at halves, relative to `point`."""
    grid = np.arange(imgsz) + 0.5
    return grid[None, :] - point[0], grid[:, None] - point[1]


def _overlap(box: np.ndarray, others: np.ndarray) -> float:
    """Return the largest intersection of `box` `(4,)` with one of `others` `(n, 4)`, as a share of the smaller box."""
    sides = np.clip(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0, None)
    smaller = np.minimum(np.prod(others[:, 2:] - others[:, :2], 1), np.prod(box[2:] - box[:2]))
    return float(np.max(np.prod(sides, 1) / smaller, initial=0.0))
