"""What a sparse training run shall reach and when."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from yoloprune.errors import ArgumentError
from yoloprune.settings import own_options
from yoloprune.settings.budget import Budget, Limits, check_fields


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
        check_fields(self, [option for option in own_options.SPARSE_OPTIONS if option.name in known])
        own_options.check_ramp(self.ramp_start, self.ramp_end)

    def settings(self) -> dict[str, Any]:
        """What is told here, in the keys of `train-sparse`; what is not set is left out."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"budget", "limits"}}
        budget = {"flops": self.budget.flops, "params": self.budget.params, "sparsity": self.budget.ratio}
        limits = {k: v for k, v in vars(self.limits).items() if k not in {"uniform", "depth"}}  # it has no such keys
        return {k: v for k, v in {**budget, **own, **limits}.items() if v is not None}
