"""Masks that are tried and judged on one parent, and not trained: scores and images are looked at once for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ultralytics
from torch import Tensor, nn

from yoloprune.backend import console
from yoloprune.commands import mask
from yoloprune.cutting import masks
from yoloprune.errors import ArgumentError
from yoloprune.selection import mask_choice, mask_scores
from yoloprune.selection.calibration import Calibration
from yoloprune.settings.mask_request import Masks, Zeros


class Masking:
    """One ranking of single weights, from which masks of any share are made.

    Attributes:
        names (list[str]): Layers that are masked.
        left (dict[str, str]): Why others are not.
        nonzero (int): Parameters of the parent that are not zero.
        zeros (float): Share of the weights of these layers that is zero in the parent.
    """

    def __init__(
        self, parent: ultralytics.YOLO, seen: Any, asked: Masks, recover: str, passed: Mapping[str, Any]
    ) -> None:
        self.parent, self.recover = parent, recover
        pattern = asked.each[0].pattern
        names, self.left = mask_choice.layers(parent.model, asked.each[0])
        score = mask_scores.best(parent, seen, pattern) if asked.score == "auto" else asked.score
        self.scope = mask_choice.scope_of(asked.each[0], score)
        self.sight: Calibration = mask.sight(parent, seen, passed["imgsz"], passed, score, recover)
        self.scores = mask_scores.scored(parent, names, score, self.sight)
        self.names = [name for name in names if name in self.scores]
        self.nonzero = sum(int((p != 0).sum()) for p in parent.model.parameters())
        self.zeros = _share(masks.found_in(parent.model, self.names))

    def of(self, zeros: Zeros, names: Sequence[str]) -> tuple[dict[str, float], dict[str, Tensor]]:
        """One mask of some layers: what its row says, and which weights stay."""
        kept = self._kept(zeros, names)
        new = sum(int((found & ~kept[name]).sum()) for name, found in masks.found_in(self.parent.model, names).items())
        return {"zeros": _share(kept), "nonzero": round(1 - new / self.nonzero, 5)}, kept

    def make(self, zeros: Zeros, name: str) -> ultralytics.YOLO:
        """The parent with one layer masked."""
        return mask.masked(self.parent, self._kept(zeros, [name]), self.recover, self.sight)

    def _kept(self, zeros: Zeros, names: Sequence[str]) -> dict[str, Tensor]:
        """What stays and is not zero already."""
        scores = {name: self.scores[name] for name in names}
        kept = mask_choice.choose(scores, zeros.pattern, zeros.sparsity, self.scope)
        return {name: kept[name] & found.cpu() for name, found in masks.found_in(self.parent.model, names).items()}


def _share(kept: Mapping[str, Tensor]) -> float:
    """Share of weights that does not stay."""
    return round(sum(int((~stay).sum()) for stay in kept.values()) / sum(stay.numel() for stay in kept.values()), 4)


def those_that_take(model: nn.Module, asked: Masks) -> tuple[Masks, dict[str, str]]:
    """The masks that take something of a network, and why others do not, by what was asked for.

    Raises:
        ArgumentError: If none does.
    """
    each, without, errors = list[Zeros](), dict[str, str](), list[ArgumentError]()
    names, _ = mask_choice.layers(model, asked.each[0])
    for zeros in asked.each:
        try:
            mask_choice.require_more(model, names, zeros)
            each.append(zeros)
        except ArgumentError as e:
            errors.append(e)
            console.warn(f"sweep: left out: {e}")
            without[str(zeros)] = str(e)
    if not each:
        raise errors[0]
    return replace(asked, each=tuple(each)), without
