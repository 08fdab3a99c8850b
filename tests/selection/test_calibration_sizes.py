"""How many images scores and repairs look at, and how much of each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from checkpoints import TEN_ROWS, untrained
from torch import nn
from ultralytics import YOLO

import yoloprune
from yoloprune.backend import calibration_images, evaluation
from yoloprune.commands.demo_images import make_shapes
from yoloprune.repair import least_squares
from yoloprune.selection import calibration


class Network(nn.Module):
    """Runs at any side, or at one."""

    yaml: dict[str, Any] = {}

    def __init__(self, stride: int = 32, only: int | None = None) -> None:
        super().__init__()
        self.stride, self.only = torch.tensor([8, stride]), only

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.only not in (None, image.shape[-1]):
            raise ValueError(f"{image.shape[-1]} pixels")
        return image


@pytest.mark.parametrize(
    "imgsz, count, side",
    [
        (320, 128, 320),  # the pixels of all of them fit
        (320, 129, 288),
        (320, 400, 160),  # 181, of which 160 is the next multiple of the stride
        (320, 5000, 160),  # never less than half
        (640, 128, 320),
        (416, 512, 224),  # half of it is 208
        (96, 512, 96),
        (1280, 512, 640),
    ],
)
def test_windows_have_the_pixels_of_a_refit_and_half_a_side_at_least(imgsz: int, count: int, side: int) -> None:
    yolo: Any = SimpleNamespace(model=Network(), task="detect")
    assert calibration._window(yolo, imgsz, count) == side


def test_windows_suit_the_network() -> None:
    def side(task: str = "detect", **network: int) -> int:
        yolo: Any = SimpleNamespace(model=Network(**network), task=task)
        return calibration._window(yolo, 320, 512)

    assert side() == 160 and side(stride=64) == 192
    assert side("classify") == side(only=320) == 320


@pytest.mark.parametrize(
    "gflops, device, n",
    [(2.2, "cpu", 455), (0.1, "cpu", 512), (8.7, "cpu", 128), (250.0, "cpu", 128), (250.0, "cuda", 512)],
)
def test_labelled_images_are_as_many_as_a_core_ranks_in_a_minute(
    gflops: float, device: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(evaluation, "gflops", lambda *_: gflops)
    monkeypatch.setattr(calibration_images, "labelled", lambda *_, **k: told.append(k["n"]) or iter(()))
    yolo: Any = SimpleNamespace(model=Network())
    calibration.labelled(yolo, calibration.Calibration(320, "a.yaml", device=torch.device(device)))
    assert told == [n]


@pytest.mark.slow
def test_scores_see_whole_images_and_repairs_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[tuple[int, ...]]] = {"score": [], "repair": []}
    refit, scored = least_squares.refit, calibration_images.batches
    monkeypatch.setattr(least_squares, "PIXELS", 6 * 32**2)

    def fitted(*a: Any, **k: Any) -> Any:
        seen["repair"] += [tuple(b.shape) for b in a[3]]
        return refit(*a, **k)

    def loaded(*a: Any, **k: Any) -> Any:
        found = scored(*a, **{**k, "n": 4})
        seen["score"] += [tuple(b.shape) for b in found[0]]
        return found

    monkeypatch.setattr(least_squares, "refit", fitted)
    monkeypatch.setattr(calibration_images, "batches", loaded)
    data = make_shapes(tmp_path / "data", train=6, val=2, imgsz=64)
    file = untrained(tmp_path, TEN_ROWS, 64)
    names = dict(enumerate(yaml.safe_load(data.read_text())["names"].values()))
    yolo = YOLO(file)
    yolo.model.names = names
    yoloprune.prune(yolo, data=str(data), flops=0.8, score="output", imgsz=64, project=str(tmp_path))
    assert seen == {"score": [(4, 3, 64, 64)], "repair": [(6, 3, 32, 32)]}
