"""A few images of a split as a data set of their own: which ones, and that nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from yoloprune.backend import datasets, evaluation, held_images, plain_images
from yoloprune.commands.demo_images import make_shapes
from yoloprune.errors import DataError


def test_images_of_the_split_are_drawn_with_their_labels(tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "data", train=3, val=6, imgsz=64)
    before = {f: f.stat().st_mtime_ns for f in data.parent.rglob("*")}
    with held_images.few(data, "detect", "val", 4, 0) as (held, count):
        told = datasets.check(held)
        drawn = plain_images.files_in(told["train"])
        assert count == len(drawn) == 4
        assert {Path(f).parent.name for f in drawn} == {"val"}
        assert plain_images.files_in(told["val"]) == drawn
        assert told["names"] == datasets.check(data)["names"]
    with held_images.few(data, "detect", "val", 4, 1) as (held, _):
        assert plain_images.files_in(datasets.check(held)["val"]) != drawn
    with held_images.few(data, "detect", "val", 99, 0) as (_, count):
        assert count == 6
    assert not held.exists()
    assert {f: f.stat().st_mtime_ns for f in data.parent.rglob("*")} == before


def test_what_is_wrong_with_them_names_the_users_data_set(tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "data", train=1, val=1, imgsz=64)
    with pytest.raises(DataError) as e, held_images.few(data, "detect", "val", 4, 0) as (held, _):
        raise DataError(f"data={held}: none has a label.")
    assert str(e.value) == f"data={data}: none has a label."


def test_a_split_that_is_not_there_is_told(tmp_path: Path) -> None:
    data = make_shapes(tmp_path / "data", train=3, val=1, imgsz=64)
    with pytest.raises(DataError, match=r"has no split=test"), held_images.few(data, "detect", "test", 4, 0):
        raise AssertionError
    (tmp_path / "sorted" / "train" / "a").mkdir(parents=True)
    with (
        pytest.raises(DataError, match=r"has no split=val"),
        held_images.few(tmp_path / "sorted", "classify", "val", 4, 0),
    ):
        raise AssertionError


def test_folders_of_classes_keep_their_numbers(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("train", "b"), ("train", "c"), ("val", "a"), ("val", "c")):
        (tmp_path / split / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / split / name / f"{split}.jpg")
    with held_images.few(tmp_path, "classify", "val", 9, 0) as (held, count):
        assert count == 2
        for split in ("train", "val"):
            assert sorted(f.name for f in (held / split).iterdir()) == ["a", "b", "c"]  # also one that none shows
            assert {f.name for f in (held / split).rglob("*.jpg")} == {"val.jpg"}


class Parts(nn.Module):
    """A loss of two parts that are written in the batch."""

    def __init__(self, as_tensor: bool) -> None:
        super().__init__()
        self.as_tensor = as_tensor

    def forward(self, batch: dict) -> tuple:
        parts = batch["parts"]
        return sum(parts), torch.tensor(parts) if self.as_tensor else {
            str(i): torch.tensor(p) for i, p in enumerate(parts)
        }


@pytest.mark.parametrize("as_tensor", [True, False])
def test_the_loss_is_a_mean_over_images(as_tensor: bool) -> None:
    batches = [{"img": torch.zeros(3, 1), "parts": [1.0, 2.0]}, {"img": torch.zeros(1, 1), "parts": [5.0, 6.0]}]
    assert evaluation.loss(Parts(as_tensor), batches) == pytest.approx((3 * 3 + 1 * 11) / 4)
