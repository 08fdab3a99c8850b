"""Attention heads: which channel groups run through each, for plans that remove whole ones."""

from __future__ import annotations

import numpy as np
from torch import nn

from yoloprune.cutting.width_attributes import removable_heads
from yoloprune.planning.channel_graph import ChannelGraph

Heads = tuple[tuple[int, ...], ...]
"""Of one attention operation: the groups of each of its heads."""


def find(model: nn.Module, graph: ChannelGraph) -> dict[int, Heads]:
    """Groups of each head of every attention that has several and that `surgery.cut` can leave fewer of.

    Args:
        model (nn.Module): The traced model; only classes and plain numbers of its modules are read.
        graph (ChannelGraph): Its channels.

    Returns:
        (dict[int, Heads]): By the index of the axis that makes queries, keys and values, head after head.
    """
    at = {axis.module: i for i, axis in enumerate(graph.axes) if axis.side == "outputs"}
    found: dict[int, Heads] = {}
    for name, module in model.named_modules():
        i, n = at.get(f"{name}.qkv.conv"), removable_heads(module)
        if i is None or n < 2:
            continue
        rows = graph.group_of[graph.class_of[i]].reshape(n, -1)
        heads = tuple(tuple(np.unique(row).tolist()) for row in rows)
        alike = len({sum(graph.groups[g].size for g in head) for head in heads}) == 1
        if alike and len(set().union(*heads)) == sum(map(len, heads)):  # no group runs through two
            found[i] = heads
    return found
