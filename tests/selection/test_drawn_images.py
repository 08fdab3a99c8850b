"""Images that are drawn where there are none at hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import settle
from torch import Tensor
from ultralytics import YOLO

import yoloprune
from yoloprune.backend import console
from yoloprune.cutting import comparison
from yoloprune.probing.examples import Example
from yoloprune.selection import drawn_images
from yoloprune.selection.calibration import calibration

DATA = Path(__file__).parents[3] / "shared" / "data"
WEIGHTS, PHOTOGRAPHS = DATA / "weights" / "yolov8n-coco.pt", DATA / "coco8" / "coco8.yaml"


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_number_of_channels_in_the_range_of_images(channels: int) -> None:
    (drawn, *_) = drawn_images.batches(32, channels)
    assert drawn.shape == (drawn_images.BATCH, channels, 32, 32) and drawn.dtype == torch.float32
    assert drawn.min() >= 0 and drawn.max() <= 1


@pytest.mark.parametrize(("imgsz", "count"), [(32, 64), (320, 64), (416, 37), (640, 16), (1280, 16)])
def test_fewer_are_drawn_the_larger_they_are(imgsz: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 of 320 x 320 pixels are 37.9 of 416 x 416 and 16 of 640 x 640, and no fewer."""
    monkeypatch.setattr(drawn_images, "_drawn", lambda rng, side, channels: np.zeros((1, 1, channels)))
    monkeypatch.setattr(drawn_images, "_photographs", list)
    batches = drawn_images.batches(imgsz, 3)
    assert sum(len(batch) for batch in batches) == count


@pytest.mark.slow
def test_a_seed_says_every_pixel() -> None:
    def first(seed: int) -> Tensor:
        return drawn_images.batches(48, 3, seed=seed)[0]

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert not torch.equal(first(0)[0], first(0)[1])


def test_the_amplitude_of_clouds_falls_with_the_frequency() -> None:
    """Four times the frequency has a quarter of the amplitude."""
    clouds = drawn_images._clouds(np.random.default_rng(0), 64, 400)
    amplitude = np.sqrt(np.square(np.abs(np.fft.fft2(clouds, axes=(0, 1)))).mean(-1))
    assert amplitude[0, 4] / amplitude[0, 16] == pytest.approx(4, rel=0.2)
    assert clouds.std() == pytest.approx(1, abs=1e-6)


def test_shapes_of_all_sizes_hide_one_another() -> None:
    shown = drawn_images._leaves(np.random.default_rng(0), 128)
    sizes = np.bincount(shown.ravel(), minlength=drawn_images.LEAVES + 1)[1:]
    assert sizes.max() > 100 * sizes[sizes > 0].min()
    assert (sizes == 0).any()  # those that others hide
    assert sizes[-1] > 0  # and nothing hides the last


@pytest.mark.slow
def test_every_second_image_is_of_a_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_images, "_photographs", lambda: [np.full((40, 60, 3), 0.5, np.float32)])
    (images, *_) = drawn_images.batches(32, 3)
    flat = images.flatten(2).std(2).amax(1) < 1e-6
    assert flat.tolist() == [False, True] * 8
    assert drawn_images.batches(32, 4)[0].shape[1] == 4  # none of these
    monkeypatch.setattr(drawn_images, "_photographs", list)
    assert torch.isfinite(drawn_images.batches(32, 3)[0]).all()


@pytest.fixture(scope="module")
def alive(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose batch-norms have moved, as training does it."""
    yolo = YOLO(tiny)
    settle(yolo.model, torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    file = tmp_path_factory.mktemp("alive") / "best.pt"
    yolo.save(file)
    return file


def test_images_are_drawn_where_something_looks_at_them(alive: Path, tiny: Path) -> None:
    parent = yoloprune.load(alive)
    drawn = calibration(parent, False, 32, {}, drawn=True)
    assert drawn.images is not None and drawn.images[0].shape == (16, 3, 32, 32) and drawn.data is None
    assert calibration(parent, False, 32, {}).images is None
    untrained = yoloprune.load(tiny)  # what it makes of images is chance
    assert calibration(untrained, False, 32, {}, drawn=True).images is None


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_file(), reason="needs the weights of a trained network")
def test_a_trained_network_keeps_its_outputs_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On photographs: by weights alone the outputs of a tenth less compute had nothing to do with the parent's."""
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    monkeypatch.setattr(drawn_images, "MOST", 16)
    parent = yoloprune.load(WEIGHTS)
    sight = calibration(parent, str(PHOTOGRAPHS), 160, {})
    assert sight.images is not None
    example = Example((sight.images[0],))

    def away(**how: Any) -> float:
        child = yoloprune.prune(WEIGHTS, flops=0.9, data=False, imgsz=160, project=str(tmp_path), **how)
        one, other = (copy.deepcopy(yolo.model).float().eval() for yolo in (parent, child))
        return comparison.distance(one, other, example)

    assert away() < 0.5 * away(score="l2", uniform=True, recover="fold")
    assert sum("drawn images" in line for line in said) == 1
