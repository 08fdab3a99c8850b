"""What the words of `recover=` do, as steps in their order."""

from __future__ import annotations

from typing import Literal

Step = Literal["fold", "bn", "lsq"]

RECIPES: dict[str, tuple[Step, ...]] = {
    "none": (),
    "fold": ("fold",),
    "bn": ("fold", "bn"),
    "lsq": ("fold", "lsq"),
}
"""By word: constants moved (`constant_folding`), statistics measured anew (`batch_norm_statistics`), weights fitted
(`least_squares`). Statistics after a fit made mAP worse."""

NEED_IMAGES: frozenset[Step] = frozenset({"bn", "lsq"})
"""Steps that measure on images; constants are moved without."""


def steps_of(recover: str, *, images: bool) -> tuple[Step, ...]:
    """Steps of a word; of "auto" the best that there are images for, and of others those that can be done."""
    steps = RECIPES["lsq" if recover == "auto" else recover]
    return tuple(step for step in steps if images or step not in NEED_IMAGES)
