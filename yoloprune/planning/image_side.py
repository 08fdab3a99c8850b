"""How a cut of the FLOPs is shared between the side of the image and the widths of the network."""

from __future__ import annotations

import math

LARGE = 32
"""Pixels of an object that a coarser image leaves recognisable: where COCO's metrics part small from medium."""

MOST = 0.9
"""Share of the FLOPs that widths may keep at a smaller side; a cut that saves less is not worth one."""


def shared(flops: float, side: int, stride: int, objects: float) -> tuple[int, float]:
    """Share a budget so that image and widths each save about the same factor.

    FLOPs go with the square of the side. What a cut costs grows faster than what it saves, by widths as by the image,
    so that half of it by each costs less than all of it by one. The stride leaves few sides; between two of them small
    objects have the larger.

    Args:
        flops (float): Fraction of the parent's FLOPs at its own side that may be used, in (0, 1).
        side (int): The parent's own, in pixels.
        stride (int): Sides are multiples of it.
        objects (float): Side of a typical object at the parent's own side, in pixels.

    Returns:
        (int): Side of the images of the pruned network.
        (float): Fraction of the parent's FLOPs at that side that the widths may use.
    """
    meant = side * flops**0.25 / stride
    chosen = stride * max(1, math.ceil(meant) if objects < LARGE else round(meant))
    while chosen < side and flops * (side / chosen) ** 2 > MOST:
        chosen += stride
    chosen = min(chosen, side)
    return chosen, flops * (side / chosen) ** 2
