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
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloprune import csv_rows
from yoloprune.backend import compat, console, run_folders
from yoloprune.errors import ArgumentError
from yoloprune.settings.sparse_config import SparseConfig
from yoloprune.sparse.sparse_run import SparseRun

if TYPE_CHECKING:
    from ultralytics import YOLO
    from ultralytics.engine.trainer import BaseTrainer

EVENTS = (
    "on_pretrain_routine_start",
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_epoch_end",
    "on_fit_epoch_end",
)
FEW_STEPS = 100  # a ramp in fewer optimizer steps leaves the survivors no time to take over
NO_RAMP = 5  # in fewer there is nothing that could be called one
LOG, LAYERS = "sparsity.csv", "sparsity_layers.csv"  # in the folder of the run
SENT = "sparsity/"  # names of what goes to loggers begin so
NOT_YET = float("inf")  # best fitness until the target is met: nothing equals it, so best.pt is not written


class SparseTraining:
    """The callback. Attach it to a `YOLO` object, train, detach.

    Attributes:
        met (bool): Whether the target is met.
        history (list[dict[str, float]]): The rows of sparsity.csv that this process wrote.

    Examples:
        >>> sparse = SparseTraining(SparseConfig(Budget(flops=0.5)))
        >>> with sparse.attached(model):
        ...     model.train(data="my.yaml", epochs=50)
    """

    def __init__(self, config: SparseConfig) -> None:
        """Raise ArgumentError if there is no target."""
        if config.budget.empty:
            raise ArgumentError("Sparse training needs a target, e.g. SparseConfig(Budget(flops=0.5)).")
        self.config = config
        self.met = False
        self.history: list[dict[str, float]] = []
        self._run: SparseRun | None = None  # built when training starts: the object travels to workers as plain data
        self._hooked: Any = None  # the optimizer that has our hooks
        self._finished = -1  # the epoch that was trained to its end and is not logged yet

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

    def keeps_the_dead(self) -> bool:
        """Channels that died stay dead while this drives a training."""
        return True

    def on_pretrain_routine_start(self, trainer: BaseTrainer) -> None:
        """Put the own settings into the args.yaml that the trainer has just written, so that it tells the whole run."""
        args = Path(trainer.save_dir) / run_folders.ARGS
        if console.is_main_process() and args.is_file():
            run_folders.write_yaml(
                args, {**run_folders.read_yaml(args), "train-sparse": run_folders.plain(self.config.settings())}
            )

    def on_train_start(self, trainer: BaseTrainer) -> None:
        """Trace the model and check that the budget is within reach."""
        self._run = run = SparseRun(self.config, trainer)
        self.met, self.history, self._finished = run.met, [], -1
        if console.is_main_process():
            free, of = int(run.scales.removable.sum()), run.graph.n_classes
            console.log("sparse: ", f"target {_target(self.config)}, {free} of {of} channels may die")
            if trainer.resume:  # from an older checkpoint than the last, perhaps: the epochs after it are done again
                for log in (LOG, LAYERS):
                    csv_rows.keep_rows(Path(trainer.save_dir) / log, "epoch", trainer.start_epoch)
            else:
                _set_aside(Path(trainer.best))
            if not trainer.args.time:
                _warn_of_few_steps(trainer, run)

    def on_train_epoch_start(self, trainer: BaseTrainer) -> None:
        """Hook the optimizer, once for each that the trainer makes, and tell an epoch that is done again."""
        trainer.metrics = {k: v for k, v in (trainer.metrics or {}).items() if not k.startswith(SENT)}  # results.csv
        if self._hooked is not trainer.optimizer:
            trainer.optimizer.register_step_pre_hook(self._live.before_step)
            trainer.optimizer.register_step_post_hook(self._live.after_step)
            self._hooked = trainer.optimizer
        self._live.start_epoch()

    def on_train_batch_start(self, trainer: BaseTrainer) -> None:
        """Keep track of the progress of the run, also within an epoch."""
        self._live.progress.batch += 1

    def on_train_epoch_end(self, trainer: BaseTrainer) -> None:
        """Before validation and saving: exact zeros, and only checkpoints that met the target may be best."""
        self._live.finish_epoch()
        self.met, self._finished = self._live.met, trainer.epoch
        if self.met and trainer.best_fitness != NOT_YET:
            return
        trainer.best_fitness = None if self.met else NOT_YET
        trainer.stopper.best_fitness = 0.0  # patience counts from the first epoch that met the target

    def on_fit_epoch_end(self, trainer: BaseTrainer) -> None:
        """Log how far the run is and append a row to sparsity.csv."""
        run = self._live
        if trainer.epoch != self._finished or not console.is_main_process():
            return
        self._finished = -1  # the final evaluation of best.pt reports once more, in some releases as the same epoch
        row, folder = run.row(), Path(trainer.save_dir)
        fresh = not self.history and not trainer.resume
        self.history.append(row)
        csv_rows.append_row(folder / LOG, _digits(row), fresh=fresh)
        # Loggers of Ultralytics (TensorBoard, W&B, ClearML, MLflow, Comet) come after this and send on what stands here
        trainer.metrics = {**(trainer.metrics or {}), **{f"{SENT}{k}": row[k] for k in ("dead", "flops", "params")}}
        csv_rows.append_row(folder / LAYERS, _digits({"epoch": row["epoch"], **run.dead_per_group()}), fresh=fresh)
        console.log(
            "sparse: ",
            f"{row['dead']:.1%} of channels dead; once cut, {row['flops']:.3f} of FLOPs and {row['params']:.3f} "
            f"of parameters stay{'' if self.met else f' (target {_target(self.config)})'}",
        )
        if trainer.args.time and len(self.history) == 1:  # only now the trainer knows how many epochs fit in
            _warn_of_few_steps(trainer, run)

    @property
    def _live(self) -> SparseRun:
        assert self._run is not None, "on_train_start has not run"
        return self._run

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_run": None, "_hooked": None}  # hooks and tensors belong to one process


