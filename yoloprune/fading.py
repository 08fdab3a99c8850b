"""One sparse training run: which channels are victims at this point, and how their scales shrink.

See `sparsity` for how it hangs in Ultralytics' trainer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune import budget, host, scoring
from yoloprune.config import Budget, Limits
from yoloprune.cost import Cost
from yoloprune.groups import ChannelGraph

if TYPE_CHECKING:
    from ultralytics.engine.trainer import BaseTrainer

STATE_KEY = "yoloprune_sparse"  # in model.yaml, which survives EMA, saving, stripping and resuming
MEMORY = 0.95  # of the running score, per optimizer step
FEW_STEPS = 100  # a ramp in fewer optimizer steps leaves the survivors no time to take over
VANISHED = 1e-3  # a scale that has faded by this factor may be set to zero


@dataclass(frozen=True)
class SparseConfig:
    """What to reach and how; see `yoloprune train-sparse help` for every field.

    Attributes:
        budget (Budget): What the later cut must leave; `ratio` is the share of channels driven to zero.
        limits (Limits): Rounding, floors and ceilings that the later cut obeys.
        penalty (str): "select" shrinks victims only, "prox" and "l1" push on all prunable scales.
        penalty_weight (float | None): Strength of "prox" (threshold per unit of learning rate) and "l1" (gradient).
        score (str): "taylor", the running |gamma * dL/dgamma| (Molchanov et al. 2019, arXiv 1906.10771, eq. 8), or
            "gamma".
        normalize (str): "cost" ranks by score per FLOP (or parameter) saved, "none" by score.
        ramp_start (float): Share of the run after which channels start to fade.
        ramp_end (float): Share of the run after which the budget is met.
        fade (float): Factor per optimizer step on the scales of victims.
    """

    budget: Budget
    limits: Limits = field(default_factory=Limits)
    penalty: str = "select"
    penalty_weight: float | None = None
    score: str = "taylor"
    normalize: str = "cost"
    ramp_start: float = 0.1
    ramp_end: float = 0.6
    fade: float = 0.6


class Fading:
    """State of one run in one process; its two hooks run around every optimizer step."""

    def __init__(self, config: SparseConfig, trainer: BaseTrainer) -> None:
        self.config, self.trainer, self.batch = config, trainer, -1
        self.model = host.student(trainer.model)
        self.ema = host.student(trainer.ema.ema) if trainer.ema else None
        self.graph = host.trace_yolo(self.model, imgsz=trainer.args.imgsz, keep=config.limits.keep)
        self.cost = Cost(self.graph)
        self.layers = _layers(self.model, self.graph)
        self.killable = scoring.silenced_by_gamma(self.model, self.graph) & _trained(self.layers, self.graph)
        self.device = next(self.model.parameters()).device
        self.score = torch.zeros(self.graph.n_classes, device=self.device)
        self.index = torch.cat([layer.classes for layer in self.layers]).to(self.device)
        self.widths = [len(layer.classes) for layer in self.layers]
        self.steps = 0  # optimizer steps seen
        self.held = 0  # of them in the hold phase
        self.victims = np.zeros(self.graph.n_classes, dtype=bool)
        self.factors: list[Tensor] = []
        self._resume()
        self._select(1.0)  # raises BudgetError before the first step when the target is out of reach
        if self.held == 0:
            self._choose(np.zeros_like(self.victims))

    # ---- optimizer hooks ---------------------------------------------------------------------------------------------

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Gather the score from the gradients of this step; add the L1 sub-gradient where that is the penalty."""
        gammas = [layer.bn.weight for layer in self.layers]
        grads = [g.grad if g.grad is not None else torch.zeros_like(g) for g in gammas]
        with torch.no_grad():
            taylor = self.config.score == "taylor" and self.config.penalty == "select"
            value = torch.cat(gammas) * torch.cat(grads) if taylor else torch.cat(gammas)
            now = torch.zeros_like(self.score).index_add_(0, self.index, value.abs().to(self.score.dtype))
            self.score.lerp_(now, 1 - MEMORY if self.steps and taylor else 1.0)
            if self.config.penalty == "l1" and self.phase == "ramp":
                weight = self.config.penalty_weight or 1e-2
                weight *= 1 - self.ramp  # decays: at a constant weight mAP goes on falling to the end
                signs = [layer.bn.weight.sign() * layer.prunable for layer in self.layers]
                torch._foreach_add_(grads, signs, alpha=weight)
        self.steps += 1

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Shrink what has to shrink."""
        phase = self.phase
        with torch.no_grad():
            if phase == "ramp" and self.config.penalty == "select":
                if self.steps % self._interval() == 0:
                    self._choose(self._select(self.ramp))
            elif phase == "ramp" and self.config.penalty == "prox":
                self._soft_threshold(optimizer)
            elif phase == "hold":
                if self.held == 0:
                    self._choose(self._select(1.0))
                self.held += 1
                if self.config.fade**self.held < VANISHED:
                    self._choose(self.victims, fade=0.0)
            if self.factors:
                torch._foreach_mul_([layer.bn.weight for layer in self.layers], self.factors)
                # The constant that a dead channel would still emit, activation(beta), goes with its gamma.
                torch._foreach_mul_([layer.bn.bias for layer in self.layers], self.factors)

    def finish_epoch(self, met: bool) -> bool:
        """Make zeros exact in the live model and the EMA; return whether the target is met now."""
        if self.phase != "hold" and not (met or self.progress >= 1):
            self._remember(False)
            return False
        if self.held == 0:
            self._choose(self._select(1.0))
            self.held = 1
        self._choose(self.victims, fade=0.0)
        with torch.no_grad():
            for model in filter(None, (self.model, self.ema)):
                modules = dict(model.named_modules())
                for layer, factor in zip(self.layers, self.factors, strict=True):
                    modules[layer.name].weight.mul_(factor)
                    modules[layer.name].bias.mul_(factor)
        self._remember(True)
        return True

    # ---- progress ----------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> float:
        """Share of the run that is over, 0..1."""
        batches = max(len(self.trainer.train_loader), 1)
        return (self.trainer.epoch + (self.batch + 1) / batches) / max(self.trainer.epochs, 1)

    @property
    def ramp(self) -> float:
        """Progress of the ramp, 0..1."""
        c = self.config
        return float(np.clip((self.progress - c.ramp_start) / max(c.ramp_end - c.ramp_start, 1e-9), 0, 1))

    @property
    def phase(self) -> str:
        """One of "free", "ramp" and "hold"."""
        if self.held or self.progress >= self.config.ramp_end:
            return "hold"
        return "free" if self.progress < self.config.ramp_start else "ramp"

    def _interval(self) -> int:
        """Optimizer steps between two choices of victims: about a hundred choices in a ramp, none costs much then."""
        return max(1, int(self._ramp_steps() / 100))

    def _ramp_steps(self) -> float:
        batches = len(self.trainer.train_loader) / max(self.trainer.accumulate, 1)
        return batches * self.trainer.epochs * (self.config.ramp_end - self.config.ramp_start)

    # ---- choice ------------------------------------------------------------------------------------------------------

    def _select(self, ramp: float) -> np.ndarray:
        """Victims under the budget that holds at this point of the ramp, mask of shape (classes,)."""
        share = 1 - (1 - ramp) ** 3
        scores = self.score.double().cpu().numpy()
        scores[~self.killable] = np.inf
        eased = _eased(self.config.budget, self.cost, share)
        per_cost = self.config.normalize == "cost"
        return ~budget.select(self.graph, scores, eased, self.config.limits, self.cost, per_cost=per_cost)

    def _choose(self, victims: np.ndarray, fade: float | None = None) -> None:
        """Set the factor that every scale is multiplied with after each step."""
        self.victims = victims
        mask = torch.from_numpy(victims).to(self.device)[self.index]
        factor = torch.where(mask, self.config.fade if fade is None else fade, 1.0)
        self.factors = list(factor.split(self.widths)) if victims.any() else []
        if not self.factors and fade is not None:
            self.factors = list(torch.ones_like(factor).split(self.widths))

    def _soft_threshold(self, optimizer: Any) -> None:
        """Proximal step on all prunable scales, decoupled from the optimizer (Ye et al. 2018, arXiv 1802.00124, eq. 4).

        Without a weight, the step is what still separates the scale at the target's quantile from zero, spread over the
        steps that are left of the ramp.
        """
        if (weight := self.config.penalty_weight) is not None:
            step = weight * max(group["lr"] for group in optimizer.param_groups)
        else:
            share = float(self._select(1.0).sum() / max(self.graph.prunable.sum(), 1))
            reach = float(self._scales().quantile(share))
            step = reach / max(self._ramp_steps() * (1 - self.ramp), 1.0)
        for layer in self.layers:
            gamma = layer.bn.weight
            gamma.copy_(gamma.sign() * (gamma.abs() - step * layer.prunable).clamp_min(0))

    def _scales(self) -> Tensor:
        """|gamma| of all prunable channels, one flat tensor."""
        return torch.cat([layer.bn.weight.detach()[layer.prunable > 0].abs() for layer in self.layers]).float()

    # ---- telling -----------------------------------------------------------------------------------------------------

    def announce(self) -> None:
        """Say what will happen, and warn when there are too few optimizer steps for it."""
        if not host.is_main_process():
            return
        host.log(
            "sparse: ",
            f"target {self.target_text()}, {int(self.killable.sum())} of {self.graph.n_classes} channels may die",
        )
        steps = self._ramp_steps()
        if steps < FEW_STEPS:
            batch = self.trainer.batch_size
            host.warn(
                f"sparse: the ramp has only about {steps:.0f} optimizer steps; mAP will suffer. "
                + (
                    f"Set nbs={batch} for a step per batch, "
                    if self.trainer.accumulate > 1
                    else "Use a smaller batch, "
                )
                + "or train longer."
            )

    def target_text(self) -> str:
        """The budget in words of the command line."""
        b = self.config.budget
        return ", ".join(
            f"{k}={v:g}" for k, v in (("flops", b.flops), ("params", b.params), ("sparsity", b.ratio)) if v is not None
        )

    def row(self) -> dict[str, float]:
        """One row of sparsity.csv."""
        dead = scoring.dead(self.model, self.graph)
        alive = budget.dead_only(self.graph, dead)
        widths = np.bincount(self.graph.group_of[alive], minlength=len(self.graph.groups)).astype(float)
        gammas = self._scales().cpu()
        quantiles = torch.quantile(gammas, torch.linspace(0, 1, 21)).tolist()
        return {
            "epoch": self.trainer.epoch + 1,
            "steps": self.steps,
            "dead": float(dead.sum() / max(self.graph.prunable.sum(), 1)),
            "flops": self.cost.of("flops", widths) / self.cost.parent("flops"),
            "params": self.cost.of("params", widths) / self.cost.parent("params"),
            "below_1e-3": float((gammas < 1e-3).float().mean()),
            **{f"gamma_q{5 * i}": q for i, q in enumerate(quantiles)},
        }

    def _remember(self, met: bool) -> None:
        """Leave word in the checkpoint: what is aimed at, whether it is met, and the scores for resuming."""
        self.model.yaml[STATE_KEY] = {
            "config": asdict(self.config),
            "met": met,
            "steps": self.steps,
            "scores": [] if met else [float(f"{s:.4g}") for s in self.score.tolist()],
        }

    def _resume(self) -> None:
        state = self.model.yaml.pop(STATE_KEY, None)
        if not self.trainer.resume or not state:
            return
        self.steps = int(state["steps"])
        if state["met"]:
            self.held = 1
            self.victims = scoring.dead(self.model, self.graph) & self.killable
            self._choose(self.victims, fade=0.0)
        elif len(state["scores"]) == len(self.score):
            self.score.copy_(torch.tensor(state["scores"]))


@dataclass(frozen=True)
class _Layer:
    """A batch-norm layer whose scales are channels of the graph."""

    name: str
    bn: nn.Module
    classes: Tensor  # channel class of each scale, shape (width,)
    prunable: Tensor  # 1.0 where the class may be cut, shape (width,), on the model's device


def _layers(model: nn.Module, graph: ChannelGraph) -> list[_Layer]:
    modules = dict(model.named_modules())
    found = []
    for axis, classes in zip(graph.axes, graph.class_of, strict=True):
        bn = modules.get(axis.module)
        if axis.side == "outputs" and isinstance(bn, nn.modules.batchnorm._BatchNorm) and bn.affine:
            prunable = torch.from_numpy(graph.prunable[classes]).to(bn.weight.device, torch.float32)
            if prunable.any():
                found.append(_Layer(axis.module, bn, torch.from_numpy(classes), prunable))
    return found


def _trained(layers: list[_Layer], graph: ChannelGraph) -> np.ndarray:
    """Classes none of whose scales belongs to a layer that the user froze."""
    free = np.ones(graph.n_classes, dtype=bool)
    for layer in layers:
        if not layer.bn.weight.requires_grad:
            free[layer.classes.numpy()] = False
    return free


def _eased(target: Budget, cost: Cost, share: float) -> Budget:
    """The budget that holds when `share` of the way from the parent to the target is done."""

    def ease(value: float | None, kind: str) -> float | None:
        if value is None:
            return None
        fraction = value if value <= 1 else value / cost.parent(kind)
        return min(1 - (1 - fraction) * share, 1 - 1e-9)

    ratio = None if target.ratio is None else max(target.ratio * share, 1e-9)
    return Budget(flops=ease(target.flops, "flops"), params=ease(target.params, "params"), ratio=ratio)
