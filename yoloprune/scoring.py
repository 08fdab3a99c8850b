"""Model and groups to one importance per channel class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.errors import ArgumentError
from yoloprune.groups import ChannelGraph

Reduce = Literal["mean", "max", "sum"]
Normalize = Literal["none", "mean", "max"]


def score(
    model: nn.Module,
    graph: ChannelGraph,
    criterion: str = "bn",
    *,
    reduce: Reduce = "mean",
    normalize: Normalize = "none",
    seed: int = 0,
) -> np.ndarray:
    """Importance of each channel class.

    Args:
        model (nn.Module): The traced model.
        graph (ChannelGraph): Its channels.
        criterion (str): A key of `CRITERIA`, or "random" as a control.
        reduce (str): How the values of a class's members become one: "mean", "max" or "sum".
        normalize (str): Divide by the "mean" or "max" of the group, so that groups compare; "none" leaves values alone.
        seed (int): Seed of "random".

    Returns:
        (np.ndarray): Scores, shape (classes,); infinite for classes without a member that the criterion looks at.

    Raises:
        ArgumentError: If the criterion is unknown.
    """
    if criterion == "random":
        return np.random.default_rng(seed).random(graph.n_classes)
    if criterion not in CRITERIA:
        raise ArgumentError(f"score={criterion}: must be one of {sorted([*CRITERIA, 'random'])}.")
    values = gather(graph, _outputs(model, graph, CRITERIA[criterion]), reduce)
    if normalize != "none":
        for g in range(len(graph.groups)):
            members = graph.classes(g)
            if np.isfinite(values[members]).all():
                values[members] /= max(float(getattr(np, normalize)(values[members])), 1e-12)
    return values


def dead(model: nn.Module, graph: ChannelGraph) -> np.ndarray:
    """Mask of the prunable classes whose batch-norm scales are all exactly zero, shape (classes,)."""
    return (gather(graph, _outputs(model, graph, batch_norm), "max") == 0) & silenced_by_gamma(model, graph)


def silenced_by_gamma(model: nn.Module, graph: ChannelGraph) -> np.ndarray:
    """Mask of the prunable classes that stand still once all their batch-norm scales are zero, shape (classes,).

    That holds when nothing reads them between the layer that makes them and its batch-norm.
    """
    normed = np.isfinite(gather(graph, _outputs(model, graph, batch_norm), "max"))
    return graph.prunable & normed & (~graph.bare if graph.bare is not None else False)


def gather(graph: ChannelGraph, values: Iterator[tuple[int, np.ndarray]], reduce: Reduce) -> np.ndarray:
    """Reduce values per axis position to one per class.

    Args:
        graph (ChannelGraph): The channels.
        values (Iterator): Pairs of axis index and values, shape (width,).
        reduce (str): "mean", "max" or "sum".

    Returns:
        (np.ndarray): Shape (classes,), infinite where a class got no value.
    """
    result, count = np.zeros(graph.n_classes), np.zeros(graph.n_classes)
    for i, v in values:
        (np.maximum if reduce == "max" else np.add).at(result, graph.class_of[i], v)
        np.add.at(count, graph.class_of[i], 1)
    if reduce == "mean":
        result /= np.maximum(count, 1)
    result[count == 0] = np.inf
    return result


def _outputs(
    model: nn.Module, graph: ChannelGraph, criterion: Callable[[nn.Module], Tensor | None]
) -> Iterator[tuple[int, np.ndarray]]:
    modules = dict(model.named_modules())
    for i, axis in enumerate(graph.axes):
        if axis.side == "outputs" and axis.module in modules:
            with torch.no_grad():
                value = criterion(modules[axis.module])
            if value is not None:
                yield i, value.double().cpu().numpy()


def batch_norm(module: nn.Module) -> Tensor | None:
    """|gamma| of a batch-norm layer (Liu et al. 2017, arXiv 1708.06519, section 3)."""
    return module.weight.abs() if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine else None


def _filters(module: nn.Module) -> Tensor | None:
    """One row per output channel, shape (outputs, weights)."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return (module.weight.transpose(0, 1) if module.transposed else module.weight).flatten(1)
    return module.weight if isinstance(module, nn.Linear) else None


def _l1(module: nn.Module) -> Tensor | None:
    """L1 norm of each filter (Li et al. 2017, arXiv 1608.08710, section 3.1)."""
    return None if (w := _filters(module)) is None else w.abs().sum(1)


def _l2(module: nn.Module) -> Tensor | None:
    """L2 norm of each filter."""
    return None if (w := _filters(module)) is None else w.norm(dim=1)


def _lamp(module: nn.Module) -> Tensor | None:
    """Squared norm over the sum of all that are not smaller in the layer (Lee et al. 2021, arXiv 2010.07611, eq. 3)."""
    if (w := _filters(module)) is None:
        return None
    square = w.square().sum(1)
    order = square.argsort(descending=True)
    result = torch.empty_like(square)
    result[order] = square[order] / square[order].cumsum(0).clamp_min(1e-30)
    return result


def _fpgm(module: nn.Module) -> Tensor | None:
    """Sum of distances to all filters of the layer: the most replaceable is nearest the geometric median (He et al.
    2019, arXiv 1811.00250, section 3.3).
    """
    return None if (w := _filters(module)) is None else torch.cdist(w[None], w[None])[0].sum(1)


CRITERIA: dict[str, Callable[[nn.Module], Tensor | None]] = {
    "bn": batch_norm,
    "l1": _l1,
    "l2": _l2,
    "lamp": _lamp,
    "fpgm": _fpgm,
}
"""Value per output channel of one module, None for modules that a criterion does not look at."""
