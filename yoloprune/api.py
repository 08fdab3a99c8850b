"""The story: train sparse, prune, fine-tune, compare. Every command of the command line is one function here.

All functions take a checkpoint path or a live `ultralytics.YOLO` object, leave it untouched, and take yoloprune's and
Ultralytics' arguments side by side as keywords. Options, defaults and meanings come from one table, which the command
line's help prints as well: `settings/commands.py`. Editors read the same signatures in `api.pyi`, which
`scripts/signatures.py` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ultralytics

from yoloprune.checkpoint.loading import ModelSource
from yoloprune.commands import compare as _compare
from yoloprune.commands import finetune as _finetune
from yoloprune.commands import info as _info
from yoloprune.commands import latency as _latency
from yoloprune.commands import mask as _mask
from yoloprune.commands import plot as _plot
from yoloprune.commands import prune as _prune
from yoloprune.commands import sensitivity as _sensitivity
from yoloprune.commands import slim as _slim
from yoloprune.commands import sweep as _sweep
from yoloprune.commands import train_sparse as _train_sparse
from yoloprune.commands import validate as _validate
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.settings import checking, mask_request, requests, signatures, slim_request, trial_requests, view_requests

__all__ = [
    "compare",
    "finetune",
    "info",
    "latency",
    "mask",
    "plot",
    "prune",
    "sensitivity",
    "slim",
    "sweep",
    "trace",
    "train_sparse",
    "val",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def _told(function: Command) -> Command:
    """Give a function the signature, and the description of its arguments, that the table of options tells."""
    return signatures.tell(function, function.__name__.replace("_", "-"))


@_told
def slim(model: ModelSource, **given: Any) -> ultralytics.YOLO:
    """Do all of it: validate, prune, fine-tune, validate, export; interrupted, the same call goes on where it was.

    Of a run that is over the same call says so, and returns what it came to; another `name` begins anew.

    Returns:
        (YOLO): The model that is shipped, loaded from `<run>/weights/best.pt`; its `figures` are a `SlimResult`.

    Raises:
        ArgumentError: If an argument is wrong, or contradicts an interrupted run of this model and data.
        BudgetError: If a budget is out of reach.
    """
    return _slim.run(checking.build(slim_request.SlimRequest, {"model": model, **given})).model


@_told
def train_sparse(model: ModelSource, **given: Any) -> ultralytics.YOLO:
    """Train with Ultralytics while the least useful channels fade to exactly zero, until the budget is met.

    Returns:
        (YOLO): The best model that met the budget; its dead channels are exactly zero, ready for `prune`.

    Raises:
        ArgumentError: If an argument is wrong.
        BudgetError: If the budget is out of reach.
    """
    return _train_sparse.run(checking.build(requests.TrainSparseRequest, {"model": model, **given}))


@_told
def prune(model: ModelSource, **given: Any) -> ultralytics.YOLO:
    """Cut channels out: under a budget, or without one exactly the dead.

    Returns:
        (YOLO): The pruned model, loaded from `<run>/weights/pruned.pt`.

    Raises:
        ArgumentError: If an argument is wrong.
        BudgetError: If the budget is out of reach, or nothing is dead and no budget is given.
        VerifyError: If the cut model does not compute what its masked parent computes.
    """
    return _prune.run(checking.build(requests.PruneRequest, {"model": model, **given})).model


@_told
def sweep(model: ModelSource, **given: Any) -> list[dict[str, Any]]:
    """Evaluate a model at several budgets directly after the cut and its repair.

    The trace, the scores and the calibration images are the same for all points. Rows go to `sweep.csv` one by one;
    interrupted, the same call goes on where it was. Points out of reach are left out with a warning.

    Returns:
        (list[dict[str, Any]]): One row for the parent and one per point, largest first: what is kept, and the figures
            of Ultralytics' validation.

    Raises:
        ArgumentError: If an argument is wrong.
        BudgetError: If all points are out of reach.
    """
    return _sweep.run(checking.build(trial_requests.SweepRequest, {"model": model, **given}))


@_told
def sensitivity(model: ModelSource, **given: Any) -> list[dict[str, Any]]:
    """Narrow each group of layers alone to several widths, and evaluate on images that ranking and repair never see.

    Rows go to `sensitivity.csv` one by one; interrupted, the same call goes on where it was.

    Returns:
        (list[dict[str, Any]]): One row for the parent and one per group and width: what is kept, the loss, and the
            figures of Ultralytics' validation.

    Raises:
        ArgumentError: If an argument is wrong.
    """
    return _sensitivity.run(checking.build(trial_requests.SensitivityRequest, {"model": model, **given}))


@_told
def mask(model: ModelSource, **given: Any) -> ultralytics.YOLO:
    """Set weights to zero in a pattern, and fit what is left; shapes stay, and `finetune` keeps the zeros.

    Returns:
        (YOLO): The masked model, loaded from `<run>/weights/masked.pt`.

    Raises:
        ArgumentError: If an argument is wrong.
    """
    return _mask.run(checking.build(mask_request.MaskRequest, {"model": model, **given})).model


@_told
def finetune(model: ModelSource, **given: Any) -> ultralytics.YOLO:
    """Train a pruned model with Ultralytics; every width stays.

    Returns:
        (YOLO): The fine-tuned model.

    Raises:
        ArgumentError: If an argument is wrong.
    """
    return _finetune.run(checking.build(requests.FinetuneRequest, {"model": model, **given}))


@_told
def val(model: ModelSource, against: ModelSource | None = None, **given: Any) -> list[dict[str, Any]]:
    """Validate with Ultralytics, side by side with another model when one is given.

    Returns:
        (list[dict[str, Any]]): One row per model: mAP50, mAP50-95 (or the task's figures), params, GFLOPs, ms, MB.

    Raises:
        ArgumentError: If an argument is wrong.
    """
    return _validate.run(checking.build(view_requests.ValRequest, {"model": model, "against": against, **given}))


@_told
def info(model: ModelSource, **given: Any) -> list[dict[str, Any]]:
    """Print the layers of a model: widths, what is coupled, what is frozen and why.

    Returns:
        (list[dict[str, Any]]): One row per layer, see `layer_table.layer_rows`.

    Raises:
        ArgumentError: If an argument is wrong.
    """
    return _info.run(checking.build(view_requests.InfoRequest, {"model": model, **given}))


@_told
def plot(model: ModelSource, **given: Any) -> Path:
    """Draw the weights of layers: their distribution, one by one, or the sorted scales of batch-norms.

    Returns:
        (Path): The picture.

    Raises:
        ArgumentError: If an argument is wrong.
    """
    return _plot.run(checking.build(view_requests.PlotRequest, {"model": model, **given}))


@_told
def latency(model: ModelSource, against: ModelSource | None = None, **given: Any) -> Path:
    """Have networks timed on another device: exports of other widths, and one script that runs there.

    Returns:
        (Path): The folder to carry there; with `target` the table that was measured, for `prune(times=...)`.

    Raises:
        ArgumentError: If an argument is wrong, or the format cannot be exported here.
        DeviceLinkError: If the device cannot be reached, or nothing can be measured there.
    """
    request = checking.build(view_requests.LatencyRequest, {"model": model, "against": against, **given})
    return _latency.run(request)


def trace(model: ModelSource, *, imgsz: int | None = None, keep: str | Sequence[str] = ()) -> ChannelGraph:
    """Find the channel groups of a model.

    Args:
        model (str | Path | YOLO): Checkpoint, model YAML or live model.
        imgsz (int | None): Image size for which FLOPs are counted; None stands for the checkpoint's own.
        keep (str | Sequence[str]): Modules that stay as they are, see `named_layers.match`.

    Returns:
        (ChannelGraph): Axes, groups, ties and costs.

    Raises:
        ArgumentError: If an argument is wrong.
    """
    given = {"model": model, "keep": keep, **({} if imgsz is None else {"imgsz": imgsz})}
    request = checking.build(view_requests.InfoRequest, given)
    return _info.trace(request.model, imgsz=request.passed.get("imgsz"), keep=request.keep)


@_told
def compare(models: Mapping[str, ModelSource] | Sequence[ModelSource], **given: Any) -> list[dict[str, Any]]:
    """Validate models one after the other on the same data, then time them taking turns.

    Returns:
        (list[dict[str, Any]]): One row per model.

    Raises:
        ArgumentError: If an argument is wrong.
    """
    return _compare.run(checking.build(view_requests.CompareRequest, {"models": models, **given}))
