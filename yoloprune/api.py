"""The story: train sparse, prune, fine-tune, compare. Every command of the command line is one function here.

All functions take a checkpoint path or a live `ultralytics.YOLO` object, leave it untouched, and take yoloprune's and
Ultralytics' arguments side by side as keywords.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ultralytics

from yoloprune.checkpoint.loading import ModelSource
from yoloprune.checkpoint.trainers import YOLO
from yoloprune.commands.finetune import run as run_finetune
from yoloprune.commands.info import run as run_info
from yoloprune.commands.info import trace as trace_model
from yoloprune.commands.prune import run as run_prune
from yoloprune.commands.sweep import run as run_sweep
from yoloprune.commands.train_sparse import run as run_train_sparse
from yoloprune.commands.validate import compare as compare_models
from yoloprune.commands.validate import run as run_val
from yoloprune.planning.channel_graph import ChannelGraph

__all__ = [
    "compare",
    "finetune",
    "info",
    "prune",
    "sweep",
    "trace",
    "train_sparse",
    "val",
]


def trace(model: ModelSource, *, imgsz: int | None = None, keep: tuple[str, ...] = ()) -> ChannelGraph:
    """Find the channel groups of a model.

    Args:
        model (str | Path | YOLO): Checkpoint, model YAML or live model.
        imgsz (int | None): Image size for which FLOPs are counted; None stands for the checkpoint's own.
        keep (tuple[str, ...]): Modules that stay as they are, see `trace_network.match`.

    Returns:
        (ChannelGraph): Axes, groups, ties and costs.
    """
    return trace_model(model, imgsz=imgsz, keep=keep)


def train_sparse(model: ModelSource, **kwargs: Any) -> YOLO:
    """Train with Ultralytics while the least useful channels fade to exactly zero, until the budget is met.

    Args:
        model (str | Path | YOLO): What to train; the `last.pt` of an interrupted run together with `resume=True`.
        **kwargs (Any): `yoloprune train-sparse help`, and every Ultralytics train argument.

    Returns:
        (YOLO): The best model that met the budget; its dead channels are exactly zero, ready for `prune`.
    """
    return run_train_sparse(model, **kwargs)


def prune(model: ModelSource, **kwargs: Any) -> ultralytics.YOLO:
    """Cut channels out: under a budget, or without one exactly the dead.

    Args:
        model (str | Path | YOLO): Trained, unfused model.
        **kwargs (Any): `yoloprune prune help`.

    Returns:
        (YOLO): The pruned model, loaded from `<run>/weights/pruned.pt`.

    Raises:
        BudgetError: If the budget is out of reach, or nothing is dead and no budget is given.
        VerifyError: If the cut model does not compute what its masked parent computes.
    """
    return run_prune(model, **kwargs)


def sweep(model: ModelSource, **kwargs: Any) -> list[dict[str, Any]]:
    """Evaluate a model at several budgets directly after the cut and its repair.

    The trace, the scores and the calibration images are the same for all points. Rows go to `sweep.csv` one by one, so
    an interrupted sweep keeps those it has. Points out of reach are left out with a warning.

    Args:
        model (str | Path | YOLO): Trained, unfused model.
        **kwargs (Any): `yoloprune sweep help`; a budget may be a list, e.g. `flops=[0.8, 0.6]`.

    Returns:
        (list[dict[str, Any]]): One row for the parent and one per point, largest first: what is kept, and the figures
            of Ultralytics' validation.

    Raises:
        BudgetError: If all points are out of reach.
    """
    return run_sweep(model, **kwargs)


def finetune(model: ModelSource, **kwargs: Any) -> YOLO:
    """Train a pruned model with Ultralytics; every width stays.

    Args:
        model (str | Path | YOLO): Pruned checkpoint.
        **kwargs (Any): `distill="parent"`, and every Ultralytics train argument.

    Returns:
        (YOLO): The fine-tuned model.
    """
    return run_finetune(model, **kwargs)


def val(model: ModelSource, against: ModelSource | None = None, **kwargs: Any) -> list[dict[str, Any]]:
    """Validate with Ultralytics, side by side with another model when one is given.

    Args:
        model (str | Path | YOLO): ModelSource to validate.
        against (str | Path | YOLO | None): ModelSource to compare with, usually the unpruned parent.
        **kwargs (Any): Every Ultralytics val argument.

    Returns:
        (list[dict[str, Any]]): One row per model: mAP50, mAP50-95 (or the task's figures), params, GFLOPs, ms, MB.
    """
    return run_val(model, against, **kwargs)


def compare(models: Mapping[str, ModelSource], *, command: str = "val", **passed: Any) -> list[dict[str, Any]]:
    """Validate models one after the other on the same data, then time them taking turns.

    Args:
        models (Mapping[str, str | Path | YOLO]): ModelSources by the name they get in the table.
        command (str): What the report is called.
        **passed (Any): Every Ultralytics val argument.

    Returns:
        (list[dict[str, Any]]): One row per model.
    """
    return compare_models(models, command=command, **passed)


def info(model: ModelSource, **kwargs: Any) -> list[dict[str, Any]]:
    """Print the layers of a model: widths, what is coupled, what is frozen and why.

    Args:
        model (str | Path | YOLO): Checkpoint, model YAML or live model.
        **kwargs (Any): `yoloprune info help`.

    Returns:
        (list[dict[str, Any]]): One row per layer, see `layer_table.layer_rows`.
    """
    return run_info(model, **kwargs)
