"""A data set of another kind than the model is told before any work, by every command that takes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ultralytics
import yaml
from checkpoints import network

import yoloprune
from yoloprune import cli
from yoloprune.backend import console, datasets
from yoloprune.errors import DataError

TRAIN: dict[str, Any] = {"imgsz": 64, "epochs": 2, "batch": 2, "workers": 0, "device": "cpu", "plots": False}
COMMANDS: dict[str, dict[str, Any]] = {
    "prune": {"imgsz": 64, "flops": 0.8},
    "mask": {"imgsz": 64, "sparsity": 0.5},
    "finetune": TRAIN,
    "val": {"imgsz": 64, "workers": 0, "device": "cpu"},
    "sweep": {"imgsz": 64, "flops": [0.8]},
    "sensitivity": {"imgsz": 64},
    "train_sparse": {**TRAIN, "flops": 0.8},
    "slim": {**TRAIN, "flops": 0.8},
}


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Path:
    network(folder, "segment").save(str(folder / "segment.pt"))
    return folder / "segment.pt"


@pytest.mark.parametrize("command", COMMANDS)
def test_boxes_for_a_model_of_segments(command: str, segmenter: Path, data: Path, tmp_path: Path) -> None:
    """Class counts agree or not: there is no label that it could learn from or be judged by."""
    told = {**COMMANDS[command], "data": str(data), "project": str(tmp_path / "runs")}
    with pytest.raises(DataError, match="its labels are boxes, and a segment model needs segments") as raised:
        getattr(yoloprune, command)(segmenter, **told)
    assert str(raised.value).startswith(f"data={data}: ")
    assert not (tmp_path / "runs").exists()
    assert ("images=" in str(raised.value)) is (command in {"prune", "mask"})  # which can do without labels


def test_the_command_line_ends_with_1(segmenter: Path, data: Path, tmp_path: Path) -> None:
    assert cli.main(["finetune", f"model={segmenter}", f"data={data}", f"project={tmp_path / 'runs'}"]) == 1
    assert not (tmp_path / "runs").exists()


def test_a_model_that_is_set_beside_others_is_looked_at_as_well(
    segmenter: Path, parent: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="a segment model needs segments"):
        yoloprune.val(parent, against=segmenter, data=str(data), imgsz=64, project=str(tmp_path / "runs"))


def test_a_detector_takes_the_boxes_of_keypoints_and_says_so_once(
    parent: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "log", lambda prefix, message: said.append(message))
    told = yaml.safe_load(data.read_text())
    pose = tmp_path / "pose.yaml"
    pose.write_text(yaml.safe_dump({**told, "path": str(data.parent), "kpt_shape": [2, 3]}))
    for command in ("slim", "prune"):  # one runs the other
        datasets.require_labels(ultralytics.YOLO(parent), str(pose), command)
    assert said == [f"data={pose} has keypoints (kpt_shape); a detect model takes its boxes alone"]
