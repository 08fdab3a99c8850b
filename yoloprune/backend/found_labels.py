"""What a model finds in images, written as a data set of labels that another one is trained on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ultralytics

from yoloprune import files
from yoloprune.backend import class_labels, compat, console, datasets, model_facts, run_folders
from yoloprune.backend.stills import Stills, warn_of_unread
from yoloprune.errors import DataError

TASKS = ("detect", "segment", "pose", "obb")
"""Tasks whose results Ultralytics writes as labels that it reads."""

HELD = 0.1
"""Share of the images that the training does not see, for validation: without labels there is no other."""

IOU = 0.5
"""Boxes of a class that overlap by more are one, as labels are; Ultralytics' default for what is looked at is 0.7."""

SEEN = 0.5
"""How sure a keypoint has to be for a label to say where it is."""


@dataclass(frozen=True)
class Labeller:
    """Who labels, and how.

    Attributes:
        model (YOLO): Finds; its network may be fused by that.
        numbers (Mapping[int, int]): From its numbers of classes to those of the labels; other classes get none.
        names (Sequence[str]): Of the classes of the labels.
        conf (float): Least score.
        imgsz (int): Size at which it looks.
        device (Any): Where it runs.
    """

    model: ultralytics.YOLO
    numbers: Mapping[int, int]
    names: Sequence[str]
    conf: float
    imgsz: int
    device: Any = None


@dataclass
class Found:
    """What was written.

    Attributes:
        file (Path): The YAML of the data set.
        images (int): How many images.
        objects (int): What was found in them.
        bare (int): Images in which nothing was.
        held (int): Images that are for validation.
        measured (int): Of these, those in which something was found.
    """

    file: Path
    images: int = 0
    objects: int = 0
    bare: int = 0
    held: int = 0
    measured: int = 0


def write(by: Labeller, stills: Stills, folder: Path, *, told: str, seed: int = 0) -> Found:
    """Label images by what a model finds, through Ultralytics' predictor and in its format.

    Args:
        by (Labeller): The model.
        stills (Stills): The images.
        folder (Path): Where the data set goes: images are linked, frames moved.
        told (str): How images were given, for the error.
        seed (int): Chooses the images for validation.

    Raises:
        DataError: If no image can be read, or nothing is found in any.
    """
    frames = {frame for video in stills.frames for frame in video}
    own, taken = _of_the_task(by.model), set[str]()
    dimensions = own.get("kpt_shape", (0, 0))[1]
    found = Found(folder / "data.yaml")
    named: dict[str, str] = {}
    shown: set[str] = set()
    there = [file for file in stills.all if os.path.isfile(file)]
    for result in _results(by, there) if there else ():  # of an empty list Ultralytics says that it found no images
        named[result.path] = name = files.unlike(Path(result.path).name, taken)  # of the same name in another folder
        image, text = _places(folder, "train", name)
        result.save_txt(text)
        lines = class_labels.relabelled(text.read_text(encoding="utf-8"), by.numbers) if text.is_file() else []
        text.write_text("".join(f"{accepted(line, dimensions)}\n" for line in lines), encoding="utf-8")
        if result.path in frames:
            os.replace(result.path, image)
        else:
            files.link(Path(result.path).absolute(), image)
        found.images += 1
        found.objects += len(lines)
        found.bare += not lines
        if lines:
            shown.add(result.path)
    if not found.images:
        raise DataError(f"{told}: none of its {len(stills.all)} images can be read, the first is {stills.all[0]}.")
    warn_of_unread(told, "images", [file for file in stills.all if file not in named], len(stills.all))
    if not found.objects:
        raise DataError(
            f"{told}: the model found nothing in {found.images} images with a score of at least {by.conf:g}. Give "
            "images such as it was trained on, or a lower labels_conf="
        )
    held = _held([p for p in stills.photos if p in named], stills.frames, shown, seed)
    for file in held:
        for source, target in zip(*(_places(folder, split, named[file]) for split in ("train", "val")), strict=True):
            files.rename(source, target)
    found.held, found.measured = len(held), len(held & shown)
    splits = [s for s in ("train", "val") if (folder / "images" / s).is_dir()]  # one image is both
    places = {"path": str(folder.resolve()), "train": f"images/{splits[0]}", "val": f"images/{splits[-1]}"}
    run_folders.write_yaml(found.file, {**places, **own, "names": dict(enumerate(by.names))})
    return found


