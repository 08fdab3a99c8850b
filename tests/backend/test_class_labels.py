"""Data sets of more classes than the model's: which label is which, what is written, and that nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from yoloprune.backend import class_labels, console, datasets
from yoloprune.errors import UnlabelledError

NAMES = ["cat", "dog", "cow", "dog"]  # two numbers of one name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two folders of training images with a name in common, one of validation; `dog` is in two of five images."""
    texts = {
        "train/a/1.jpg": "0 .1 .1 .1 .1\n",
        "train/a/2.jpg": "2 .2 .2 .2 .2\n3 .3 .3 .3 .3\n",
        "train/b/1.png": "1.0 .4 .4 .4 .4\n0 .5 .5 .5 .5\n",
        "train/b/3.jpg": None,
        "val/4.jpg": "3 .6 .6 .6 .6",
    }
    root = tmp_path / "mine"
    for name, text in texts.items():
        image = root / "images" / name
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(image)
        label = (root / "labels" / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            label.write_text(text)
    file = root / "data.yaml"
    told = {"path": str(root), "train": "images/train", "val": "images/val", "names": NAMES, "download": "https://x"}
    file.write_text(yaml.safe_dump({**told, "kpt_shape": [2, 3]}))
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def labels(folder: Path, split: str) -> dict[str, str]:
    return {f.stem: f.read_text() for f in sorted((folder / "labels" / split).iterdir())}


def test_labels_are_matched_by_name(data: Path) -> None:
    assert class_labels.matched(["dog", "cat"], data) == {0: 1, 1: 0, 3: 0}
    assert class_labels.matched(["cow"], str(data)) == {2: 0}


def test_what_is_not_matched(data: Path) -> None:
    assert class_labels.matched(None, data) is None  # a model with all of its classes
    assert class_labels.matched(NAMES, data) is None  # the model's already
    assert class_labels.matched(["dog", "bird"], data) is None  # which would teach that birds are background
    assert class_labels.matched(["dog"], [data]) is None
    assert class_labels.matched(["dog"], None) is None


def test_a_label_keeps_all_but_its_number() -> None:
    text = "3 .1 .2 .3 .4 0 1 2\n0 .9 .9 .9 .9\n 7.0 .5 .6\nnonsense here\n\n"
    assert class_labels.relabelled(text, {3: 0, 7: 1}) == ["0 .1 .2 .3 .4 0 1 2", "1 .5 .6", "nonsense here"]


def test_numbers_may_stand_between_tabs() -> None:
    """Ultralytics reads them so; a line that is taken for none would keep the number of another class."""
    assert class_labels.relabelled("1\t.1\t.2\n0\t.3\t.4\n\t2  .5\ninf .6\n", {1: 0, 2: 1}) == [
        "0 .1\t.2",
        "1 .5",
        "inf .6",
    ]


def test_a_data_set_of_the_models_classes_is_written_and_the_users_only_read(data: Path, tmp_path: Path) -> None:
    before = contents(data.parent)
    found = class_labels.matched(["dog"], data)
    assert found is not None
    file = class_labels.write(["dog"], data, found, tmp_path / "out")
    assert contents(data.parent) == before
    told = datasets.check(file)
    assert (told["names"], told["nc"], told["kpt_shape"]) == ({0: "dog"}, 1, [2, 3])
    assert "download" not in yaml.safe_load(file.read_text())
    train = labels(tmp_path / "out", "train")
    assert sorted(train.values()) == ["", "", "0 .3 .3 .3 .3\n", "0 .4 .4 .4 .4\n"]  # and none lost to a common name
    assert labels(tmp_path / "out", "val") == {"4": "0 .6 .6 .6 .6\n"}
    assert {f.stem for f in (tmp_path / "out" / "images" / "train").iterdir()} == set(train)


def test_images_that_show_a_class_are_drawn_first(data: Path) -> None:
    with class_labels.view(["dog"], data, draw=3, seed=1) as seen:
        folder = Path(seen).parent
        found = labels(folder, "train")
        assert len(found) == 3
        assert sum(bool(text) for text in found.values()) == 2
        assert datasets.check(seen)["train"] == datasets.check(seen)["val"]
    assert not folder.exists()
    with class_labels.view(["dog"], data, draw=1) as seen:
        assert [bool(t) for t in labels(Path(seen).parent, "train").values()] == [True]


def test_what_is_wrong_with_what_is_looked_at_names_the_users_files(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = data.parent / "images" / "train" / "b" / "1.png"
    with pytest.raises(UnlabelledError) as e, class_labels.view(["cow", "cat"], data) as seen:
        (link,) = [f for f in (Path(seen).parent / "images").rglob("*") if f.is_symlink() and f.readlink() == first]
        console.warn(f"data={seen}: 1 of 4 images cannot be read: {link}")
        raise UnlabelledError(f"data={seen}: none has a label, the first is {link}.")
    assert caplog.messages[-1].endswith(f"data={data}: 1 of 4 images cannot be read: {first}")
    assert str(e.value) == f"data={data}: none has a label, the first is {first}."


def test_classes_that_no_training_image_shows_are_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(console, "warn", told.append)
    names = [*NAMES[:3], "toaster", "kettle"]
    for text in (data.parent / "labels" / "train").rglob("*.txt"):
        text.write_text(text.read_text().replace("3 ", "1 "))
    data.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), "names": names}))
    with class_labels.few(["dog", "toaster", "cow", "kettle"], data, 0):
        assert told == [f"data={data}: no training image shows toaster or kettle; nothing is ranked for that"]
    told.clear()
    with class_labels.few(["dog", "cow"], data, 0), class_labels.view(["dog", "toaster"], data, draw=1):
        assert told == []  # all are shown; not all images were looked at


