"""A few training images as a network sees them without augmentation, with labels for scores, without for repairs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import ultralytics
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from ultralytics.data.augment import LetterBox, classify_transforms
from ultralytics.data.base import BaseDataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import DATASETS_DIR, RANK, TQDM, colorstr
from ultralytics.utils.patches import imread

from yoloprune.errors import DataError


def batches(
    data: str | Path,
    imgsz: int,
    *,
    n: int = 128,
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
        data (str | Path): Ultralytics data YAML, or the folder of a classification data set.
        imgsz (int): Side of the square images in pixels.
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
    images = _images(data, imgsz, task, channels)
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    bar = TQDM(total=min(n, len(order)), desc=images.prefix + "loading images", disable=RANK not in {-1, 0})
    loaded: list[Tensor] = []
    for image in _readable(images, order):
        loaded.append(image)
        bar.update(1)
        if len(loaded) == n:
            break
    bar.close()
    if not loaded:
        raise DataError(f"data={data}: none of its {len(order)} training images can be read.")
    parts = np.array_split(np.arange(len(loaded)), -(-len(loaded) // batch))
    return [torch.stack([loaded[i] for i in part]).to(device) for part in parts]


def has_classes_of(yolo: ultralytics.YOLO, data: str | Path) -> bool:
    """Whether the labels of a data set are about the model's classes: as many of them, and not all of other names.

    Raises:
        DataError: If the YAML is missing or wrong.
    """
    if yolo.overrides.get("single_cls"):
        return True
    with _one_line(data):
        if yolo.task == "classify":
            labels = sorted(f.name for f in Path(_class_folders(data)).iterdir() if f.is_dir())
        else:
            names = check_det_dataset(data, autodownload=False).get("names") or {}
            labels = list(names.values() if isinstance(names, dict) else names)
    known = list(yolo.model.names.values() if isinstance(yolo.model.names, dict) else yolo.model.names)
    if not labels or len(labels) != len(known):
        return not labels
    anonymous = known == [str(i) for i in range(len(known))]  # as Ultralytics calls them before any training
    return anonymous or not set(known).isdisjoint(labels)


def own(yolo: ultralytics.YOLO) -> str | None:
    """The data set that a model was trained on, as its checkpoint names it; None where it is not on this machine.

    Nothing is downloaded or unpacked. A file of that name with other classes is another data set.
    """
    known = yolo.overrides.get("data")
    if not isinstance(known, str) or "://" in known or not (Path(known).is_dir() or known.endswith((".yaml", ".yml"))):
        return None
    try:
        found = _training_images(known, yolo.task)
        here = all(Path(f).exists() for f in (found if isinstance(found, list) else [found]))
        return known if here and has_classes_of(yolo, known) else None
    except DataError:
        return None


def labelled(
    yolo: ultralytics.YOLO,
    data: str | Path,
    imgsz: int,
    *,
    n: int = 128,
    batch: int = 16,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Load training images with labels as Ultralytics validates on them: its own data set of the task, not augmented.

    Labels are scanned on the way, so Ultralytics leaves its cache file beside them, as training does.

    Args:
        yolo (YOLO): Whose task, class names and stride the images are for.
        data (str | Path): Ultralytics data YAML, or the folder of a classification data set.
        imgsz (int): Side of the square images in pixels.
        n (int): Number of images, drawn at random; all of them if there are fewer.
        batch (int): Number of images per batch.
        device (torch.device | str): Where the batches go.
        seed (int): Seed of the choice.

    Yields:
        (dict[str, Any]): What the model's `loss` takes.

    Raises:
        DataError: If the YAML is missing or wrong, or there is no labelled image.
    """
    settings = {"mode": "val", "data": str(data), "imgsz": imgsz, "batch": batch, "split": "train", "workers": 0}
    arguments = {**yolo.overrides, **settings, "rect": False, "plots": False}
    # The validator makes itself a folder for results that never come.
    with tempfile.TemporaryDirectory() as folder, _one_line(data):
        validator = yolo.task_map[yolo.task]["validator"](save_dir=Path(folder), args=arguments)
        if yolo.task == "classify":
            train = _class_folders(data)
        else:
            validator.data = check_det_dataset(data, autodownload=False)
            train = validator.data["train"]
        validator.device, validator.names = torch.device(device), yolo.model.names
        validator.stride = max(32, int(yolo.model.stride.max()))
        images = validator.get_dataloader(train, batch).dataset
    if not any(len(label.get("cls", " ")) for label in getattr(images, "labels", [{}])):
        raise DataError(
            f"data={data}: no training image has a label that Ultralytics accepts, and score=taylor needs some. "
            "Use score=activation."
        )
    order = np.random.default_rng(seed).permutation(len(images))[:n].tolist()
    loader = DataLoader(Subset(images, order), batch, collate_fn=getattr(images, "collate_fn", None))
    for found in TQDM(loader, desc=colorstr("score: ") + "labelled images", disable=RANK not in {-1, 0}):
        yield validator.preprocess(found)


class _Images(BaseDataset):
    """Images alone, through the two methods that Ultralytics leaves to subclasses."""

    task = "detect"

    def get_labels(self) -> list[dict[str, Any]]:
        return [{"im_file": f} for f in self.im_files]

    def build_transforms(self, hyp: Any) -> LetterBox:
        return LetterBox((self.imgsz, self.imgsz), scaleup=False, scale_fill=self.task == "depth")

    def __getitem__(self, index: int) -> Tensor:
        """One image, shape (C, imgsz, imgsz), float32 in 0..1."""
        if self.task == "classify":
            image = imread(self.im_files[index])  # not PIL's open, which Ultralytics lets install packages
            return classify_transforms(self.imgsz)(Image.fromarray(image[..., ::-1]))
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


def _images(data: str | Path, imgsz: int, task: str, channels: int) -> _Images:
    kind = {"classify": _ClassifyImages, "depth": _DepthImages}.get(task, _Images)
    train = _training_images(data, task)
    with _one_line(data):
        return kind(train, imgsz, augment=False, channels=channels, prefix=colorstr("calibrate: "))


def _training_images(data: str | Path, task: str) -> str | list[str]:
    """Folders or lists of the training images."""
    with _one_line(data):
        return _class_folders(data) if task == "classify" else check_det_dataset(data, autodownload=False)["train"]


@contextlib.contextmanager
def _one_line(data: str | Path) -> Iterator[None]:
    """Whatever Ultralytics finds wrong with a data set is a DataError of one line."""
    try:
        yield
    except DataError:
        raise
    except Exception as e:  # Ultralytics raises a dozen types here, with advice below the first line
        reason = next((line for line in str(e.__cause__ or e).splitlines() if line.strip()), type(e).__name__)
        raise DataError(f"data={data}: {reason}") from e


def _class_folders(data: str | Path) -> str:
    """Training folder of a classification data set. Ultralytics' own check would download or split what is missing."""
    root = Path(data) if Path(data).is_dir() else DATASETS_DIR / data
    if not (root / "train").is_dir():
        raise DataError(f"data={data}: a classification data set is a folder with train/<class>/ inside.")
    return str(root / "train")


def _readable(images: _Images, order: list[int]) -> Iterator[Tensor]:
    for i in order:
        try:
            yield images[i]
        except (OSError, ValueError, TypeError):  # missing, corrupt, or with another number of channels
            continue
