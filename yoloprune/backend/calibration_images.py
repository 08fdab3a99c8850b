"""A few training images as a network sees them without augmentation, with labels for scores, without for repairs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ultralytics
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from yoloprune.backend import compat, console, datasets, label_caches, model_facts, stills
from yoloprune.errors import DataError

DRAWN = 128
"""So many images are looked at."""

PIXELS = 16 * 320**2
"""Input pixels of a batch with gradients: by calculation, backward through yolov8x holds 5 GB for them."""


def batches(
    data: str | Path | None,
    imgsz: int,
    *,
    folder: str | Path | None = None,
    n: int = DRAWN,
    batch: int = 16,
    task: str = "detect",
    channels: int = 3,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> list[Tensor]:
    """Load training images as Ultralytics feeds them in validation: resized, letterboxed, RGB, not augmented.

    Nothing is written: labels are not scanned, so no cache file appears beside them, and the folder may be read-only.
    128 images at imgsz 320 take 157 MB.

    Args:
        data (str | Path | None): Ultralytics data YAML, or the folder of a classification data set.
        imgsz (int): Side of the square images in pixels.
        folder (str | Path | None): Images in place of a data set, see `stills.stills`.
        n (int): Number of images, drawn at random; all of them if there are fewer. Unreadable ones are passed over.
        batch (int): Largest number of images per batch. Batches are as equal as possible, because statistics that
            are averaged over batches give each the same weight.
        task (str): Task of the model; classification crops instead of letterboxing, depth stretches.
        channels (int): Number of image channels of the model.
        device (torch.device | str): Where the batches go.
        seed (int): Seed of the choice.

    Returns:
        (list[Tensor]): Batches of shape (B, channels, imgsz, imgsz), float32 in 0..1.

    Raises:
        DataError: If the YAML is missing or wrong, or there is no readable image.
    """
    told = f"data={data}" if folder is None else f"images={folder}"
    loaded: list[Tensor] = []
    with tempfile.TemporaryDirectory() as frames:
        listed = None if folder is None else stills.stills(folder, Path(frames), most=n).all
        images = _images(data, imgsz, task, channels, listed)
        order = np.random.default_rng(seed).permutation(len(images)).tolist()
        bar = compat.TQDM(
            total=min(n, len(order)), desc=images.prefix + "loading images", disable=not console.is_main_process()
        )
        for image in _readable(images, order):
            loaded.append(image)
            bar.update(1)
            if len(loaded) == n:
                break
        bar.close()
    if not loaded:
        raise DataError(f"{told}: none of its {len(order)} images can be read.")
    parts = np.array_split(np.arange(len(loaded)), -(-len(loaded) // batch))
    return [torch.stack([loaded[i] for i in part]).to(device) for part in parts]


def labelled(
    yolo: ultralytics.YOLO,
    data: str | Path,
    imgsz: int,
    *,
    n: int = DRAWN,
    batch: int = 16,
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
        DataError: If the YAML is missing or wrong, or there is no labelled image.
    """
    batch = max(1, min(batch, PIXELS // imgsz**2))
    settings = {"mode": "val", "data": str(data), "imgsz": imgsz, "batch": batch, "split": "train", "workers": 0}
    arguments = {**yolo.overrides, **settings, "rect": False, "plots": False}
    generator = np.random.default_rng(seed)
    # The validator makes itself a folder for results that never come.
    with tempfile.TemporaryDirectory() as folder, datasets.one_line(data), label_caches.untouched(n, generator):
        validator = yolo.task_map[yolo.task]["validator"](save_dir=Path(folder), args=arguments)
        train = datasets.training_images(data, yolo.task)
        if yolo.task != "classify":
            validator.data = datasets.check(data)
            files = _images(data, imgsz, yolo.task, model_facts.channels(yolo.model)).im_files
            drawn = [os.path.abspath(files[i]) for i in generator.permutation(len(files))[:n]]
            listed = Path(folder) / "drawn.txt"
            listed.write_text("\n".join(drawn), encoding="utf-8")
            train = str(listed)
        validator.device, validator.names = torch.device(device), yolo.model.names
        validator.stride = max(32, int(yolo.model.stride.max()))
        images = validator.get_dataloader(train, batch).dataset
    if not any(len(label.get("cls", " ")) for label in getattr(images, "labels", [{}])):
        raise DataError(
            f"data={data}: of {len(images)} training images none has a label that Ultralytics accepts, and {wanted}"
        )
    order = generator.permutation(len(images)).tolist()
    loader = DataLoader(Subset(images, order), batch, collate_fn=getattr(images, "collate_fn", None))
    for found in compat.TQDM(
        loader, desc=console.title("score: ") + "labelled images", disable=not console.is_main_process()
    ):
        yield validator.preprocess(found)


class _Images(compat.BaseDataset):  # type: ignore[misc]  # looked up when it is read, and so without a type
    """Images alone, through the two methods that Ultralytics leaves to subclasses."""

    task = "detect"

    def get_img_files(self, img_path: Any) -> list[str]:
        found: list[str] = list(img_path) if isinstance(img_path, tuple) else super().get_img_files(img_path)
        return found

    def get_labels(self) -> list[dict[str, Any]]:
        return [{"im_file": f} for f in self.im_files]

    def build_transforms(self, hyp: Any) -> Any:
        stretched = {"scale_fill": True} if self.task == "depth" else {}  # which releases before that task do not know
        return compat.LetterBox((self.imgsz, self.imgsz), scaleup=False, **stretched)

    def __getitem__(self, index: int) -> Tensor:
        """One image, shape (C, imgsz, imgsz), float32 in 0..1."""
        if self.task == "classify":
            image = compat.imread(self.im_files[index])  # not PIL's open, which Ultralytics lets install packages
            if image is None:
                raise FileNotFoundError(self.im_files[index])
            cropped: Tensor = compat.classify_transforms(self.imgsz)(Image.fromarray(image[..., ::-1]))
            return cropped
        image = self.transforms(image=self.load_image(index)[0])
        image = image.reshape(self.imgsz, self.imgsz, -1)  # OpenCV drops the dimension of a single channel
        if image.shape[2] != self.channels:
            raise ValueError(f"{self.im_files[index]} has {image.shape[2]} channels, the model takes {self.channels}")
        if self.channels == 3:
            image = image[..., ::-1]  # BGR to RGB
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


class _ClassifyImages(_Images):
    task = "classify"


class _DepthImages(_Images):
    task = "depth"


def files_in(places: str | list[str]) -> list[str]:
    """Image files in folders and lists, as Ultralytics finds them."""
    found: list[str] = _Images(places, 32, augment=False, prefix=console.title("images: ")).im_files
    return found


def _images(
    data: str | Path | None, imgsz: int, task: str, channels: int, listed: Sequence[str] | None = None
) -> _Images:
    """The training images of a data set, or those that are listed."""
    kind = {"classify": _ClassifyImages, "depth": _DepthImages}.get(task, _Images)
    train = datasets.training_images(data or "", task) if listed is None else tuple(listed)
    with datasets.one_line(data):
        told = {"channels": channels} if compat.accepts("BaseDataset", "channels") else {}
        images = kind(train, imgsz, augment=False, prefix=console.title("calibrate: "), **told)
    images.channels = channels
    return images


def _readable(images: _Images, order: list[int]) -> Iterator[Tensor]:
    for i in order:
        try:
            yield images[i]
        except (OSError, ValueError):  # missing, corrupt, or with another number of channels
            continue
