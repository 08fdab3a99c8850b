"""A budget that image and widths share; every figure is worked out by hand."""

from __future__ import annotations

import pytest

from yoloprune.planning.image_side import MOST, least, shared


@pytest.mark.parametrize(
    ("flops", "side", "chosen"),
    [
        (0.5, 320, 256),  # 320 * 0.5 ** 0.25 = 269.1, between 256 and 288
        (0.5, 640, 544),  # 538.2, between 512 and 544
        (0.25, 320, 224),  # 226.3
        (0.35, 416, 320),  # 319.97
        (0.95, 640, 640),  # 631.8, which is 640
        (0.8, 320, 320),  # 302.6; at 288 there were 0.988 left, which is no cut
        (0.5, 32, 32),
    ],
)
def test_both_save_about_the_same_factor(flops: float, side: int, chosen: int) -> None:
    assert shared(flops, side, 32) == (chosen, pytest.approx(flops * (side / chosen) ** 2))


@pytest.mark.parametrize("stride", [32, 64])
def test_what_is_left_for_the_widths_is_a_cut(stride: int) -> None:
    for percent in range(5, 100, 5):
        for side in range(stride, 1281, stride):
            chosen, left = shared(percent / 100, side, stride)
            assert chosen % stride == 0 and stride <= chosen <= side
            assert left * chosen**2 == pytest.approx(percent / 100 * side**2)
            assert left <= MOST or chosen == side


@pytest.mark.parametrize(
    ("share", "side", "found"),
    [
        (0.25, 320, 0.063),  # at 160 pixels 4 * 0.0625; 0.04 does as well, at 128, but 0.042 to 0.062 do not
        (0.5, 32, 0.5),  # no smaller side
    ],
)
def test_the_budget_from_which_on_widths_get_enough(share: float, side: int, found: float) -> None:
    assert least(share, side, 32) == found
    assert shared(0.04, 320, 32) == (128, pytest.approx(0.25)) and shared(0.062, 320, 32)[0] == 160
