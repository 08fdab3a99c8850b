"""What the steps of a training said about its channels or weights, as a running mean: sound steps alone count."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class RunningScore:
    """Running mean over the optimizer steps of a run. A step is counted where its numbers are, so that nothing waits.

    Args:
        memory (float): Share of the mean that a step leaves as it is.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._mean: dict[str, Tensor] = {}
        self._begun: Tensor | None = None  # whether a step was sound

    @property
    def mean(self) -> dict[str, Tensor]:
        """The mean by name; nothing before the first sound step."""
        return {} if self._begun is None or not self._begun else self._mean

    def go_on_from(self, mean: Mapping[str, Tensor]) -> None:
        """Take what an earlier run had come to."""
        self._mean = dict(mean)
        self._begun = torch.tensor(True, device=next(iter(mean.values())).device) if mean else None

    @torch.no_grad()
    def add(self, now: Mapping[str, Tensor]) -> None:
        """Count one step.

        A step that overflowed teaches nothing, and fused optimizers under AMP are called for those as well: somewhere
        it has left infinity or NaN, or by clipping the gradients zeros everywhere.

        Args:
            now (Mapping[str, Tensor]): Scores of this step, none below zero.
        """
        if not now:
            return
        total = torch.stack([score.sum() for score in now.values()]).sum()
        sound = total.isfinite() & (total > 0)
        begun = torch.zeros_like(sound) if self._begun is None else self._begun
        share = torch.where(begun, 1 - self.memory, 1.0)
        for name, score in now.items():
            old = self._mean.get(name)
            if old is None:
                self._mean[name] = torch.where(sound, score, 0.0)
            else:
                old.lerp_(torch.where(sound, score, old), share.to(old.dtype))
        self._begun = begun | sound
