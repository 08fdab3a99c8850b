"""What a model finds becomes labels: numbers, borders, keypoints, splits, and a data set that Ultralytics reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from ultralytics.data.dataset import YOLODataset
from ultralytics.engine.results import Results

from yoloprune.backend import console, datasets, found_labels
from yoloprune.backend.found_labels import Labeller
from yoloprune.backend.stills import Stills
from yoloprune.errors import DataError

NAMES = {0: "cat", 1: "dog"}
SIDE = 100


def photo(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(file)
    return str(file)


class Teacher:
    """Finds what is written here by the stem of an image, in pixels: x1, y1, x2, y2, score, class."""

    def __init__(self, finds: dict[str, dict[str, Any]], task: str = "detect") -> None:
        self.finds, self.task, self.asked = finds, task, dict[str, Any]()
        self.model = SimpleNamespace(yaml={"kpt_shape": (2, 3)})
        self.overrides: dict[str, Any] = {}

    def predict(self, listed: str, **asked: Any) -> Iterator[Results]:
        self.asked = asked
        for file in Path(listed).read_text().splitlines():
            parts = {k: torch.tensor(v) for k, v in self.finds.get(Path(file).stem, {}).items()}
            yield Results(np.zeros((SIDE, SIDE, 3), np.uint8), file, NAMES, **parts)


def labeller(teacher: Any, numbers: dict[int, int] | None = None, names: tuple[str, ...] = ("cat", "dog")) -> Labeller:
    return Labeller(teacher, {0: 0, 1: 1} if numbers is None else numbers, names, 0.3, 64)


def texts(folder: Path) -> dict[str, str]:
    return {f.stem: f.read_text() for f in (folder / "labels").rglob("*.txt")}


def test_labels_are_written_with_the_models_numbers(tmp_path: Path) -> None:
    photos = [photo(tmp_path / "mine" / f"{name}.jpg") for name in "abc"]
    teacher = Teacher({"a": {"boxes": [[10, 20, 30, 60, 0.9, 1]]}, "b": {"boxes": [[0, 0, 100, 50, 0.4, 1.0]]}})
    found = found_labels.write(labeller(teacher, {1: 0}, ("dog",)), Stills(photos), tmp_path / "out", told="images=x")
    assert texts(tmp_path / "out") == {"a": "0 0.2 0.4 0.2 0.4\n", "b": "0 0.5 0.25 1 0.5\n", "c": ""}
    assert (found.images, found.objects, found.bare, found.held) == (3, 2, 1, 1)
    assert (teacher.asked["conf"], teacher.asked["classes"], teacher.asked["imgsz"]) == (0.3, [1], 64)
    told = datasets.check(found.file)
    assert told["names"] == {0: "dog"}
    read = YOLODataset(told["train"], data=told, imgsz=64, augment=False)
    held = YOLODataset(told["val"], data=told, imgsz=64, augment=False)
    assert sum(len(label["cls"]) for label in [*read.labels, *held.labels]) == 2
    assert (len(read), len(held)) == (2, 1)


def test_a_tenth_is_for_validation_and_of_a_video_its_end(tmp_path: Path) -> None:
    photos = [photo(tmp_path / "mine" / f"p{i:02}.jpg") for i in range(20)]
    frames = [photo(tmp_path / "out" / "frames" / f"f{i:02}.jpg") for i in range(30)]
    finds = {f"p{i:02}": {"boxes": [[10.0, 10, 20, 20, 0.9, 0]]} for i in range(20)}
    found = found_labels.write(labeller(Teacher(finds)), Stills(photos, [frames]), tmp_path / "out", told="images=x")
    held = {f.stem for f in (tmp_path / "out" / "images" / "val").iterdir()}
    assert {name for name in held if name.startswith("f")} == {"f27", "f28", "f29"}
    assert len(held) == found.held == 5
    assert not any(Path(f).exists() for f in frames)  # they are in the data set now
    assert all(Path(f).is_file() for f in photos)


BOX = {"boxes": [[10.0, 10, 20, 20, 0.9, 0]]}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_images_for_validation_show_something(seed: int, tmp_path: Path) -> None:
    photos = [photo(tmp_path / "mine" / f"p{i:02}.jpg") for i in range(30)]
    shown = {"p03", "p11", "p12", "p20"}  # 4 of 30, of which by chance none is in a tenth

    def held(name: str) -> tuple[set[str], Any]:
        finds = dict.fromkeys(shown, BOX)
        found = found_labels.write(labeller(Teacher(finds)), Stills(photos), tmp_path / name, told="x", seed=seed)
        return {f.stem for f in (tmp_path / name / "images" / "val").iterdir()}, found

    drawn, found = held("one")
    assert (len(drawn), len(drawn & shown)) == (found.held, found.measured) == (3, 1)
    assert held("again")[0] == drawn
    read = {f.stem for f in (tmp_path / "one" / "labels" / "val").iterdir() if f.read_text()}
    assert read == drawn & shown  # labels go with their images


@pytest.mark.parametrize(
    ("shown", "held"),
    [
        ({5, 29}, {27, 28, 29}),
        ({3, 10, 12}, {10, 11, 12}),  # its end shows nothing
        ({11, 12}, {12}),  # the other one is there to learn from
        ({28, 29}, {29}),
        ({29}, {27, 28}),
        ({3}, {27, 28, 29}),
    ],
)
def test_of_a_video_frames_for_validation_show_something(shown: set[int], held: set[int], tmp_path: Path) -> None:
    frames = [photo(tmp_path / "out" / "frames" / f"f{i:02}.jpg") for i in range(30)]
    finds = {f"f{i:02}": BOX for i in shown}
    found = found_labels.write(labeller(Teacher(finds)), Stills([], [frames]), tmp_path / "out", told="x")
    assert {int(f.stem[1:]) for f in (tmp_path / "out" / "images" / "val").iterdir()} == held
    assert (found.held, found.measured) == (len(held), len(held & shown))


@pytest.mark.parametrize(("shown", "held"), [("ab", {"a", "b"}), ("b", {"a", "c"}), ("abc", {"a", "b", "c"})])
def test_of_few_images_one_that_shows_something_is_for_validation(shown: str, held: set[str], tmp_path: Path) -> None:
    photos = [photo(tmp_path / "mine" / f"{name}.jpg") for name in "abc"]
    found = found_labels.write(labeller(Teacher(dict.fromkeys(shown, BOX))), Stills(photos), tmp_path / "out", told="x")
    (one,) = (tmp_path / "out" / "images" / "val").iterdir()
    assert one.stem in held
    assert (found.held, found.measured) == (1, int(len(shown) > 1))


def test_links_to_nothing_are_passed_over_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(console, "warn", told.append)
    photos = [photo(tmp_path / "mine" / f"{name}.jpg") for name in "ab"]
    dead = tmp_path / "mine" / "dead.jpg"
    dead.symlink_to(tmp_path / "gone.jpg")
    finds = dict.fromkeys("ab", BOX)
    found = found_labels.write(
        labeller(Teacher(finds)), Stills([*photos, str(dead)]), tmp_path / "out", told="images=x"
    )
    assert (found.images, found.held) == (2, 1)
    assert told == [f"images=x: 1 of 3 images cannot be read: {dead}"]
    with pytest.raises(DataError, match=r"^images=x: none of its 1 images can be read, the first is .*dead\.jpg\.$"):
        found_labels.write(labeller(Teacher(finds)), Stills([str(dead)]), tmp_path / "none", told="images=x")


def test_images_of_one_name_keep_their_labels_apart(tmp_path: Path) -> None:
    photos = [photo(tmp_path / place / "a.jpg") for place in ("one", "two")]
    teacher = Teacher({"a": {"boxes": [[10.0, 20, 30, 60, 0.9, 1]]}})
    found_labels.write(labeller(teacher), Stills(photos), tmp_path / "out", told="images=x")
    assert texts(tmp_path / "out") == {"a": "1 0.2 0.4 0.2 0.4\n", "2-a": "1 0.2 0.4 0.2 0.4\n"}
    links = {f.name: f.resolve() for f in (tmp_path / "out" / "images").rglob("*.jpg")}
    assert links == {"a.jpg": Path(photos[0]), "2-a.jpg": Path(photos[1])}


def test_one_image_is_trained_and_validated_on(tmp_path: Path) -> None:
    teacher = Teacher({"a": {"boxes": [[10.0, 20, 30, 60, 0.9, 1]]}})
    photos = Stills([photo(tmp_path / "mine" / "a.jpg")])
    told = yaml.safe_load(found_labels.write(labeller(teacher), photos, tmp_path / "out", told="x").file.read_text())
    assert told["train"] == told["val"] == "images/train"


def test_corners_beyond_the_border_are_moved_to_it() -> None:
    assert found_labels.accepted("3 -0.1 0.5 1.2 0.25 0 0 1 1", 0) == "3 0 0.5 1 0.25 0 0 1 1"


def test_keypoints_are_seen_where_the_model_is_sure(tmp_path: Path) -> None:
    sure, unsure = [30.0, 40.0, 0.8], [50.0, 60.0, 0.2]
    finds = {"a": {"boxes": [[20.0, 20, 60, 80, 0.9, 0]], "keypoints": [[sure, unsure]]}}
    photos = [photo(tmp_path / "mine" / f"{name}.jpg") for name in "ab"]
    found = found_labels.write(labeller(Teacher(finds, "pose")), Stills(photos), tmp_path / "out", told="images=x")
    assert texts(tmp_path / "out")["a"] == "0 0.4 0.5 0.4 0.6 0.3 0.4 2 0 0 0\n"
    told = datasets.check(found.file)
    assert told["kpt_shape"] == [2, 3]
    split = "train" if (tmp_path / "out" / "images" / "train" / "a.jpg").exists() else "val"
    [label] = [
        x for x in YOLODataset(told[split], data=told, task="pose", imgsz=64, augment=False).labels if len(x["cls"])
    ]
    assert label["keypoints"].tolist() == [[[pytest.approx(0.3), pytest.approx(0.4), 2.0], [0.0, 0.0, 0.0]]]


def test_masks_and_turned_boxes_are_read_again(tmp_path: Path) -> None:
    photos = [photo(tmp_path / "mine" / f"{name}.jpg") for name in "ab"]
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 20:60, 10:50] = 1.0
    masked = {"boxes": [[10.0, 20, 50, 60, 0.9, 1]], "masks": mask.tolist()}
    turned = {"obb": [[50.0, 2, 60, 20, np.pi / 4, 0.9, 1]]}  # the corners lie above the border
    for task, finds, column in (("segment", masked, "segments"), ("obb", turned, "segments")):
        out = tmp_path / task
        both = {"a": finds, "b": finds}
        found = found_labels.write(labeller(Teacher(both, task)), Stills(photos), out, told="images=x")
        told = datasets.check(found.file)
        data = YOLODataset(told["train"], data=told, task=task, imgsz=64, augment=False)
        assert [label["cls"].tolist() for label in data.labels] == [[[1.0]]], task
        assert len(data.labels[0][column]) == 1


def test_where_nothing_is_found_nothing_is_trained_on(tmp_path: Path) -> None:
    photos = Stills([photo(tmp_path / "mine" / "a.jpg")])
    with pytest.raises(DataError, match=r"images=x: the model found nothing in 1 images .* at least 0.3.*labels_conf="):
        found_labels.write(labeller(Teacher({})), photos, tmp_path / "out", told="images=x")
