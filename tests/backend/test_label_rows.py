"""Labels of another kind than a task needs are told by the rows of a few files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from yoloprune.backend import label_rows

BOXES, OUTLINES, POINTS = "0 .5 .5 .2 .2", "0 .4 .4 .6 .4 .6 .6", "0 .5 .5 .2 .2 .4 .4 2 .6 .6 2"  # 5, 7 and 11 numbers


def split(folder: Path, *texts: str | None) -> str:
    """Images with these labels, None for a background; the images are not opened."""
    for i, text in enumerate(texts):
        for kind, suffix, content in (("images", "jpg", ""), ("labels", "txt", text)):
            if content is not None:
                file = folder / kind / f"{i:03d}.{suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content)
    return str(folder / "images")


@pytest.mark.parametrize(
    ("task", "rows", "shape", "said"),
    [
        ("segment", BOXES, None, "its labels are boxes, and a segment model needs segments"),
        ("obb", BOXES, None, "its labels are boxes, and an obb model needs rotated boxes"),
        ("segment", POINTS, [2, 3], "its labels are boxes with keypoints, and a segment model needs segments"),
        ("pose", BOXES, None, "its YAML has no kpt_shape, and a pose model needs keypoints"),
        ("pose", BOXES, [2, 3], "rows of its labels have 5 numbers, and a pose model needs keypoints ("),
        ("segment", OUTLINES, None, ""),
        ("segment", f"{BOXES}\n{OUTLINES}", None, ""),  # Ultralytics has its say on files that mix them
        ("segment", OUTLINES, [2, 3], ""),
        ("obb", OUTLINES, None, ""),
        ("pose", POINTS, [2, 3], ""),
        ("pose", BOXES, "two", ""),  # what is no shape is for Ultralytics to tell
        ("detect", OUTLINES, None, ""),
        ("segment", "\n", None, ""),  # backgrounds alone tell nothing
        ("segment", None, None, ""),
    ],
)
def test_what_labels_are(task: str, rows: str | None, shape: list[int] | str | None, said: str, tmp_path: Path) -> None:
    told: dict[str, Any] = {"train": split(tmp_path / "t", rows), "val": split(tmp_path / "v", rows)}
    found = label_rows.lacking(task, {**told, "kpt_shape": shape} if shape else told)
    assert found.startswith(said) and bool(found) is bool(said)


def test_a_model_of_points_says_how_many_numbers_a_row_has(tmp_path: Path) -> None:
    """A class, a box, and 2 x 3 for the points are 11."""
    assert "11 numbers" in label_rows.lacking("pose", {"train": split(tmp_path, BOXES), "kpt_shape": [2, 3]})


def test_backgrounds_are_passed_over_and_a_few_files_are_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first two have no rows, the next two are read, and the outline in the last one is not."""
    monkeypatch.setattr(label_rows, "ENOUGH", 2)
    told = {"train": [split(tmp_path, None, "", BOXES, BOXES, OUTLINES)]}
    assert label_rows.lacking("segment", told)
    monkeypatch.setattr(label_rows, "ENOUGH", 3)
    assert not label_rows.lacking("segment", told)


def test_lists_of_images_are_followed(tmp_path: Path) -> None:
    split(tmp_path, BOXES)
    listed = tmp_path / "train.txt"
    listed.write_text(f"./images/000.jpg\n\n{tmp_path}/images/001.jpg\n")
    assert label_rows.lacking("segment", {"train": str(listed)})
    (tmp_path / "labels" / "001.txt").write_text(OUTLINES)
    assert not label_rows.lacking("segment", {"train": str(listed)})
