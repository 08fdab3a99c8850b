"""A few training images as a network sees them without augmentation, with labels for scores, without for repairs."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
import ultralytics
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from yoloprune.backend import class_rows, compat, console, datasets, label_caches, model_facts, plain_images, stills
from yoloprune.errors import DataError, UnlabelledError

DRAWN = 128
"""So many whole images are looked at."""

SEEN = 512
"""Of so many images windows are."""

BATCH = 16

PIXELS = 16 * 320**2
"""Input pixels of a batch with gradients: by calculation, backward through yolov8x holds 5 GB for them."""


def batches(
    data: str | Path | None,
    imgsz: int,
    *,
    folder: str | Path | None = None,
    n: int = DRAWN,
    most: int = SEEN,
    side: Callable[[int], int] | None = None,
    batch: int = BATCH,
    task: str = "detect",
    channels: int = 3,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> tuple[list[Tensor], list[Tensor]]:
    """Load training images as Ultralytics feeds them in validation: resized, letterboxed, RGB, not augmented.

    Nothing is written: labels are not scanned, so no cache file appears beside them, and the folder may be read-only.
    128 images at imgsz 320 take 157 MB.

    Args:
        data (str | Path | None): Ultralytics data YAML, or the folder of a classification data set.
        imgsz (int): Side of the square images in pixels.
        folder (str | Path | None): Images in place of a data set, see `stills.stills`.
        n (int): Number of whole images, drawn at random; all if there are fewer. Unreadable ones are passed
            over with one warning.
        most (int): Largest number of images that windows lie in, the whole ones among them.
        side (Callable | None): From that number to the side of windows; None for no windows.
        batch (int): Largest number of images per batch. Batches are as equal as possible, because statistics that
            are averaged over batches give each the same weight.
        task (str): Task of the model; classification crops instead of letterboxing, depth stretches.
        channels (int): Number of image channels of the model.
        device (torch.device | str): Where the batches go.
        seed (int): Seed of the choice, and of the places of windows.

    Returns:
        (tuple[list[Tensor], list[Tensor]]): Batches of shape (B, channels, imgsz, imgsz), float32 in 0..1, and of
            windows at random places; the same ones where windows are as large as images.

    Raises:
        DataError: If the YAML is missing or wrong, or there is no readable image.
    """
    whole: list[Tensor] = []
    cut: list[Tensor] = []
    places = np.random.default_rng([seed, 1])
    with _opened(data, imgsz, folder, n if side is None else most, task, channels) as images:
        wanted = imgsz if side is None else side(min(most, len(images)))
        for image in _drawn(images, n if wanted == imgsz else most, seed):
            top, left = places.integers(0, imgsz - wanted + 1, 2).tolist()
            if len(whole) < n:
                whole.append(image)
            if wanted < imgsz:
                cut.append(image[:, top : top + wanted, left : left + wanted].clone())
    seen = _in_batches(whole, batch, device)
    return seen, _in_batches(cut, batch, device) if cut else seen


@contextlib.contextmanager
def _opened(
    data: str | Path | None, imgsz: int, folder: str | Path | None, most: int, task: str, channels: int
) -> Iterator[plain_images.PlainImages]:
    """The training images of a data set, or those of a folder, of whose videos as many frames are taken."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as frames:
        listed = None if folder is None else stills.stills(folder, Path(frames), most=most).all
        images = plain_images.of(data, imgsz, task, channels, listed)
        images.called = f"data={data}" if folder is None else f"images={folder}"
        yield images


def _drawn(images: plain_images.PlainImages, n: int, seed: int) -> Iterator[Tensor]:
    """Readable images in the order of a draw, `n` at most."""
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    quiet = not console.is_main_process()
    bar = compat.TQDM(total=min(n, len(order)), desc=images.prefix + "loading images", disable=quiet)
    found = 0
    unread: list[str] = []
    for image in itertools.islice(plain_images.readable(images, order, unread), n):
        found += 1
        bar.update(1)
        yield image
    bar.close()
    if not found:
        raise DataError(f"{images.called}: none of its {len(order)} images can be read, the first is {unread[0]}.")
    stills.warn_of_unread(images.called, "images", unread, found + len(unread))


def _in_batches(images: Sequence[Tensor], batch: int, device: torch.device | str) -> list[Tensor]:
    """Batches as equal as possible."""
    parts = np.array_split(np.arange(len(images)), -(-len(images) // batch))
    return [torch.stack([images[i] for i in part]).to(device) for part in parts]


def labelled(
    yolo: ultralytics.YOLO,
    data: str | Path,
    imgsz: int,
    *,
    n: int = DRAWN,
    batch: int = BATCH,
    device: torch.device | str = "cpu",
    seed: int = 0,
    wanted: str = "score=taylor needs some. Use score=output.",
) -> Iterator[dict[str, Any]]:
    """Load training images with labels as Ultralytics validates on them: its own data set of the task, not augmented.

    Only labels of the images that are drawn are scanned. Ultralytics' cache of labels is neither read, for it is a
    pickle, nor written.

    Args:
        yolo (YOLO): Whose task, class names and stride the images are for.
        data (str | Path): Ultralytics data YAML, or the folder of a classification data set.
        imgsz (int): Side of the square images in pixels.
        n (int): Number of images, drawn at random; all of them if there are fewer.
        batch (int): Largest number of images per batch; `PIXELS` may allow fewer.
        device (torch.device | str): Where the batches go.
        seed (int): Seed of the choice.
        wanted (str): What needs labels, and what to do without.

    Yields:
        (dict[str, Any]): What the model's `loss` takes.

    Raises:
        DataError: If the YAML is missing or wrong.
        UnlabelledError: If there is no labelled image.
    """
    batch = max(1, min(batch, PIXELS // imgsz**2))
    settings = {"mode": "val", "data": str(data), "imgsz": imgsz, "batch": batch, "split": "train", "workers": 0}
    arguments = {**yolo.overrides, **settings, "rect": False, "plots": False}
    generator = np.random.default_rng(seed)
    # The validator makes itself a folder for results that never come.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        datasets.one_line(data),
        label_caches.untouched(n, generator),
    ):
        validator = yolo.task_map[yolo.task]["validator"](save_dir=Path(folder), args=arguments)
        train = datasets.training_images(data, yolo.task)
        if yolo.task != "classify":
            validator.data = datasets.check(data)
            files = plain_images.of(data, imgsz, yolo.task, model_facts.channels(yolo.model)).im_files
            drawn = [os.path.abspath(files[i]) for i in generator.permutation(len(files))[:n]]
            listed = Path(folder) / "drawn.txt"
            listed.write_text("\n".join(drawn), encoding="utf-8")
            train = str(listed)
        validator.device, validator.names = torch.device(device), yolo.model.names
        validator.stride = max(32, int(yolo.model.stride.max()))
        images = validator.get_dataloader(train, batch).dataset
    if not any(len(label.get("cls", " ")) for label in getattr(images, "labels", [{}])):
        names = shorten(", ".join(class_rows.names_of(yolo.model)), 100, placeholder=" …")
        raise UnlabelledError(
            f"data={data}: of {len(images)} training images none has a label of {names} that Ultralytics accepts, and "
            f"{wanted}"
        )
    order = generator.permutation(len(images)).tolist()
    loader = DataLoader(Subset(images, order), batch, collate_fn=getattr(images, "collate_fn", None))
    for found in compat.TQDM(
        loader, desc=console.title("score: ") + "labelled images", disable=not console.is_main_process()
    ):
        yield validator.preprocess(found)