def _places(folder: Path, split: str, name: str) -> tuple[Path, Path]:
    """Where an image and its labels go."""
    places = folder / "images" / split / name, (folder / "labels" / split / name).with_suffix(".txt")
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
    return places


def _held(photos: Sequence[str], videos: Sequence[Sequence[str]], shown: set[str], seed: int) -> set[str]:
    """Images for validation: some of the photos by chance, and the end of each video, whose frames are all alike.

    Where nothing was found nothing is measured, and nothing much is learnt: as far as that can be, both parts have
    some of those in which something was.

    Args:
        photos (Sequence[str]): Images that can be read.
        videos (Sequence[Sequence[str]]): Of each video its frames.
        shown (set[str]): Those of both in which something was found.
        seed (int): Of the draw.
    """
    drawn = [photos[i] for i in np.random.default_rng(seed).permutation(len(photos))]
    parts = [[p for p in drawn if p in shown], [p for p in drawn if p not in shown]]
    count = _tenth(photos)
    first = max(round(count * len(parts[0]) / len(photos)), len(parts[0]) > 1) if count else 0
    found = {*parts[0][:first], *parts[1][: count - first]}
    found.update(frame for video in videos for frame in _end(video, shown))
    every = [*parts[0], *(f for video in videos for f in video if f in shown)]
    if len(every) > 1 and not found & shown:  # too few for a tenth
        found.add(every[0])
    if found.issuperset(every):
        found -= set(every[:1])
    rest = [*drawn, *(frame for video in videos for frame in video)]
    return found or set([f for f in rest if f not in shown][:1] if len(rest) > 1 else ())


def _end(video: Sequence[str], shown: set[str]) -> Sequence[str]:
    """A tenth of a video: its end, or where nothing was found there, that up to where something was."""
    seen = [i for i, frame in enumerate(video) if frame in shown]
    start, end = len(video) - _tenth(video), len(video)
    if len(seen) > 1:
        end = end if seen[-1] >= start else seen[-1] + 1
        start = end - _tenth(video)
        start = start if start > seen[0] else seen[len(seen) // 2]  # the first half is there to learn from
    return video[start:end]


def _tenth(images: Sequence[str]) -> int:
    return round(HELD * len(images))


def _results(by: Labeller, listed: Sequence[str]) -> Iterator[Any]:
    """What is found, image by image; those that cannot be read are passed over by Ultralytics, which says so."""
    bar = compat.TQDM(
        total=len(listed), desc=console.title("labels: ") + "by the parent", disable=not console.is_main_process()
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        text = Path(folder) / "images.txt"  # of a list Ultralytics would hold all images in memory
        # Ultralytics reads it in the system's encoding, on Windows that of the country, unless a mark says another one
        text.write_text("\n".join(listed), encoding="utf-8-sig" if os.name == "nt" else "utf-8")
        look = {"conf": by.conf, "iou": IOU, "imgsz": by.imgsz, "device": by.device, "classes": sorted(by.numbers)}
        for result in by.model.predict(str(text), stream=True, verbose=False, save=False, project=folder, **look):
            yield result
            bar.update(1)
    bar.close()


def accepted(line: str, dimensions: int) -> str:
    """A line that Ultralytics wrote of what it found, as its reader of labels takes it.

    The reader refuses all labels of an image where one is beyond the border, as corners of turned boxes may be, and
    takes how sure a keypoint is for whether it is seen.

    Args:
        line (str): A class and fractions of width and height.
        dimensions (int): Numbers per keypoint, 3 where the last says how sure it is; 0 without keypoints.
    """
    number, *values = line.split()
    told = np.array(values, float).clip(0, 1)
    if dimensions == 3:
        points = told[4:].reshape(-1, 3)  # a view
        seen = points[:, 2] >= SEEN
        points[:, 2] = 2.0  # visible, as COCO says it
        points[~seen] = 0.0
    return " ".join([number, *(f"{value:g}" for value in told)])


def _of_the_task(teacher: ultralytics.YOLO) -> dict[str, Any]:
    """What a data set says beside images and names: of poses which keypoints change places in a mirror, too, where the
    data set of the model itself tells.
    """
    channels = model_facts.channels(teacher.model)
    told: dict[str, Any] = {} if channels == 3 else {"channels": channels}
    if teacher.task == "pose":
        told["kpt_shape"] = [int(n) for n in model_facts.network(teacher.model).yaml["kpt_shape"]]
        own = datasets.own(teacher)
        if own is not None and (mirrored := datasets.check(own).get("flip_idx")):
            told["flip_idx"] = list(mirrored)
    return told