def test_a_data_set_of_these_classes_is_looked_at_itself(data: Path) -> None:
    with class_labels.view(None, data) as seen, class_labels.few(NAMES, data, 0) as few:
        assert (seen, few) == (data, data)


def test_where_links_are_not_allowed_images_are_copied(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError("not permitted")

    monkeypatch.setattr("os.symlink", refused)
    monkeypatch.setattr("os.link", refused)
    class_labels.write(["cow"], data, {2: 0}, tmp_path / "out")
    images = list((tmp_path / "out" / "images").rglob("*.*"))
    assert len(images) == 5
    assert not any(f.is_symlink() for f in images)


def test_pictures_of_one_name_are_kept_apart_and_untouched(tmp_path: Path) -> None:
    """The name that one of two gets may be that of a third, as on a disk that does not tell capitals apart."""
    root = tmp_path / "mine"
    for i, name in enumerate(("a/2-x.jpg", "a/x.jpg", "b/X.jpg", "b/x.jpg")):
        image = root / "images" / "train" / name
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 60 * i, np.uint8)).save(image)
        label = (root / "labels" / "train" / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"1 .5 .5 .{i + 1} .2\n")
    file = root / "data.yaml"
    told = {"path": str(root), "train": "images/train", "val": "images/train", "names": ["cat", "dog"]}
    file.write_text(yaml.safe_dump(told))
    before = contents(root / "images")
    with class_labels.view(["dog"], file) as seen:
        made = Path(seen).parent
        shown = {f.stem: f.read_bytes() for f in (made / "images" / "train").iterdir()}
        said = labels(made, "train")
    assert contents(root / "images") == before
    assert sorted(shown.values()) == sorted(before.values())
    pairs = {shown[stem]: text for stem, text in said.items()}
    assert {before[f"train/{n}"]: pairs[before[f"train/{n}"]].split()[3] for n in ("a/x.jpg", "b/x.jpg")} == {
        before["train/a/x.jpg"]: ".2",
        before["train/b/x.jpg"]: ".4",
    }
