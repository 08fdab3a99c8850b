"""How far an export is from torch, on outputs written by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from yoloprune.commands.slim_export import deviation


def outputs(classes: int, more: int = 0) -> Tensor:
    """Of a detector, two anchors: boxes up to 640, scores up to 1, and further rows in pixels again."""
    box = torch.tensor([[320.0, 640.0]]).repeat(4, 1)
    return torch.cat([box, torch.full((classes, 2), 1.0), torch.full((more, 2), 640.0)])[None]


@pytest.mark.parametrize(
    ("row", "error", "said"),
    [(0, 10.0, 10 / 640), (4, 0.5, 0.5), (6, 0.5, 0.5), (7, 10.0, 10 / 640)],
    ids=["box", "first class", "last class", "keypoint"],
)
def test_boxes_scores_and_keypoints_are_each_on_their_own_scale(row: int, error: float, said: float) -> None:
    expected, found = outputs(3, more=5), outputs(3, more=5)
    found[0, row, 1] -= error
    assert deviation(expected, found, 3) == pytest.approx(said)


def test_equal_outputs_are_no_distance_apart_and_others_cannot_be_compared() -> None:
    assert deviation(outputs(3), outputs(3), 3) == 0
    assert deviation(outputs(3), outputs(4), 3) is None


def test_a_classifier_has_scores_alone_however_many_classes() -> None:
    expected = torch.tensor([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]])
    assert deviation(expected, expected.flip(1), 6) == pytest.approx(0.8)  # 0.4 of 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_infinitely_far(value: float) -> None:
    found = outputs(3)
    found[0, 5, 0] = value
    assert deviation(outputs(3), found, 3) == math.inf
