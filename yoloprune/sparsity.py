"""Sparse training: an Ultralytics callback that drives the batch-norm scales of the least useful channels to zero.

The callback never replaces the trainer. It hooks `optimizer.step`, so it sees gradients after unscaling, clipping and
the all-reduce of multi-GPU training (all ranks therefore decide alike), acts on real steps only, and before the EMA
update. A run has three phases, as shares of its epochs:

    free   (until `ramp_start`)  only scores are gathered
    ramp   (until `ramp_end`)    the budget tightens on a cubic curve (Zhu & Gupta 2017, arXiv 1710.01878, section 3);
                                 victims fade step by step and may come back
    hold   (to the end)          the dead stay exactly zero, the survivors recover
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune import host
from yoloprune.fading import Fading, SparseConfig

if TYPE_CHECKING:
    from ultralytics import YOLO
    from ultralytics.engine.trainer import BaseTrainer

EVENTS = ("on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_epoch_end", "on_fit_epoch_end")


class SparseTraining:
    """The callback. Attach it to a `YOLO` object, train, detach.

    Examples:
        >>> sparse = SparseTraining(SparseConfig(Budget(flops=0.5)))
        >>> with sparse.attached(model):
        ...     model.train(data="my.yaml", epochs=50)
    """

    def __init__(self, config: SparseConfig) -> None:
        self.config = config
        self.met = False
        self.history: list[dict[str, float]] = []
        self._run: Fading | None = None  # built when training starts: the object travels to workers as plain data

    def attach(self, yolo: YOLO) -> None:
        """Register on a YOLO object; it stays until `detach`."""
        for event in EVENTS:
            yolo.add_callback(event, getattr(self, event))

    def detach(self, yolo: YOLO) -> None:
        """Remove from a YOLO object, so that its next training is not penalised."""
        for event in EVENTS:
            yolo.callbacks[event] = [f for f in yolo.callbacks[event] if getattr(f, "__self__", None) is not self]

    @contextlib.contextmanager
    def attached(self, yolo: YOLO) -> Iterator[None]:
        """Attach for the duration of a `with` block."""
        self.attach(yolo)
        try:
            yield
        finally:
            self.detach(yolo)

    def on_train_start(self, trainer: BaseTrainer) -> None:
        """Trace the model, check that the budget is within reach and hook the optimizer."""
        self._run = Fading(self.config, trainer)
        trainer.optimizer.register_step_pre_hook(self._run.before_step)
        trainer.optimizer.register_step_post_hook(self._run.after_step)
        self._run.announce()

    def on_train_epoch_start(self, trainer: BaseTrainer) -> None:
        """Count batches from zero."""
        self._live.batch = -1

    def on_train_batch_start(self, trainer: BaseTrainer) -> None:
        """Keep track of the progress of the run, also within an epoch."""
        self._live.batch += 1

    def on_train_epoch_end(self, trainer: BaseTrainer) -> None:
        """Before validation and saving: zeros into the EMA, and only checkpoints that met the target may be best."""
        run = self._live
        was_met, self.met = self.met, run.finish_epoch(self.met)
        if not self.met:
            trainer.best_fitness = float("inf")  # nothing equals it, so best.pt is not written
        elif not was_met:
            trainer.best_fitness = None
        if not (self.met and was_met):
            trainer.stopper.best_fitness = 0.0  # patience counts from the first epoch that met the target

    def on_fit_epoch_end(self, trainer: BaseTrainer) -> None:
        """Log how far the run is and append a row to sparsity.csv."""
        run = self._live
        if trainer.epoch >= trainer.epochs or (len(self.history) and self.history[-1]["epoch"] > trainer.epoch):
            return  # the final evaluation of best.pt reports once more
        row = run.row()
        self.history.append(row)
        if host.is_main_process():
            _append(Path(trainer.save_dir) / "sparsity.csv", row, fresh=len(self.history) == 1 and not trainer.resume)
            host.log(
                "sparse: ",
                f"{row['dead']:.1%} of channels dead; once cut, {row['flops']:.3f} of FLOPs and {row['params']:.3f} "
                f"of parameters stay{'' if self.met else f' (target {run.target_text()})'}",
            )

    @property
    def _live(self) -> Fading:
        assert self._run is not None, "on_train_start has not run"
        return self._run

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None}  # hooks and tensors belong to one process


def _append(path: Path, row: dict[str, float], fresh: bool) -> None:
    new = fresh or not path.exists()
    with path.open("w" if new else "a", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(row))
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
