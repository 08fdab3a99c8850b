"""How far a training is, and how much of a ramp in it: a share of the run after which something is met."""

from __future__ import annotations

import time
from typing import Any

from torch import distributed

CHOICES = 100  # of victims in a ramp


class Schedule:
    """Share of a run that is over, brought up to date by `advance`, the same on every rank.

    Args:
        trainer (BaseTrainer): Of Ultralytics.
        ramp_start (float): Share of the run after which the ramp begins.
        ramp_end (float): Share of the run after which it is over.

    Attributes:
        share (float): 0..1.
        batch (int): Index of the batch in this epoch.
        steps (int): Optimizer steps seen, in all processes that this run had.
    """

    def __init__(self, trainer: Any, ramp_start: float, ramp_end: float) -> None:
        self.trainer, self.ramp_start, self.ramp_end = trainer, ramp_start, ramp_end
        self.batch, self.share, self.steps = -1, 0.0, 0
        self._first = (0.0, 0)  # share and steps at which this process began
        self._chosen = -1.0  # share at the last choice

    def begin_at(self, share: float, steps: int) -> None:
        """Go on where another process stopped."""
        self.share, self.steps, self._first = share, steps, (share, steps)

    def back_to(self, share: float, steps: int) -> None:
        """Take back what came after; the next choice is due at once."""
        self.share, self.steps, self._chosen = share, steps, -1.0

    def advance(self, last: bool = False) -> None:
        """Bring `share` up to date.

        By batches; with `time=`, where the trainer stops by the clock and guesses `epochs` anew after each of them, by
        the clock of rank 0.

        Args:
            last (bool): Whether the trainer stops after this epoch for certain.
        """
        trainer, limit = self.trainer, self.trainer.args.time
        if last:
            share = 1.0
        elif limit:
            gone = (time.time() - trainer.train_time_start) / (3600 * limit)
            share = self._first[0] + (1 - self._first[0]) * gone
        else:
            share = (trainer.epoch + (self.batch + 1) / max(len(trainer.train_loader), 1)) / max(trainer.epochs, 1)
        self.share = min(share, 1.0)
        if limit and distributed.is_available() and distributed.is_initialized():
            told = [self.share]
            distributed.broadcast_object_list(told, 0)
            self.share = told[0]

    @property
    def phase(self) -> str:
        """One of "free", "ramp" and "hold"."""
        if self.share >= self.ramp_end:
            return "hold"
        return "free" if self.share < self.ramp_start else "ramp"

    @property
    def ramp(self) -> float:
        """Progress of the ramp, 0..1."""
        return min(max((self.share - self.ramp_start) / max(self.ramp_end - self.ramp_start, 1e-9), 0.0), 1.0)

    def due(self) -> bool:
        """Return whether victims are to be chosen again: about a hundred times in a ramp, so that none costs much."""
        if self.share - self._chosen < (self.ramp_end - self.ramp_start) / CHOICES - 1e-9:
            return False
        self._chosen = self.share
        return True

    def steps_left(self) -> float:
        """About how many optimizer steps are left of the ramp, at the pace so far; at least one."""
        share, steps = self._first
        return max((self.steps - steps) * (self.ramp_end - self.share) / max(self.share - share, 1e-9), 1.0)

    def ramp_steps(self) -> float:
        """About how many optimizer steps the ramp has, as the trainer plans now."""
        batches: float = len(self.trainer.train_loader) / max(self.trainer.accumulate, 1)
        epochs: int = self.trainer.epochs
        return batches * epochs * (self.ramp_end - self.ramp_start)
