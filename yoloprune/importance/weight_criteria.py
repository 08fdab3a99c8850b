"""Criteria that look at one layer alone: its batch-norm scale or its filters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from yoloprune.importance.reduction import Values, by_output, precise
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.torch_internals import BatchNorm, ConvNd


def batch_norm(module: nn.Module | None) -> Tensor | None:
    """|gamma| of a batch-norm layer (Liu et al. 2017, arXiv 1708.06519, section 3)."""
    return module.weight.abs() if isinstance(module, BatchNorm) and module.affine else None


def _filters(module: nn.Module) -> Tensor | None:
    """One row per output channel, shape (outputs, weights)."""
    return precise(by_output(module, module.weight)) if isinstance(module, ConvNd | nn.Linear) else None


def l1(module: nn.Module) -> Tensor | None:
    """L1 norm of each filter (Li et al. 2017, arXiv 1608.08710, section 3.1)."""
    return None if (w := _filters(module)) is None else w.abs().sum(1)


def l2(module: nn.Module) -> Tensor | None:
    """L2 norm of each filter."""
    return None if (w := _filters(module)) is None else w.norm(dim=1)


def lamp(module: nn.Module) -> Tensor | None:
    """Squared norm over the sum of all that are not smaller in the layer (Lee et al. 2021, arXiv 2010.07611, eq. 3)."""
    if (w := _filters(module)) is None:
        return None
    square = w.square().sum(1)
    order = square.argsort(descending=True)
    result = torch.empty_like(square)
    result[order] = square[order] / square[order].cumsum(0).clamp_min(1e-30)
    return result


def fpgm(module: nn.Module) -> Tensor | None:
    """Sum of distances to all filters of the layer: the most replaceable is nearest the geometric median (He et al.
    2019, arXiv 1811.00250, section 3.3).
    """
    return None if (w := _filters(module)) is None else torch.cdist(w[None], w[None])[0].sum(1)


def values_of(model: nn.Module, graph: ChannelGraph, criterion: Callable[[nn.Module], Tensor | None]) -> Values:
    """Values of a criterion at the outputs of all layers that it looks at."""
    modules = dict(model.named_modules())
    for i, axis in enumerate(graph.axes):
        if axis.side == "outputs" and axis.module in modules:
            with torch.no_grad():
                value = criterion(modules[axis.module])
            if value is not None:
                yield i, value.cpu().double().numpy()
