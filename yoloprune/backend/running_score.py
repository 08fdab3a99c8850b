"""What the steps of a training said about its channels or weights, as a running mean: sound steps alone count."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class RunningScore:
    """Running mean over the optimizer steps of a run.

    Args:
        memory (float): Share of the mean that a step leaves as it is.

    Attributes:
        mean (dict[str, Tensor]): By name; of what no step has scored yet there is none.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.mean: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, now: Mapping[str, Tensor]) -> None:
        """Count one step.

        A step that overflowed teaches nothing, and fused optimizers under AMP are called for those as well: somewhere
        it has left infinity or NaN, or by clipping the gradients zeros everywhere.

        Args:
            now (Mapping[str, Tensor]): Scores of this step, none below zero.
        """
        total = float(torch.stack([score.sum() for score in now.values()]).sum()) if now else 0.0
        if not math.isfinite(total) or total == 0:
            return
        for name, score in now.items():
            old = self.mean.get(name)
            self.mean[name] = score if old is None else old.lerp_(score, 1 - self.memory)
