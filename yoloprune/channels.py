"""Which channels of an Ultralytics model may go: traced, and held to native widths where asked for or possible."""

from __future__ import annotations

import numpy as np
from torch import nn

from yoloprune import budget, host
from yoloprune.errors import BudgetError, ModelError
from yoloprune.groups import ChannelGraph
from yoloprune.limits import Budget, Limits
from yoloprune.native import Stock


def trace(
    model: nn.Module, limits: Limits, imgsz: int, wanted: Budget | None = None
) -> tuple[ChannelGraph, Stock | None]:
    """Trace an Ultralytics model under limits.

    Args:
        model (nn.Module): An Ultralytics model.
        limits (Limits): What plans must respect; with `native`, the graph allows nothing that no YAML says.
        imgsz (int): Image size for which FLOPs are counted.
        wanted (Budget | None): What plans shall reach; where native widths cannot, and are not asked for, others may.

    Returns:
        (ChannelGraph): The channels.
        (Stock | None): What describes a plan as a model YAML, None where plans are free.

    Raises:
        ModelError: If the model cannot be traced, or its layers are not those of its YAML and `native` is asked for.
    """
    graph = host.trace_yolo(model, imgsz=imgsz, keep=limits.keep)
    if limits.native is False:
        return graph, None
    try:
        stock = Stock(model, graph)
        restricted = stock.restrict(limits)
        if wanted is not None and not wanted.empty and limits.native is None:
            budget.select(restricted, np.zeros(graph.n_classes), wanted, limits)
    except (ModelError, BudgetError) as e:
        if limits.native:
            raise
        host.warn(f"native: free widths, which stock Ultralytics cannot train: {e}")
        return graph, None
    return restricted, stock
