"""Residual branches: parts of a network that may go as a whole, each a width of zero. Pure data, no torch.

A branch adds to what it is given. The channels that live inside it alone become empty together, and with them all that
it costs: what its last layer adds to the stream as well, which keeps its width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Branch:
    """A module that hands on its input once all that is in it is zero.

    Attributes:
        name (str): Dotted module name.
        groups (tuple[int, ...]): The groups of channels that live inside it alone, at least one.
        twice (tuple[tuple[int, tuple[int, ...]], ...]): Positions, by axis, that hold the same as others without it,
            and are added to these.
    """

    name: str
    groups: tuple[int, ...]
    twice: tuple[tuple[int, tuple[int, ...]], ...] = ()

    def holds(self, name: str) -> bool:
        """Whether a module, parameter or counted axis of this name lies in it."""
        return name.startswith(self.name) and name[len(self.name) : len(self.name) + 1] in {"", ".", " "}


def removed(branches: Iterable[Branch], widths: np.ndarray) -> list[Branch]:
    """The branches all of whose groups are empty at these widths, shape (groups,); of nested ones the outermost."""
    gone = [branch for branch in branches if not widths[list(branch.groups)].any()]
    return [b for b in gone if not any(o is not b and o.holds(b.name) for o in gone)]


def holder(branches: Sequence[Branch], name: str) -> Branch | None:
    """The first of some branches that a module lies in, None if there is none."""
    return next((branch for branch in branches if branch.holds(name)), None)
