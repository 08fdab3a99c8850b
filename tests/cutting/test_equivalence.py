"""How far two values are apart, worked out by hand, and which values could show a difference at all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from yoloprune.cutting.equivalence import apart, depends_on_luck, errors, kept_rows, says_something
from yoloprune.probing.outputs import Leaf

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([2.0, 2.0], [2.0, 2.5], 0.25),  # relative to the largest value
        ([0.0, 4.0], [0.0, 4.0], 0.0),
        ([NAN, INF, -INF], [NAN, INF, -INF], 0.0),
        ([1.0, 1.0], [1.0, NAN], INF),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([], [], 0.0),
    ],
)
def test_numbers(a: list[float], b: list[float], error: float) -> None:
    assert apart(torch.tensor(a), torch.tensor(b)) == pytest.approx(error)


def test_another_shape_or_type_is_infinitely_far() -> None:
    x = torch.ones(2)
    assert apart(x, torch.ones(1)) == apart(x, x.double()) == apart(x, [1.0, 1.0]) == INF


@pytest.mark.parametrize("dim", range(3))
def test_boxes_do_not_hide_scores_along_any_dimension(dim: int) -> None:
    """Scores of 1e-3 beside boxes of 400, all wrong by half: in float64 that is 0.5; in float32 a tenth of it."""
    boxes, scores = torch.full((2, 4, 4), 400.0), torch.full((2, 4, 4), 1e-3)
    a, b = torch.cat([boxes, scores], dim), torch.cat([boxes, scores * 1.5], dim)
    assert apart(a.double(), b.double()) == pytest.approx(0.5)
    assert apart(a, b) == pytest.approx(0.5)


def checker(score: float) -> Tensor:
    """Every row and every column holds a large value."""
    even = (torch.arange(40)[:, None] + torch.arange(40)) % 2 == 0
    return torch.where(even, 400.0, score)


def test_boxes_do_not_hide_scores_that_share_all_slices() -> None:
    """In float32 single values count by a hundredth."""
    assert apart(checker(1e-3), checker(1.5e-3)) == pytest.approx(0.005)
    assert apart(checker(1e-3).double(), checker(1.5e-3).double()) == pytest.approx(0.5)


def test_a_few_values_near_zero_may_be_rounding() -> None:
    a = torch.ones(100, 100)
    b = a.clone()
    a[0, :10], b[0, :10] = 1e-9, -1e-9  # ten of ten thousand
    assert apart(a, b) == pytest.approx(2e-9)
    a[0, 10], b[0, 10] = 1e-9, -1e-9
    assert apart(a, b) == pytest.approx(0.02)


def test_in_float64_what_cancels_out_is_judged_by_what_it_is_made_of() -> None:
    """At a floor of 1e-9 of the largest value, 1e-15 beside 1 is an error of 1e-6."""
    a, b = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 1e-15], dtype=torch.float64)
    assert apart(a, b) == pytest.approx(1e-6)


def test_other_kinds() -> None:
    assert apart(torch.tensor([3, 4]), torch.tensor([3, 5])) == INF
    assert apart(torch.tensor([True]), torch.tensor([True])) == 0
    assert apart(torch.tensor([3 + 4j]), torch.tensor([3 + 5j])) == pytest.approx(0.25 / 1)
    assert apart(4.0, 5.0) == pytest.approx(0.25)
    assert apart(4, 5) == apart("a", "b") == apart(4, 4.0) == INF
    assert apart(None, None) == apart("a", "a") == apart(range(3), range(3)) == 0
    assert apart(same := object(), same) == INF  # it could hold anything


@pytest.mark.parametrize(
    ("value", "says", "luck"),
    [
        (torch.tensor([0.0, 1.0]), True, False),
        (torch.zeros(3), False, False),
        (torch.tensor([NAN, INF]), False, False),
        (torch.full((2,), 1e-35), False, False),
        (torch.zeros(2, dtype=torch.complex64), False, False),
        (torch.zeros(0), False, True),
        (torch.tensor([7, 7]), False, True),
        (torch.tensor([7, 8]), True, True),
        (torch.tensor(7), True, True),
        (torch.tensor([False, False]), False, True),
        (0, True, False),
        (object(), False, False),
    ],
)
def test_values_that_say_something(value: Any, says: bool, luck: bool) -> None:
    assert says_something(value) is says
    assert depends_on_luck(value) is luck


def test_errors_by_path() -> None:
    """What one side alone has is infinitely far."""
    a, b = [Leaf("x", 2.0), Leaf("y", "a")], [Leaf("x", 3.0), Leaf("z", "a")]
    assert errors(a, b) == {"x": 0.5, "y": INF, "z": INF}


def test_rows_that_an_output_kept() -> None:
    a = torch.tensor([[1.0], [0.0], [3.0]])
    marked = torch.tensor([[1.0], [1.0], [3.0]])
    assert kept_rows(a, marked, torch.tensor([[1.0], [3.0]])) == (0, [0, 2], True)
    mixed = a + 1  # all change: by their values, in their order
    assert kept_rows(a, mixed, torch.tensor([[0.0], [3.0]])) == (0, [1, 2], False)
    assert kept_rows(a, marked, torch.ones(3, 2)) is None  # wider than its parent
    assert kept_rows(torch.ones(2, 2), torch.ones(2, 2), torch.ones(1, 1)) is None
    assert kept_rows(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 2, 5)) is None
