"""Trainers of the user's own: those derived from yoloprune's train what the checkpoint holds, others are told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints import run_of, shapes_of, untrained
from sparse_loop import TINY
from ultralytics.models.yolo.detect import DetectionTrainer

import yoloprune
from yoloprune import trainers
from yoloprune.errors import ArgumentError

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"flops": 0.9, "round_to": 1, "min_width": 1}


class Stock(DetectionTrainer):
    """As Ultralytics' guide has it."""


class Kept(trainers.DetectionTrainer):
    """Counts the batches that go through it."""

    batches = 0

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        type(self).batches += 1
        prepared: dict[str, Any] = super().preprocess_batch(batch)
        return prepared


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A parent, and what was cut from it: free widths, and those of a stock YAML."""
    folder = tmp_path_factory.mktemp("models")
    parent = untrained(folder, TINY, 64)
    told = {"data": False, "imgsz": 64, "project": str(folder), **SMALL}
    free = yoloprune.prune(parent, native=False, name="free", **told).ckpt_path
    native = yoloprune.prune(parent, native=True, name="native", **told).ckpt_path
    return {"parent": parent, "free": Path(free), "native": Path(native)}


@pytest.mark.long
def test_one_derived_from_ours_trains_the_widths(files: dict[str, Path], data: Path, tmp_path: Path) -> None:
    before = Kept.batches
    tuned = yoloprune.finetune(files["free"], data=str(data), trainer=Kept, **run_of(tmp_path, epochs=1))
    assert Kept.batches > before
    assert shapes_of(tuned.model) == shapes_of(yoloprune.YOLO(files["free"]).model)


def test_one_derived_from_stock_is_refused_before_there_is_a_folder(
    files: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    told = {"data": str(data), "trainer": Stock, **run_of(tmp_path, epochs=1)}
    said = "^trainer=Stock: must derive from yoloprune's trainer, .* from yoloprune.trainers import DetectionTrainer"
    with pytest.raises(ArgumentError, match=said):
        yoloprune.finetune(files["free"], **told)
    with pytest.raises(ArgumentError, match=said):
        yoloprune.YOLO(files["free"]).train(**told)
    with pytest.raises(ArgumentError, match=said):
        yoloprune.train_sparse(files["parent"], native=False, **SMALL, **told)
    assert not (tmp_path / "runs").exists()


def test_where_the_yaml_says_the_widths_any_trainer_does(files: dict[str, Path], data: Path, tmp_path: Path) -> None:
    yolo = yoloprune.YOLO(files["native"])
    widths = shapes_of(yolo.model)
    yolo.train(data=str(data), trainer=Stock, **run_of(tmp_path, epochs=1))
    assert shapes_of(yolo.model) == widths != shapes_of(yoloprune.YOLO(files["parent"]).model)
