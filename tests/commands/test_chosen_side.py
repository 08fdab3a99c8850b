"""`imgsz=auto`: widths and image share the FLOPs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ultralytics
import yaml
from PIL import Image

import yoloprune
from yoloprune.backend import evaluation
from yoloprune.commands.image_side import UNKNOWN, typical_object
from yoloprune.errors import ArgumentError

FREE: dict[str, Any] = {"round_to": 4, "min_width": 4}
TRAIN: dict[str, Any] = {"epochs": 1, "batch": 2, "workers": 0, "device": "cpu", "plots": False, "val": False}


def boxes(folder: Path, *sides: float) -> Path:
    """A data set of one image of 64 x 64 per box, squares of so many pixels."""
    for i, side in enumerate(sides):
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (i, 9, 9)).save(folder / "images" / f"{i}.png")
        (folder / "labels" / f"{i}.txt").write_text(f"0 0.5 0.5 {side / 64} {side / 64}\n" if side else "")
    names = {0: "circle", 1: "square", 2: "triangle"}
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({"path": str(folder), "train": "images", "val": "images", "names": names}))
    return file


@pytest.fixture
def small(tiny: Path, tmp_path: Path) -> Path:
    """A checkpoint that was trained at 192."""
    yolo = ultralytics.YOLO(tiny)
    yolo.ckpt["train_args"] = {"task": "detect", "imgsz": 192}
    yolo.save(tmp_path / "small.pt")
    return tmp_path / "small.pt"


def test_the_median_side_of_the_objects_counts(tiny: Path, tmp_path: Path) -> None:
    yolo = yoloprune.load(tiny)
    assert typical_object(yolo, boxes(tmp_path / "a", 8, 16, 32), 64) == pytest.approx(16, rel=1e-3)
    assert typical_object(yolo, boxes(tmp_path / "b", 8, 16, 32), 192) == pytest.approx(48, rel=1e-3)
    assert typical_object(yolo, boxes(tmp_path / "c", 0, 0), 64) == UNKNOWN
    assert typical_object(yolo, None, 64) == UNKNOWN


@pytest.mark.slow
@pytest.mark.parametrize(("side", "chosen"), [(60, 160), (8, 192)])
def test_what_comes_out_trains_and_predicts_at_the_chosen_side(
    side: int, chosen: int, small: Path, tmp_path: Path
) -> None:
    """192 * 0.5 ** 0.25 = 161.5: five strides, six where objects are small."""
    data = boxes(tmp_path / "data", side, side)
    place = {"project": str(tmp_path), "name": "out"}
    pruned = yoloprune.prune(small, flops=0.5, imgsz="auto", data=str(data), **place, **FREE)
    told = yaml.safe_load((tmp_path / "out" / "args.yaml").read_text())
    assert told["imgsz"] == chosen and told["flops"] == pytest.approx(0.5 * (192 / chosen) ** 2)
    assert pruned.overrides["imgsz"] == chosen
    half = 0.5 * evaluation.gflops(yoloprune.load(small).model, 192)
    assert 0.85 * half < evaluation.gflops(pruned.model, chosen) <= half * (1 + 1e-6)
    trained = yoloprune.finetune(pruned, data=str(data), project=str(tmp_path), name="tuned", **TRAIN)
    assert trained.trainer.args.imgsz == chosen


@pytest.mark.parametrize("command", [yoloprune.prune, yoloprune.train_sparse])
def test_without_flops_there_is_nothing_to_share(command: Any, small: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^imgsz=auto: must come with flops="):
        command(small, params=0.5, imgsz="auto", data=str(boxes(tmp_path / "data", 8)))


def test_other_commands_do_not_choose(small: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^imgsz=auto: must be"):
        yoloprune.info(small, imgsz="auto")


def test_more_than_there_is_is_no_budget(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^flops=1G: at imgsz 192 the model has no more than that"):
        yoloprune.prune(small, flops="1G", imgsz="auto", data=False, project=str(tmp_path))
