"""From values of each axis position to one per channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.torch_internals import ConvNd

Values = Iterator[tuple[int, np.ndarray]]
"""Pairs of axis index and values, shape (width,)."""

Gates = dict[str, np.ndarray]
"""By name of a residual branch, values of the channels that it puts out, shape (outputs,)."""

Reduce = Literal["mean", "max", "sum", "l2"]


def precise(tensor: Tensor) -> Tensor:
    """A tensor in float32 at least: in half precision squares and sums of small weights are zero."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def by_output(layer: nn.Module, weight: Tensor) -> Tensor:
    """What belongs to each output of a layer, from a tensor in the shape of its weight, shape (outputs, weights)."""
    if isinstance(layer, ConvNd) and layer.transposed:  # (inputs, outputs of a group, taps)
        weight = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)


def reduce_to_channels(graph: ChannelGraph, values: Values, reduce: Reduce) -> np.ndarray:
    """Reduce values per axis position to one per class.

    Args:
        graph (ChannelGraph): The channels.
        values (Iterator): Pairs of axis index and values, shape (width,).
        reduce (str): "mean", "max", "sum" or "l2".

    Returns:
        (np.ndarray): Shape (classes,), infinite where a class got no value, NaN where one of its values is no number or
            infinite.
    """
    result, count = np.zeros(graph.n_classes), np.zeros(graph.n_classes)
    for i, v in values:
        (np.maximum if reduce == "max" else np.add).at(result, graph.class_of[i], v**2 if reduce == "l2" else v)
        np.add.at(count, graph.class_of[i], 1)
    if reduce == "mean":
        result /= np.maximum(count, 1)
    elif reduce == "l2":
        result = np.sqrt(result)
    result[~np.isfinite(result)] = np.nan
    result[count == 0] = np.inf
    return result
