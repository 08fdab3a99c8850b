"""How a cut of the FLOPs is shared between the side of the image and the widths of the network."""

from __future__ import annotations

MOST = 0.9
"""Share of the FLOPs that widths may keep at a smaller side; a cut that saves less is not worth one."""


def shared(flops: float, side: int, stride: int) -> tuple[int, float]:
    """Share a budget so that image and widths each save about the same factor.

    FLOPs go with the square of the side. What a cut costs grows faster than what it saves, by widths as by the image,
    so that half of it by each costs less than all of it by one; docs/results.md has the figures.

    Args:
        flops (float): Fraction of the parent's FLOPs at its own side that may be used, in (0, 1).
        side (int): The parent's own, in pixels.
        stride (int): Sides are multiples of it.

    Returns:
        (int): Side of the images of the pruned network.
        (float): Fraction of the parent's FLOPs at that side that the widths may use.
    """
    chosen = stride * max(1, round(side * flops**0.25 / stride))
    while chosen < side and flops * (side / chosen) ** 2 > MOST:
        chosen += stride
    chosen = min(chosen, side)
    return chosen, flops * (side / chosen) ** 2


def least(share: float, side: int, stride: int) -> float:
    """The budget from which on widths get as much as they need, in thousandths.

    Some below it do as well: a side is a whole number of strides, and right before a larger one widths get more.

    Args:
        share (float): Fraction of the FLOPs that widths leave at least, at whatever side, in (0, 1).
        side (int): The parent's own, in pixels.
        stride (int): Sides are multiples of it.
    """
    too_few = (n for n in range(999, 0, -1) if shared(n / 1000, side, stride)[1] < share)
    return (next(too_few, 0) + 1) / 1000
