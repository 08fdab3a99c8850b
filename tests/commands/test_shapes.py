"""The drawn demo data set: same seed same bytes, exact boxes, and never a half set or a foreign folder overwritten."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from yoloprune.commands import demo_images
from yoloprune.commands.demo_images import make_shapes
from yoloprune.errors import DataError

SMALL = {"train": 6, "val": 4, "imgsz": 64}


def _bytes(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder` by its relative path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _labels(folder: Path, split: str) -> list[np.ndarray]:
    """Return the label array `(n, 5)` of each picture."""
    return [np.loadtxt(p, ndmin=2) for p in sorted((folder / "labels" / split).glob("*.txt"))]


def test_layout(tmp_path):
    data = make_shapes(tmp_path / "new" / "set", **SMALL)
    assert data == (tmp_path / "new" / "set" / "data.yaml").resolve() and data.is_file()
    for split in ("train", "val"):
        pictures = sorted((data.parent / "images" / split).iterdir())
        assert len(pictures) == SMALL[split]
        assert [p.stem for p in pictures] == sorted(p.stem for p in (data.parent / "labels" / split).iterdir())
        assert all(cv2.imread(str(p)).shape == (64, 64, 3) for p in pictures)
    assert [p.name for p in data.parent.parent.iterdir()] == ["set"]  # no scratch folder left


def test_same_seed_same_bytes_other_seed_other_pictures(tmp_path):
    first, again, other = (
        _bytes(make_shapes(tmp_path / name, **SMALL, seed=seed).parent) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    pictures = [name for name in first if name.endswith(".jpg")]
    assert len(pictures) == 10 and first.keys() == other.keys()
    assert not any(first[name] == other[name] for name in pictures)


def test_larger_set_starts_with_the_smaller_one(tmp_path):
    small = _bytes(make_shapes(tmp_path / "small", **SMALL).parent)
    large = _bytes(make_shapes(tmp_path / "large", **{**SMALL, "train": 8}).parent)
    assert all(large[name] == content for name, content in small.items() if name != "data.yaml")


def test_train_and_val_are_disjoint(tmp_path):
    files = _bytes(make_shapes(tmp_path / "set", train=10, val=10, imgsz=64).parent)
    pictures = [content for name, content in files.items() if name.endswith(".jpg")]
    assert len(pictures) == len(set(pictures)) == 20


def test_labels_are_normalised_and_all_classes_occur(tmp_path):
    data = make_shapes(tmp_path / "set", train=40, val=4, imgsz=64)
    rows = np.concatenate(_labels(data.parent, "train") + _labels(data.parent, "val"))
    assert set(rows[:, 0]) == {0, 1, 2}
    assert rows[:, 1:].min() > 0 and rows[:, 1:].max() <= 1
    edges = np.concatenate([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2])
    assert edges.min() >= -1e-6 and edges.max() <= 1 + 1e-6
    assert np.isclose(edges, 0, atol=1e-6).any() and np.isclose(edges, 1, atol=1e-6).any()  # some leave the picture


@pytest.mark.parametrize("corners", demo_images._CORNERS)
def test_box_is_the_extent_of_the_shape(corners):
    rng = np.random.default_rng(0)
    for _ in range(20):
        centre, radius, angle = rng.uniform(0, 96, 2), rng.uniform(8, 30), rng.uniform(0, 2 * math.pi)
        alpha, box = demo_images._shape(corners, centre, radius, angle, 96)
        ys, xs = np.nonzero(alpha >= 0.25)
        extent = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert np.abs(extent - box).max() <= 1


def test_box_and_area_by_hand():
    # A square of circumradius 10√2 with a corner at 45° has sides of 20: from 20 to 40 around the centre (30, 30).
    alpha, box = demo_images._shape(4, np.array([30.0, 30.0]), 10 * math.sqrt(2), math.pi / 4, 64)
    assert np.allclose(box, [20, 20, 40, 40])
    assert alpha.sum() == pytest.approx(20 * 20)
    # A disc of radius 10 around the corner (0, 0): a quarter of it is in the picture.
    alpha, box = demo_images._shape(0, np.zeros(2), 10, 0.0, 64)
    assert np.allclose(box, [0, 0, 10, 10])
    assert alpha.sum() == pytest.approx(math.pi * 10**2 / 4, rel=0.02)
    # A triangle of circumradius 12 with a tip on top: height 18, side 12√3, and the box is as wide as the side.
    alpha, box = demo_images._shape(3, np.array([32.0, 32.0]), 12, -math.pi / 2, 64)
    assert np.allclose(box, [32 - 6 * math.sqrt(3), 20, 32 + 6 * math.sqrt(3), 38])
    assert alpha.sum() == pytest.approx(12 * math.sqrt(3) * 18 / 2, rel=0.02)


def test_pixels_of_a_lone_shape_fill_its_label(tmp_path, monkeypatch):
    data = make_shapes(tmp_path / "set", train=60, val=1, imgsz=96)
    draw, lone = demo_images._shape, 0
    for i, rows in enumerate(_labels(data.parent, "train")):
        if len(rows) != 1:
            continue
        lone += 1
        # The same picture without its shape, noise included: what differs are the pixels of the shape.
        with monkeypatch.context() as patch:
            patch.setattr(demo_images, "_shape", lambda *args: (np.zeros((96, 96)), draw(*args)[1]))
            bare, _, _ = demo_images._scene(np.random.default_rng([0, 0, i]), 96)
        full, _, _ = demo_images._scene(np.random.default_rng([0, 0, i]), 96)
        change = np.abs(full.astype(int) - bare).max(2)
        ys, xs = np.nonzero(change > 0.25 * np.median(change[change > 0]))
        x, y, w, h = rows[0, 1:] * 96
        box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        assert np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - box).max() <= 1, i
        stored = cv2.imread(str(data.parent / "images" / "train" / f"train_{i:05d}.jpg")).astype(int)
        assert np.abs(stored - full).mean() < 15  # JPEG blurs the noise; another picture differs by 26 and more
    assert lone >= 5


def test_same_set_is_reused(tmp_path):
    data = make_shapes(tmp_path / "set", **SMALL)
    (data.parent / "labels" / "train.cache").write_bytes(b"")  # Ultralytics leaves such a file behind
    before = {p: p.stat().st_mtime_ns for p in data.parent.rglob("*")}
    assert make_shapes(str(tmp_path / "set"), **SMALL) == data
    assert before == {p: p.stat().st_mtime_ns for p in data.parent.rglob("*")}


@pytest.mark.parametrize("change", [{"train": 7}, {"val": 5}, {"imgsz": 96}, {"seed": 1}])
def test_another_set_is_not_overwritten(tmp_path, change):
    data = make_shapes(tmp_path / "set", **SMALL)
    before = _bytes(data.parent)
    with pytest.raises(DataError, match="Received"):
        make_shapes(tmp_path / "set", **{**SMALL, **change})
    assert _bytes(data.parent) == before


@pytest.mark.parametrize("content", ["holiday", "shapes", "- 1", "names: [a]", "a: [", "shapes: {train: 6}"])
@pytest.mark.parametrize("name", ["notes.txt", "data.yaml"])
def test_foreign_folder_is_left_alone(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="missing, empty or the shapes data set"):
        make_shapes(tmp_path, **SMALL)
    assert _bytes(tmp_path) == {name: content.encode()}


def test_a_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "set").write_text("mine")
    with pytest.raises(DataError, match="missing, empty"):
        make_shapes(tmp_path / "set", **SMALL)
    assert (tmp_path / "set").read_text() == "mine"


def test_empty_folder_is_filled(tmp_path):
    assert make_shapes(tmp_path, **SMALL) == tmp_path.resolve() / "data.yaml"


def test_incomplete_set_is_refused(tmp_path):
    data = make_shapes(tmp_path / "set", **SMALL)
    (data.parent / "images" / "val" / "val_00001.jpg").unlink()
    with pytest.raises(DataError, match=r"must hold 4 images in 'images/val'\. Received: 3"):
        make_shapes(tmp_path / "set", **SMALL)


def test_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    drawn = []

    def interrupted(*args):
        drawn.append(args)
        if len(drawn) == 8:
            raise KeyboardInterrupt
        return scene(*args)

    scene = demo_images._scene
    monkeypatch.setattr(demo_images, "_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert make_shapes(tmp_path / "set", **SMALL).is_file()


@pytest.mark.parametrize("seed", [0, 1])
def test_two_processes_at_once(tmp_path, monkeypatch, seed):
    """The set of the faster process stays; the slower one reuses it if it is the same set and stops otherwise."""
    write = demo_images._write_split

    def overtaken(root, split, *args):
        write(root, split, *args)
        if split == "val":
            monkeypatch.undo()
            make_shapes(tmp_path / "set", **SMALL, seed=seed)

    monkeypatch.setattr(demo_images, "_write_split", overtaken)
    if seed == 0:
        assert make_shapes(tmp_path / "set", **SMALL).is_file()
    else:
        with pytest.raises(DataError):
            make_shapes(tmp_path / "set", **SMALL)
    assert yaml.safe_load((tmp_path / "set" / "data.yaml").read_text())["shapes"]["seed"] == seed
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("key", "value"), [("train", 0), ("val", -1), ("imgsz", 31), ("imgsz", 64.0), ("seed", -1), ("train", True)]
)
def test_wrong_argument_is_named(tmp_path, key, value):
    with pytest.raises(DataError, match=rf"'{key}' must be an integer of at least \d+\. Received: {value}"):
        make_shapes(tmp_path / "set", **{**SMALL, "seed": 0, key: value})
    assert list(tmp_path.iterdir()) == []


def test_ultralytics_finds_the_set_from_anywhere_and_after_a_move(tmp_path, monkeypatch):
    from ultralytics.data.utils import check_det_dataset

    moved = make_shapes(tmp_path / "set", **SMALL).parent.rename(tmp_path / "moved")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    found = check_det_dataset(str(moved / "data.yaml"))
    assert Path(found["train"]) == (moved / "images" / "train").resolve()
    assert Path(found["val"]) == (moved / "images" / "val").resolve()
    assert found["names"] == {0: "circle", 1: "square", 2: "triangle"}
