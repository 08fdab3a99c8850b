"""Zeros that become more during a training, on a cubic curve (Zhu & Gupta 2017, arXiv 1710.01878), and never fewer.

The record in `model.yaml` says how far they are to grow, so a resumed run and every worker go on by themselves. What is
zero is held by the same hook as any mask; here it is only told of more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from yoloprune import csv_rows
from yoloprune.backend import console, model_facts, run_folders, yaml_markers
from yoloprune.backend.running_score import RunningScore
from yoloprune.backend.training_ramp import Schedule
from yoloprune.cutting import masks
from yoloprune.planning import weight_masks

if TYPE_CHECKING:
    from ultralytics.engine.trainer import BaseTrainer

LOG = "zeros.csv"
"""In the folder of the run: by epoch, the share that is zero."""

MEMORY = 0.9
"""Of the running score, per optimizer step."""

NOT_YET = float("inf")
"""Best fitness until the share is met: nothing equals it, so best.pt is no checkpoint from before that."""


class Growing:
    """Hook behind the optimizer's step, before the one that holds zeros: at certain steps more of them are to be held.

    Attributes:
        told (dict): The record of the masks, of which "ramp" is there until the share is met.
        met (bool): Whether it is.
    """

    def __init__(self, trainer: BaseTrainer, model: nn.Module, holder: masks.Holder) -> None:
        """Begin, or go on where a record says that another process stopped."""
        found = yaml_markers.masks_of(model)
        assert found is not None, "this model has no masks"
        self.trainer, self.told, self.holder, self.met = trainer, found, holder, False
        self.ramp: dict[str, Any] = found[yaml_markers.RAMP]
        self.names = [n for n in self.ramp["layers"] if holder.weights[n].requires_grad]  # freeze= leaves out others
        self.progress = Schedule(trainer, self.ramp["start"], self.ramp["end"])
        self.score = RunningScore(MEMORY)
        self.chosen = 0
        trainer.add_callback("on_train_epoch_start", self._start_epoch)
        trainer.add_callback("on_train_batch_start", self._count)
        trainer.add_callback("on_train_epoch_end", self._grow)  # an epoch may have no step, under a large nbs=
        args = Path(getattr(trainer, "save_dir", "")) / run_folders.ARGS
        if console.is_main_process() and args.is_file():  # so that it tells the whole run
            run_folders.write_yaml(args, {**run_folders.read_yaml(args), "finetune": self.ramp["asked"]})

    def __call__(self, *_: Any) -> None:
        """After a step: keep the score, and choose anew where that is due."""
        if self.ramp["score"] == "taylor":
            self._remember()
        self._grow()

    def finish_epoch(self) -> None:
        """Before validation and saving: zeros in all that is saved, and the record tells how many there are."""
        trainer = self.trainer
        if trainer.epoch + 1 >= trainer.epochs and not self.met:
            self._choose(self.ramp["steps"])  # in all others `_grow` does so, in every process alike
        self._settle()
        best = getattr(trainer, "best_fitness", None)
        if not self.met:
            trainer.best_fitness = NOT_YET
            trainer.stopper.best_fitness = 0.0  # patience counts from the first epoch that meets the share
        elif best == NOT_YET:
            trainer.best_fitness = None
        self._tell()

    def _start_epoch(self, _: BaseTrainer) -> None:
        """Count batches from zero, also in an epoch that is done again (NaN, out of memory)."""
        self.progress.batch = -1

    def _count(self, _: BaseTrainer) -> None:
        """Keep track of the progress within an epoch."""
        self.progress.batch += 1

    def _grow(self, *_: Any) -> None:
        """Choose anew where the ramp has come so far."""
        self.progress.advance()
        if not self.met and self.progress.phase != "free":
            due = weight_masks.choices_made(self.progress.ramp, self.ramp["steps"])
            if due > self.chosen:
                self._choose(due)

    def _remember(self) -> None:
        """|w · dL/dw| of the last step (Molchanov et al. 2019, arXiv 1906.10771, section 3.1), as a running mean."""
        weights = {name: self.holder.weights[name] for name in self.names}
        self.score.add({n: (w.detach() * w.grad).abs_().float() for n, w in weights.items() if w.grad is not None})

    def _choose(self, due: int) -> None:
        """Take as many weights as are to be zero by now, those that are so already first."""
        share = weight_masks.cubic(self.ramp["begin"], self.ramp["sparsity"], due / self.ramp["steps"])
        by_loss = self.ramp["score"] == "taylor"  # layers that nothing was learnt in have none
        found = self.score.mean if by_loss else {n: self.holder.weights[n].detach().abs().float() for n in self.names}
        scores = {name: self._held(name, score) for name, score in found.items()}
        if self.names and not scores:
            return  # no step was sound yet, so the next one asks again
        if scores:
            kept = weight_masks.choose(scores, self.ramp["pattern"], share, self.ramp["scope"])
            self.holder.take({name: torch.from_numpy(stay.copy()) for name, stay in kept.items()})
            self._settle(told=False)
        self.chosen, self.met = due, due == self.ramp["steps"]

    def _held(self, name: str, score: Tensor) -> Tensor:
        """A score on the CPU that is lowest where the weight is zero already."""
        return score.clamp_min(weight_masks.LEAST).masked_fill(self.holder.gone[name], 0.0).cpu()

    def _settle(self, *, told: bool = True) -> None:
        """Zeros in the EMA, which lags behind, and in a model that was put back; then the record tells of them."""
        self.holder()
        kept = {name: ~gone for name, gone in self.holder.gone.items()}
        if (ema := getattr(self.trainer, "ema", None)) is not None:
            masks.put_on(model_facts.student(ema.ema), kept)
        if not told:
            return
        self.told["layers"].update({name: int(gone.sum()) for name, gone in self.holder.gone.items()})
        if self.met:
            self.told.pop(yaml_markers.RAMP, None)
        if ema is not None and (other := yaml_markers.masks_of(model_facts.student(ema.ema))) is not self.told:
            assert other is not None
            other.clear()
            other.update(self.told)

    def _tell(self) -> None:
        """One line, and one row of `LOG`."""
        if not console.is_main_process():
            return
        zero = sum(int(self.holder.gone[n].sum()) for n in self.ramp["layers"])
        count = sum(self.holder.gone[n].numel() for n in self.ramp["layers"])
        file, epoch = Path(self.trainer.save_dir) / LOG, self.trainer.epoch + 1
        csv_rows.keep_rows(file, "epoch", epoch - 1)
        csv_rows.append_row(file, {"epoch": epoch, "zeros": zero, "share": f"{zero / count:.6g}"}, fresh=epoch == 1)
        target = "" if self.met else f" (target {self.ramp['sparsity']:g})"
        console.log("mask: ", f"{zero:,} of {count:,} weights in {len(self.ramp['layers'])} layers are zero{target}")


def begin(model: nn.Module, layers: list[str], told: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The ramp of a record.

    Args:
        model (nn.Module): What is to be trained.
        layers (list[str]): Names of those in which zeros become more.
        told (Mapping): "pattern", "sparsity", "score", "scope", "steps", "start" and "end" of the ramp.
        asked (Mapping): The same in the words of the command line, for the args.yaml of the run.
    """
    zero, count = (sum(found(model, layers).values()) for found in (masks.zeros, masks.sizes))
    begin = weight_masks.begins_at(told["pattern"], zero / count)
    steps = told["steps"] or weight_masks.CHOICES
    return {**told, "steps": steps, "layers": list(layers), "begin": begin, "asked": dict(asked)}