def _target(config: SparseConfig) -> str:
    """The budget in words of the command line."""
    named = {k: v for k, v in config.settings().items() if k in {"flops", "params", "sparsity"}}
    return ", ".join(f"{name}={value:g}" for name, value in named.items())


def epochs_enough(steps: float, config: SparseConfig | type[SparseConfig]) -> int:
    """Epochs in which channels fade and survivors take over; `steps` of the optimizer are in one."""
    return math.ceil(FEW_STEPS / max(steps * (config.ramp_end - config.ramp_start), 1e-9) - 1e-9)


def _warn_of_few_steps(trainer: BaseTrainer, run: SparseRun) -> None:
    """Warn when the ramp has too few optimizer steps, and say what helps."""
    if (steps := run.progress.ramp_steps()) >= FEW_STEPS:
        return
    several = trainer.accumulate > 1  # batches per step: small data under Ultralytics' nbs=64
    ways = [f"Set nbs={trainer.batch_size} (a step per batch)" if several else "Use a smaller batch"]
    batches = len(trainer.train_loader)
    enough = epochs_enough(batches, run.config)  # at a step per batch
    if trainer.args.time:
        ways.append("more time=")
    elif enough > trainer.epochs:
        ways.append(f"epochs={enough} of this training")
    remedy = (" and " if several else ", or ").join(ways)
    what = f"only about {steps:.0f} optimizer steps; mAP will suffer"
    if steps < NO_RAMP:
        size = f"epochs={trainer.epochs} of {batches} batches"
        what = f"about {steps:.0f} optimizer steps ({size}): channels do not fade, they go at once, and mAP with them"
    console.warn(f"sparse: the ramp has {what}. {remedy}")


def _set_aside(best: Path) -> None:
    """Rename the best.pt of a run that was here before (`exist_ok`): an interrupted one seems to have written it."""
    if best.is_file():
        best.replace(earlier := Path(compat.increment_path(best.with_stem("best-earlier"))))
        console.warn(f"sparse: {best} is of an earlier run and now called {earlier.name}")


def _digits(row: Mapping[str, float]) -> dict[str, str]:
    """Six digits are enough for a log."""
    return {k: f"{v:.6g}" for k, v in row.items()}
