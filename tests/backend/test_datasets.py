"""Data sets are looked at, and nothing else happens: no network, no pickle, no file left; classes are compared."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import ultralytics
import yaml
from PIL import Image
from ultralytics.data import utils as host_data

import yoloprune
from yoloprune.backend import compat, datasets, plain_images
from yoloprune.backend.calibration_images import labelled
from yoloprune.commands.demo_images import make_shapes
from yoloprune.errors import DataError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_shapes(tmp_path / "data", train=12, val=4, imgsz=64)


@pytest.fixture
def model(tiny: Path, data: Path) -> ultralytics.YOLO:
    """As after training on the data, whose classes are circle, square and triangle."""
    yolo = ultralytics.YOLO(tiny)
    yolo.model.names = dict(enumerate(["circle", "square", "triangle"]))
    yolo.overrides["data"] = str(data)
    return yolo


class Planted:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def files(folder: Path) -> dict[str, int]:
    return {str(f): f.stat().st_mtime_ns for f in folder.rglob("*")}


@pytest.mark.parametrize("n", [3, 12, 100])
def test_only_labels_of_drawn_images_are_scanned(model: ultralytics.YOLO, data: Path, n: int) -> None:
    """Nothing is wrong with those that cannot be read, as long as they are not drawn."""
    seen = [file for batch in labelled(model, data, 64, n=n, batch=5) for file in batch["im_file"]]
    assert len(seen) == len(set(seen)) == min(n, 12)
    other = [file for batch in labelled(model, data, 64, n=n, batch=5, seed=1) for file in batch["im_file"]]
    assert set(seen) != set(other) or n >= 12
    for file in {str(f) for f in (data.parent / "images" / "train").iterdir()} - {os.path.realpath(f) for f in seen}:
        Path(file).write_bytes(b"")
    assert seen == [file for batch in labelled(model, data, 64, n=n, batch=5) for file in batch["im_file"]]


def test_caches_of_labels_are_neither_opened_nor_written(model: ultralytics.YOLO, data: Path, tmp_path: Path) -> None:
    planted, mark = data.parent / "labels" / "train.cache", tmp_path / "mark"
    next(labelled(model, data, 64))
    assert not planted.exists()
    planted.write_bytes(pickle.dumps(Planted(mark)))
    before = files(data.parent)
    next(labelled(model, data, 64))
    assert files(data.parent) == before and not mark.exists()
    pickle.loads(planted.read_bytes())
    assert mark.exists()  # it would have told


def test_classification_scans_drawn_images_and_leaves_no_cache(tmp_path: Path) -> None:
    for i in range(8):
        folder = tmp_path / "train" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (30 * i, 0, 0)).save(folder / f"{i}.png")
    before = files(tmp_path)
    yolo = ultralytics.YOLO("yolov8n-cls.yaml")
    assert sum(len(batch["img"]) for batch in labelled(yolo, tmp_path, 64, n=5, batch=2)) == 5
    assert files(tmp_path) == before


@pytest.mark.parametrize(("imgsz", "expected"), [(64, 12), (640, 4), (1280, 1)])
def test_large_images_come_in_small_batches(model: ultralytics.YOLO, data: Path, imgsz: int, expected: int) -> None:
    assert next(labelled(model, data, imgsz))["img"].shape == (expected, 3, imgsz, imgsz)


@pytest.mark.parametrize(
    ("names", "same", "own"),
    [
        (["circle", "square", "triangle"], True, True),
        (["triangle", "circle", "square"], False, False),  # the labels' numbers mean other classes
        (["square", "circle", "triangle"], False, False),
        (["circle", "dog", "cat"], True, False),  # renamed perhaps, but not what the checkpoint was trained on
        (["cat", "dog", "circle"], False, False),
        (["Circle", "Square", "Triangle"], False, False),
        (["circle", "square"], False, False),
    ],
)
def test_classes_are_compared_in_their_order(
    model: ultralytics.YOLO, data: Path, names: list[str], same: bool, own: bool
) -> None:
    data.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), "names": names}))
    assert datasets.has_classes_of(model, data) is same
    assert datasets.own(model) == (str(data) if own else None)


@pytest.mark.skipif(not compat.has("add_polygon_background"), reason="this Ultralytics knows no such data")
@pytest.mark.parametrize("masks", [False, True])
def test_outlines_for_a_semantic_model_have_a_background(model: ultralytics.YOLO, data: Path, masks: bool) -> None:
    """What its trainer made of this data has the class; masks as pictures say what it is themselves."""
    told = {**yaml.safe_load(data.read_text()), **({"masks_dir": "masks"} if masks else {})}
    data.write_text(yaml.safe_dump(told))
    model.task = "semantic"
    model.model.names = host_data.add_polygon_background(datasets.check(data))["names"]
    assert len(model.model.names) == datasets.class_count(model, data) == (3 if masks else 4)
    assert datasets.has_classes_of(model, data) and datasets.own(model) == str(data)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["circle", "Square", "triangle"], "class 1 is Square and not square"),
        (["square", "circle", "triangle"], "class 0 is square and not circle"),
        (["a"], "1 and not 3"),
    ],
)
def test_the_first_difference_is_named(model: ultralytics.YOLO, data: Path, names: list[str], told: str) -> None:
    data.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), "names": names}))
    assert datasets.difference(model, data) == told


@pytest.mark.parametrize("command", [yoloprune.train_sparse, yoloprune.finetune])
def test_data_that_is_nowhere_leaves_no_folder(command: Any, tiny: Path, tmp_path: Path) -> None:
    """Else the next run's folder would have another number, and the one that documents name would be empty."""
    with pytest.raises(DataError, match=r"data=nowhere\.yaml: there is no such file"):
        command(tiny, data="nowhere.yaml", project=str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", ["coco8.yaml", "https://example.com/a.yaml", "ul://a/b", ["a.yaml"], "folder"])
def test_what_ultralytics_may_find_is_left_to_it(given: Any) -> None:
    datasets.require(given)


def test_where_all_classes_are_one_an_absolute_path_tells(
    model: ultralytics.YOLO, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.model.names, model.overrides["single_cls"] = {0: "item"}, True
    assert datasets.own(model) == str(data)
    monkeypatch.chdir(data.parent)
    model.overrides["data"] = data.name  # any folder may have a file of that name
    assert datasets.own(model) is None


@pytest.mark.parametrize("named", ["https://example.com/a.yaml", "ul://a/b.yaml", "cells.zip", None, ["a.yaml"]])
def test_nothing_is_downloaded_or_unpacked(
    model: ultralytics.YOLO, named: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a download")

    for name in ("safe_download", "check_file"):
        monkeypatch.setattr(host_data, name, refused)
    model.overrides["data"] = named
    assert datasets.own(model) is None


def test_no_font_is_fetched(model: ultralytics.YOLO, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(host_data, "check_font", fetched.append)
    assert datasets.own(model) == str(data)
    next(labelled(model, data, 64))
    assert fetched == []
    host_data.check_det_dataset(str(data), autodownload=False)
    assert fetched  # Ultralytics itself does


def test_a_split_that_is_not_there_is_told_before_work_starts(data: Path) -> None:
    with pytest.raises(DataError, match=rf"split=test: data={data} has no such images, it has train, val\."):
        datasets.require_split(str(data), "test")
    for split in ("val", "train", None):
        datasets.require_split(str(data), split)


def test_of_all_that_is_wrong_with_labels_the_first_is_told_without_colours(
    model: ultralytics.YOLO, data: Path
) -> None:
    for text in (data.parent / "labels" / "train").iterdir():
        text.write_text("77 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError, match=r"^data=.*No valid images found in .*: ignoring corrupt.* 77 exceeds ") as e:
        next(labelled(model, data, 64))
    assert str(e.value).count("ignoring corrupt") == 1
    assert "\x1b" not in str(e.value) and "[34m" not in str(e.value)


def test_what_a_training_finds_wrong_names_its_data_set() -> None:
    with pytest.raises(DataError, match=r"^data=mine\.yaml: .*nowhere"), datasets.reading("mine.yaml"):
        plain_images.files_in("nowhere")
