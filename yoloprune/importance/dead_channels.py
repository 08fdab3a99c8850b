"""Channels that compute nothing any more, or will once their batch-norm scales are zero."""

from __future__ import annotations

import numpy as np
from torch import nn

from yoloprune.importance.reduction import reduce_to_channels
from yoloprune.importance.weight_criteria import batch_norm, l1, values_of
from yoloprune.planning.channel_graph import ChannelGraph


def dead(model: nn.Module, graph: ChannelGraph) -> np.ndarray:
    """Mask of the prunable classes that always give the same number, shape (classes,).

    Their batch-norm scales are all exactly zero, or all filters that make them are, as structured pruning by masks
    leaves them.
    """
    gamma, filters = (reduce_to_channels(graph, values_of(model, graph, one), "max") for one in (batch_norm, l1))
    dead: np.ndarray = ((gamma == 0) & _still_without(graph, gamma)) | ((filters == 0) & graph.prunable)
    return dead


def removable_by_gamma(model: nn.Module, graph: ChannelGraph) -> np.ndarray:
    """Mask of the prunable classes that stand still once all their batch-norm scales are zero, shape (classes,).

    That holds when nothing reads them between the layer that makes them and its batch-norm.
    """
    return _still_without(graph, reduce_to_channels(graph, values_of(model, graph, batch_norm), "max"))


def _still_without(graph: ChannelGraph, gamma: np.ndarray) -> np.ndarray:
    """The same from the largest |gamma| of each class, infinite where it has none."""
    removable: np.ndarray = graph.prunable & np.isfinite(gamma) & (~graph.bare if graph.bare is not None else False)
    return removable
