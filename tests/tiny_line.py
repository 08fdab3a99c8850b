"""What the tests of the whole line share: its folder, images drawn by code, a short training, and widths of a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from ultralytics import YOLO

from yoloprune.backend import model_facts
from yoloprune.commands.demo_images import make_shapes

QUICK = dict(  # noqa: C408
    imgsz=64,
    batch=8,
    nbs=8,
    optimizer="AdamW",
    lr0=2e-3,
    plots=False,
    workers=0,
    amp=False,
    warmup_epochs=0,
    device="cpu",
)

NETWORK = """
nc: 3
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [48, 3, 2]]
  - [-1, 1, C2f, [48, True]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, C2f, [64, True]]
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 2], 1, Concat, [1]]
  - [-1, 1, C2f, [48]]
  - [-1, 1, Conv, [32, 3, 4]]
  - [[8], 1, Detect, [nc]]
"""
"""What stands for the reader's networks: the layers that pages name, and few of them."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("line")


@pytest.fixture(scope="module")
def data(work: Path) -> Path:
    return make_shapes(work / "data", train=32, val=8, imgsz=64)


def widths(file: Path) -> dict[str, tuple[int, ...]]:
    return model_facts.widths(YOLO(file).model)
