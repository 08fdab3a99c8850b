"""Models of different classes, and exports of them, in one table: figures are of what they share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ultralytics
import yaml
from checkpoints import BACKBONE, HEADS, build
from conftest import settle
from PIL import Image

import yoloprune
from yoloprune.backend import datasets
from yoloprune.checkpoint import saving
from yoloprune.commands import shared_classes
from yoloprune.errors import ArgumentError
from yoloprune.planning.paired_bootstrap import Findings

NAMES = ["cat", "dog", "cow"]
BOX = " .5 .5 .4 .4"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of each class, and one of a dog beside a cow."""
    root = tmp_path_factory.mktemp("three") / "mine"
    for i, numbers in enumerate(("0", "1", "2", "12")):
        image = root / "images" / "val" / f"{i}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)).save(image)
        label = root / "labels" / "val" / f"{i}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("".join(f"{n}{BOX}\n" for n in numbers))
    file = root / "data.yaml"
    file.write_text(yaml.safe_dump({"path": str(root), "train": "images/val", "val": "images/val", "names": NAMES}))
    return file


@pytest.fixture(scope="module")
def files(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of three classes, and what is left of it with some of them."""
    folder = tmp_path_factory.mktemp("models")
    yolo = build(folder / "small.yaml", {"nc": 3, "backbone": BACKBONE, "head": [HEADS["detect"]]})
    settle(yolo.model)
    yolo.model.names = dict(enumerate(NAMES))
    yolo.ckpt = {"train_args": {"task": "detect", "imgsz": 64, "data": str(data)}}
    yolo.save(folder / "whole.pt")
    found = {"whole": folder / "whole.pt"}
    for name, kept in {"two": ["dog", "cow"], "dog": ["dog"], "cat": ["cat"]}.items():
        yoloprune.prune(folder / "whole.pt", classes=kept, data=False, project=str(folder), name=name)
        found[name] = folder / name / "weights" / "pruned.pt"
    return found


def shared(files: dict[str, Path], *names: str, data: Path, **more: Any) -> shared_classes.Shared | None:
    models = {name: saving.load(files[name]) for name in names}
    return shared_classes.of(models, {}, {"data": str(data), **more}, "compare")


def labels(data: Any) -> list[str]:
    """Numbers of the classes in each image of a data set."""
    folder = Path(datasets.check(data)["val"]).parents[1] / "labels" / "val"
    return ["".join(line.split()[0] for line in f.read_text().splitlines()) for f in sorted(folder.glob("*.txt"))]


def test_all_are_looked_at_on_the_classes_that_they_share(files: dict[str, Path], data: Path) -> None:
    found = shared(files, "whole", "two", "dog", data=data)
    assert found is not None and found.names == ["dog"]
    assert found.told == ["all figures are of the classes that models and labels share: dog"]
    numbered = {}
    for name in ("whole", "two", "dog"):
        with found.seen_by(name, {"data": str(data), "imgsz": 64}) as passed:
            assert passed["imgsz"] == 64
            assert datasets.class_names(saving.load(files[name]), passed["data"]) == found.known[name]
            numbered[name] = labels(passed["data"])
    assert numbered == {"whole": ["", "1", "", "1"], "two": ["", "0", "", "0"], "dog": ["", "0", "", "0"]}


def test_a_parent_beside_its_child_is_looked_at_on_the_child_s_classes(files: dict[str, Path], data: Path) -> None:
    found = shared(files, "whole", "two", data=data)
    assert found is not None and found.names == ["dog", "cow"] and len(found.told) == 1
    with found.seen_by("whole", {"data": str(data)}) as passed:
        assert labels(passed["data"]) == ["", "1", "2", "12"]


def test_labels_of_fewer_classes_count_by_name(files: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """The parent calls them by other numbers than the data set that was made for its child."""
    fewer = tmp_path / "fewer.yaml"
    fewer.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), "names": ["cow", "dog", "pig"]}))
    found = shared(files, "whole", "two", data=fewer)  # labels 0, 1, 2 stand for cow, dog, pig
    assert found is not None and found.names == ["cow", "dog"]
    with found.seen_by("whole", {"data": str(fewer)}) as passed:
        assert labels(passed["data"]) == ["2", "1", "", "1"]
    with found.seen_by("two", {"data": str(fewer)}) as passed:
        assert labels(passed["data"]) == ["1", "0", "", "0"]


def test_nothing_is_said_where_all_know_the_same(files: dict[str, Path], data: Path) -> None:
    assert shared(files, "whole", data=data) is None
    found = shared(files, "two", data=data, classes=[1])
    assert found is not None and found.names == ["dog", "cow"] and found.told == []
    with found.seen_by("two", {"data": str(data), "classes": [1]}) as passed:
        assert labels(passed["data"]) == ["", "0", "1", "01"] and passed["classes"] == [1]


def test_models_without_a_class_in_common_are_refused(files: dict[str, Path], data: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^compare: no class is shared by all: two knows dog, cow; cat knows"):
        shared(files, "two", "cat", data=data)
    with pytest.raises(ArgumentError, match=r"^classes=\[0\]: counts other classes in each .* that they share, dog$"):
        shared(files, "two", "dog", data=data, classes=[0])


def test_an_export_says_itself_what_it_knows(files: dict[str, Path], data: Path) -> None:
    yolo = saving.load(files["whole"])
    for names, counted in ({"0": "cow"}.values(), ["cow"]), (["class0", "class1"], None), (NAMES, None):
        found = shared_classes.of({"a": yolo, "b": yolo}, {"b": list(names)}, {"data": str(data)}, "compare")
        assert (found and found.names) == counted


def test_findings_are_numbered_alike(files: dict[str, Path], data: Path) -> None:
    found = shared(files, "whole", "two", data=data)
    assert found is not None
    of = {"whole": [1.0, 2.0, 0.0, 1.0], "two": [0.0, 1.0, 1.0, 0.0]}
    told = {}
    for name, classes in of.items():
        numbers = np.array(classes)
        seen = Findings(np.ones((4, 1), bool), np.ones(4), numbers, np.arange(4), numbers[[0, 1]], np.arange(2), 4)
        told[name] = found.numbered(name, seen)
    assert told["whole"] is not None and told["whole"].classes.tolist() == [0, 1, -1, 0]
    assert told["two"] is not None and told["two"].classes.tolist() == [0, 1, 1, 0]
    assert told["whole"].same_images(told["two"])


@pytest.mark.slow
@pytest.mark.long
def test_compare_says_which_classes_count(
    files: dict[str, Path], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "two.pt"
    copy.write_bytes(files["two"].read_bytes())
    export = ultralytics.YOLO(str(copy)).export(format="torchscript", imgsz=64)
    models = {"whole": files["whole"], "two": files["two"], "export": export}
    rows = yoloprune.compare(models, data=str(data), imgsz=64, project=str(tmp_path))
    assert [row["model"] for row in rows] == list(models)
    assert "all figures are of the classes that models and labels share: dog, cow" in caplog.text
    report = json.loads((tmp_path / "compare" / "report.json").read_text())
    assert sum("dog, cow" in note for note in report["notes"]) == 1
    assert [row["name"] for row in report["by_class"]] == ["dog", "cow"]
    assert rows[0]["mAP50-95"] == pytest.approx(rows[1]["mAP50-95"], abs=1e-3)
