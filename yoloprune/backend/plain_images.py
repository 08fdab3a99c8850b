"""Images of a data set as a network sees them in validation, without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from yoloprune.backend import compat, console, datasets


class PlainImages(compat.BaseDataset):  # type: ignore[misc]  # looked up when it is read, and so without a type
    """Images alone, through the two methods that Ultralytics leaves to subclasses."""

    task, called = "detect", ""

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


class _ClassifyImages(PlainImages):
    task = "classify"


class _DepthImages(PlainImages):
    task = "depth"


def files_in(places: str | list[str]) -> list[str]:
    """Image files in folders and lists, as Ultralytics finds them."""
    found: list[str] = PlainImages(places, 32, augment=False, prefix=console.title("images: ")).im_files
    return found


def of(
    data: str | Path | None, imgsz: int, task: str, channels: int, listed: Sequence[str] | None = None
) -> PlainImages:
    """The training images of a data set, or those that are listed."""
    kind = {"classify": _ClassifyImages, "depth": _DepthImages}.get(task, PlainImages)
    train = datasets.training_images(data or "", task) if listed is None else tuple(listed)
    with datasets.one_line(data):
        told = {"channels": channels} if compat.accepts("BaseDataset", "channels") else {}
        images = kind(train, imgsz, augment=False, prefix=console.title("calibrate: "), **told)
    images.channels = channels
    return images


def readable(images: PlainImages, order: list[int], unread: list[str]) -> Iterator[Tensor]:
    """Those of them that can be read; `unread` gets the others."""
    for i in order:
        try:
            yield images[i]
        except (OSError, ValueError):  # missing, corrupt, or with another number of channels
            unread.append(images.im_files[i])
