"""A module that makes some of the outputs of another: a convolution whose channels a block splits."""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from yoloprune.cutting import surgery
from yoloprune.native import width_arguments
from yoloprune.planning.plan import Keep, Plan


def piece(module: nn.Module, start: int, end: int, width: int) -> nn.Module | None:
    """A module that makes some of the outputs of one whose last layers are as wide as all; None if that is not so."""
    keep = Keep(outputs=tuple(range(start, end)), of=(width, None))
    wide = [n for n, w in width_arguments.widths_of(module).items() if w == width]
    return surgery.cut(deepcopy(module), Plan(dict.fromkeys(wide, keep))) if wide else None


def piece_of(module: nn.Module, part: tuple[int, int], width: int) -> nn.Module:
    """The part of a module that makes some of its outputs, of which it has so many."""
    found = piece(module, *part, width)
    assert found is not None
    return found
