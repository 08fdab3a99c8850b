"""How zeros become more on a ramp, worked out by hand; what a pattern leaves is in tests/selection."""

from __future__ import annotations

import numpy as np
import pytest

from yoloprune.planning import weight_masks


def test_the_curve_is_cubic() -> None:
    """From 0.2 to 0.9: 0.9 - 0.7 (1 - r)^3, i.e. 0.9 - 0.7 / 8 = 0.8125 half way."""
    found = [weight_masks.cubic(0.2, 0.9, progress) for progress in (0, 0.5, 1)]
    assert found == pytest.approx([0.2, 0.8125, 0.9])


def test_the_first_choice_is_at_the_start_and_the_last_a_step_before_the_end() -> None:
    assert [weight_masks.choices_made(progress, 4) for progress in (0, 0.24, 0.25, 0.5, 0.74, 0.75, 1)] == [
        *(1, 1, 2, 3, 3, 4, 4)
    ]
    assert weight_masks.choices_made(0, 1) == 1
    assert weight_masks.choices_made(0.29, 100) == 30  # 0.29 * 100 is 28.999...


def test_n_of_m_on_its_way_leaves_more_of_the_neighbours() -> None:
    """Of 1:4 the share is 0.75; at 0.5 two of four go, at 0.1 none."""
    scores = {"a": np.array([[4.0, 1.0, 3.0, 2.0]], dtype=np.float32)}
    for share, left in ((0.1, [1, 1, 1, 1]), (0.3, [1, 0, 1, 1]), (0.5, [1, 0, 1, 0]), (0.75, [1, 0, 0, 0])):
        assert weight_masks.choose(scores, "1:4", share)["a"].astype(int).tolist() == [left]


def test_the_share_of_filters_of_several_sizes_is_one_of_weights() -> None:
    """Filters of 9 weights and of 4, 30 in all: half of them are 15, and the two of 9 that say least are 18."""
    wide = np.ones((2, 1, 3, 3)) * np.array([1.0, 2.0]).reshape(2, 1, 1, 1)
    small = np.ones((3, 4, 1, 1)) * np.array([3.0, 4.0, 5.0]).reshape(3, 1, 1, 1)
    for sparsity, gone in ((0.5, (1, 0)), (0.6, (2, 0)), (0.74, (2, 1))):
        kept = weight_masks.choose({"wide": wide, "small": small}, "filter", sparsity, "global")
        assert ((~kept["wide"].all((1, 2, 3))).sum(), (~kept["small"].all((1, 2, 3))).sum()) == gone
    kernels = weight_masks.choose({"wide": wide, "small": small}, "kernel", 0.5, "global")
    assert (~kernels["wide"]).sum() == 9 and kernels["small"].all()
