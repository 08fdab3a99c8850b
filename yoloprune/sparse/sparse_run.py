"""One sparse training run: which channels are victims at this point, and how their scales shrink.

See `callback` for how it hangs in Ultralytics' trainer.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from yoloprune.backend import model_facts
from yoloprune.backend.records import SparseState
from yoloprune.backend.running_score import RunningScore
from yoloprune.backend.training_ramp import Schedule
from yoloprune.backend.yaml_markers import STATE_KEY, sealed
from yoloprune.importance import dead_channels
from yoloprune.native import candidates
from yoloprune.planning import greedy_selection
from yoloprune.planning.cost import Cost
from yoloprune.settings.sparse_config import SparseConfig
from yoloprune.sparse import reach
from yoloprune.sparse.batch_norm_scales import BatchNormScales

if TYPE_CHECKING:
    from ultralytics.engine.trainer import BaseTrainer

MEMORY = 0.95  # of the running score, per optimizer step
SCALES = "scales"  # name of the one score in it
VANISHED = 1e-3  # a scale that has faded by this factor may be set to zero
L1_WEIGHT = 1e-2  # of the sub-gradient when none is given


class SparseRun:
    """State of one run in one process; its two hooks run around every optimizer step.

    Every rank of a multi-GPU run decides for itself. That they decide alike relies on equal gradients after the
    all-reduce, on operations that give the same bits everywhere, and, with `time=`, on the clock of rank 0.

    Attributes:
        progress (Schedule): How far the run is.
        met (bool): Whether the target is met: the victims are final and exactly zero.
        victims (np.ndarray): Mask of the classes that fade or are gone, shape (classes,).
        reached (dict[str, float]): Shares of channels "dead", and of "flops" and "params" that a cut would leave, as
            saved after the last epoch.
    """

    def __init__(self, config: SparseConfig, trainer: BaseTrainer) -> None:
        self.trainer = trainer
        self.model = model_facts.student(trainer.model)
        model_facts.own_yaml(trainer.model)
        found = candidates.Channels(self.model, config.limits, trainer.args.imgsz)
        choice = reach.choose(self.model, found, config, trainer.args.freeze)
        self.graph = choice.graph
        if choice.yaml is None:  # the cut that comes later has to know that widths were free
            config = replace(config, limits=replace(config.limits, native=False))
        self.config = config
        self.cost = Cost(self.graph)
        self.scales = BatchNormScales(self.model, self.graph)
        self.running = RunningScore(MEMORY)
        self.progress = Schedule(trainer, config.ramp_start, config.ramp_end)
        self.held = 0  # optimizer steps in the hold phase
        self.met = False
        self.step: float | Tensor = 0.0  # threshold of "prox" and "group"
        self.victims = np.zeros(self.graph.n_classes, dtype=bool)
        self.factors: list[Tensor] | None = None
        self.reached: dict[str, float] = {}
        state: SparseState | None = model_facts.network(self.model).yaml.pop(STATE_KEY, None)
        if trainer.resume and state:
            self.scales.require_same(state.get("graph"), len(state["scores"]))
            self.progress.begin_at(state["progress"], state["steps"])
            self._restore(state)
        self._epoch = -1  # the one that is running, and what was before it
        self._kept = self._state()

    # ---- optimizer hooks ---------------------------------------------------------------------------------------------

    def before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Gather the score from the gradients of this step; add the L1 sub-gradient where that is the penalty."""
        self.progress.advance()
        with torch.no_grad():
            if self._by_gradient and not self.held:
                self.running.add({SCALES: self.scales.response})
            if self.config.penalty == "l1" and self.phase == "ramp":
                weight = self.config.penalty_weight or L1_WEIGHT
                self.scales.pull(weight * (1 - self.progress.ramp) if self.config.penalty_decay else weight)
        self.progress.steps += 1

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Shrink what has to shrink."""
        with torch.no_grad():
            if self.phase == "ramp":
                if self.config.penalty == "select" and self.progress.due():
                    self._choose(self._select(self.progress.ramp), self.config.fade)
                elif self.config.penalty in {"prox", "group"}:
                    self._shrink(optimizer)
            elif self.phase == "hold":
                if not self.held:
                    self._choose(self._select(1.0), self.config.fade)
                self.held += 1
                if not self.met and self.config.fade**self.held < VANISHED:
                    self._choose(self.victims, 0.0)
            if self.factors is not None:
                self.scales.multiply(self.factors)

    # ---- epochs ------------------------------------------------------------------------------------------------------

    def start_epoch(self) -> None:
        """Count batches from zero; an epoch that is done again (NaN, out of memory) starts from what was before it."""
        if self.trainer.epoch == self._epoch:
            self._restore(self._kept)
        self.progress.batch = -1
        self._epoch, self._kept = self.trainer.epoch, self._state()

    def finish_epoch(self) -> None:
        """Make zeros exact in what is saved, and leave word there of how far the run is.

        In the ramp the EMA alone gets its zeros, so that the checkpoint of an interrupted run can be cut as far as it
        got, while victims may still come back. Once the target is met, live model and EMA stay at exactly zero.
        """
        self.progress.advance(last=self.trainer.epoch + 1 >= self.trainer.epochs)
        ema = (
            [model_facts.student(self.trainer.ema.ema)] if self.trainer.ema else []
        )  # a new one after recovery from NaN
        gone = self.victims
        if self.phase == "hold":
            if not self.held:
                self._choose(self._select(1.0), self.config.fade)
                self.held = 1
            self._choose(self.victims, 0.0)
            self.met, gone = True, self.victims
        elif self.config.penalty != "select":
            gone = dead_channels.dead(self.model, self.graph) & self.scales.removable
        for model in (*ema, self.model) if self.met else ema:
            self.scales.zero(model, gone, self.victims)
            if self.met:
                self.scales.lift(model, self.scales.removable & ~gone)
        self.reached = self._reached(gone)
        for model in (*ema, self.model):  # the trainer tells the EMA, but not a student in it
            yaml = model_facts.network(model).yaml
            yaml.update(sealed(yaml, self._state()))

    # ---- choice ------------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """One of "free", "ramp" and "hold"."""
        return "hold" if self.held else self.progress.phase

    @property
    def score(self) -> Tensor:
        """Running score of each scale, shape (scales,)."""
        found = self.running.mean.get(SCALES)
        return torch.zeros_like(self.scales.gamma) if found is None else found

    @property
    def _by_gradient(self) -> bool:
        return self.config.penalty == "select" and self.config.score == "taylor"

    def _select(self, ramp: float) -> np.ndarray:
        """Victims under the budget that holds at this point of the ramp, mask of shape (classes,)."""
        share = 1 - (1 - ramp) ** 3
        if self._by_gradient:
            value = self.score
        elif self.config.penalty == "select" and self.config.score == "gamma-mean":
            value = self.scales.relative()
        else:
            value = self.scales.gamma.abs()
        scores = self.scales.sums(value.cpu().double()).numpy()
        scores[~self.scales.removable] = np.inf
        relaxed = self.config.budget.relaxed(share, self.cost.parent)
        per_cost = self.config.normalize == "cost"
        return ~greedy_selection.select(self.graph, scores, relaxed, self.config.limits, self.cost, per_cost=per_cost)

    def _choose(self, victims: np.ndarray, fade: float) -> None:
        """Set the factor that every scale is multiplied with after each step."""
        self.victims = victims
        self.factors = self.scales.split(torch.where(self.scales.spread(victims), fade, 1.0)) if victims.any() else None

    def _shrink(self, optimizer: Any) -> None:
        """Proximal step on all scales, decoupled from the optimizer, whose own scale would divide a gradient.

        Without a weight, the step is what still separates the norm at the target's quantile from zero, spread over the
        optimizer steps that are left of the ramp.
        """
        coupled = self.config.penalty == "group"
        if (weight := self.config.penalty_weight) is not None:
            self.step = weight * self.scales.rates(optimizer)
        elif self.progress.due():
            share = float(self._select(1.0).sum() / max(self.scales.removable.sum(), 1))
            reach = float(self.scales.norms(coupled)[self.scales.penalised].quantile(share))
            self.step = reach / self.progress.steps_left()
        self.scales.shrink(self.step, coupled)

    # ---- telling -----------------------------------------------------------------------------------------------------

    def row(self) -> dict[str, float]:
        """One row of sparsity.csv."""
        gammas = self.scales.gamma[self.scales.penalised].abs().float().cpu()
        quantiles = torch.quantile(gammas, torch.linspace(0, 1, 21)).tolist()
        return {
            "epoch": self.trainer.epoch + 1,
            "steps": self.progress.steps,
            **self.reached,
            "below_1e-3": float((gammas < 1e-3).float().mean()),
            **{f"gamma_q{5 * i}": q for i, q in enumerate(quantiles)},
        }

    def dead_per_group(self) -> dict[str, float]:
        """Share of victims in every group of layers that may lose channels, in the order of the network."""
        members = {g.name: self.graph.classes(i) for i, g in enumerate(self.graph.groups) if g.frozen is None}
        return {name: float(self.victims[classes].mean()) for name, classes in members.items()}

    def _reached(self, dead: np.ndarray) -> dict[str, float]:
        alive = greedy_selection.dead_only(self.graph, dead)
        widths = self.graph.widths(alive).astype(float)
        left = {kind: self.cost.share(kind, widths) for kind in ("flops", "params")}
        return {"dead": float(dead.sum() / max(self.graph.counted[self.graph.group_of].sum(), 1)), **left}

    # ---- state -------------------------------------------------------------------------------------------------------

    def _state(self) -> SparseState:
        """What resuming needs and a reader wants to know."""
        return {
            "config": asdict(self.config),
            "met": self.met,
            "progress": self.progress.share,
            "steps": self.progress.steps,
            "reached": dict(self.reached),
            "held": self.held,
            "victims": np.flatnonzero(self.victims).tolist(),
            "scores": [] if self.met else [s for mean in self.running.mean.values() for s in mean.tolist()],
            "graph": self.scales.fingerprint,
        }

    def _restore(self, state: SparseState) -> None:
        self.progress.back_to(state["progress"], state["steps"])
        self.met, self.held, self.reached = state["met"], state["held"], dict(state["reached"])
        victims = np.zeros(self.graph.n_classes, dtype=bool)
        victims[state["victims"]] = True
        self._choose(victims, 0.0 if self.met else self.config.fade)
        scores = torch.tensor(state["scores"]).to(self.scales.gamma)
        self.running.go_on_from({SCALES: scores} if len(scores) else {})
