"""Objects in an image as outlines: which of two models' are the same, and what label files hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ultralytics.engine.results import Results

from yoloprune.commands import outlines
from yoloprune.reporting.facts import Outline


def box(left: float, right: float, name: str = "a") -> Outline:
    """As high as the image, from one share of its width to another."""
    points = [(left, 0.0), (right, 0.0), (right, 1.0), (left, 1.0)]
    return {"name": name, "colour": "#042aff", "score": 0.9, "points": points, "matched": False}


def test_the_same_boxes_have_not_changed() -> None:
    first, second = [box(0, 0.5), box(0.5, 1)], [box(0.5, 1), box(0, 0.5)]
    assert outlines.compare(first, second) == 0
    assert all(o["matched"] for o in (*first, *second))


def test_a_shifted_box_counts_by_its_overlap() -> None:
    """0 to 0.8 and 0.2 to 1 share 0.6 of 1: an IoU of 0.6, so 1 - 2 * 0.6 / 2."""
    assert outlines.compare([box(0, 0.8)], [box(0.2, 1)]) == pytest.approx(0.4)


def test_less_than_half_or_another_class_is_no_pair() -> None:
    for second in (box(0.5, 1), box(0, 0.6, "b")):
        first = box(0, 0.6)
        assert outlines.compare([first], [second]) == 1
        assert not first["matched"] and not second["matched"]


def test_each_box_is_taken_once_and_the_best_first() -> None:
    """Two of the parent's lie on one of the pruned: the exact one takes it, of three outlines one pair is left."""
    near, exact, found = box(0, 0.8), box(0, 1), box(0, 1)
    assert outlines.compare([near, exact], [found]) == pytest.approx(1 - 2 / 3)
    assert (near["matched"], exact["matched"], found["matched"]) == (False, True, True)


def test_nothing_found_by_either_has_not_changed() -> None:
    assert outlines.compare([], []) == 0
    assert outlines.compare([box(0, 1)], []) == 1


@pytest.mark.parametrize(
    "task, line, points",
    [
        ("detect", "1 0.5 0.5 0.2 0.4", [(0.4, 0.3), (0.6, 0.3), (0.6, 0.7), (0.4, 0.7)]),
        ("pose", "1 0.5 0.5 0.2 0.4 0.1 0.1 2", [(0.4, 0.3), (0.6, 0.3), (0.6, 0.7), (0.4, 0.7)]),
        ("segment", "1 0 0 1 0 1 1", [(0, 0), (1, 0), (1, 1)]),
        ("obb", "1 0 0 1 0 1 1 0 1", [(0, 0), (1, 0), (1, 1), (0, 1)]),
    ],
)
def test_labels(task: str, line: str, points: list[tuple[float, float]], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{line}\nno label\n7 0 0 1 1\n1 0.5\n")
    found = outlines.labels(tmp_path / "a.txt", task, ["cat", "dog"])
    assert [(o["name"], o["score"]) for o in found] == [("dog", None)]
    assert found[0]["points"] == points
    assert outlines.labels(tmp_path / "none.txt", task, []) == []


def test_a_class_has_the_colour_that_predict_gives_it(tmp_path: Path) -> None:
    """By its number, whichever classes are in the image: 21 comes around to 1 of Ultralytics' twenty."""
    names = {i: f"class {i}" for i in range(30)}
    boxes = torch.tensor([[0.0, 0, 5, 5, 0.9, 21], [0, 0, 5, 5, 0.8, 2]])
    found = outlines.found(Results(np.zeros((10, 10, 3), np.uint8), path="", names=names, boxes=boxes))
    (tmp_path / "a.txt").write_text("2 0.5 0.5 0.2 0.4\n1 0.5 0.5 0.2 0.4\n")
    labels = outlines.labels(tmp_path / "a.txt", "detect", [*names.values()])
    assert [o["colour"] for o in (*found, *labels)] == ["#0bdbeb", "#f3f3f3", "#f3f3f3", "#0bdbeb"]
