"""What a sparse training run shall reach and when, and how far it is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from torch import distributed

from yoloprune import options
from yoloprune.errors import ArgumentError
from yoloprune.limits import Budget, Limits, check_fields

if TYPE_CHECKING:
    from ultralytics.engine.trainer import BaseTrainer

CHOICES = 100  # of victims in a ramp


@dataclass(frozen=True)
class SparseConfig:
    """What to reach and how; see `yoloprune train-sparse help` for every field.

    Attributes:
        budget (Budget): What the later cut must leave; `ratio` is the share of channels driven to zero.
        limits (Limits): Rounding, floors and ceilings that the later cut obeys.
        penalty (str): "select" shrinks victims only; "prox" (every scale on its own), "group" (the scales of a channel
            class together) and "l1" (sub-gradient) push on all scales until the ramp ends.
        penalty_weight (float | None): Strength of "prox" and "group" (threshold per unit of learning rate) and of "l1"
            (gradient).
        penalty_decay (bool): Whether the weight of "l1" decays to nothing over the ramp, instead of staying what it is.
        score (str): What "select" ranks by: "taylor", the running |gamma * dL/dgamma + beta * dL/dbeta| (Molchanov et
            al. 2019, arXiv 1906.10771, section 3.1), "gamma", or "gamma-mean", |gamma| as a multiple of the present
            mean of its layer; the other penalties rank by |gamma|. Members of a class add up.
        normalize (str): "cost" ranks by score per FLOP (or parameter) saved, "none" by score.
        ramp_start (float): Share of the run after which channels start to fade.
        ramp_end (float): Share of the run after which the budget is met.
        fade (float): Factor per optimizer step on the scales of victims.
    """

    budget: Budget
    limits: Limits = field(default_factory=Limits)
    penalty: str = "select"
    penalty_weight: float | None = None
    penalty_decay: bool = True
    score: str = "taylor"
    normalize: str = "cost"
    ramp_start: float = 0.1
    ramp_end: float = 0.6
    fade: float = 0.6

    def __post_init__(self) -> None:
        """Check and convert every value as the command line does; raises ArgumentError."""
        for name, kind in (("budget", Budget), ("limits", Limits)):
            if not isinstance(value := getattr(self, name), kind):
                raise ArgumentError(f"{name}: must be a {kind.__name__}. Received: {value!r}")
        known = set(self.__dataclass_fields__)
        check_fields(self, [option for option in options.SPARSE_OPTIONS if option.name in known])
        options.check_ramp(self.ramp_start, self.ramp_end)

    def settings(self) -> dict[str, Any]:
        """What is told here, in the keys of `train-sparse`; what is not set is left out."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"budget", "limits"}}
        budget = {"flops": self.budget.flops, "params": self.budget.params, "sparsity": self.budget.ratio}
        limits = {k: v for k, v in vars(self.limits).items() if k != "uniform"}  # sparse training has no such key
        return {k: v for k, v in {**budget, **own, **limits}.items() if v is not None}


class Progress:
    """Share of a run that is over, brought up to date by `advance`, the same on every rank.

    Attributes:
        share (float): 0..1.
        batch (int): Index of the batch in this epoch.
        steps (int): Optimizer steps seen, in all processes that this run had.
    """

    def __init__(self, trainer: BaseTrainer, config: SparseConfig) -> None:
        self.trainer, self.ramp_start, self.ramp_end = trainer, config.ramp_start, config.ramp_end
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
        batches = len(self.trainer.train_loader) / max(self.trainer.accumulate, 1)
        return batches * self.trainer.epochs * (self.ramp_end - self.ramp_start)
