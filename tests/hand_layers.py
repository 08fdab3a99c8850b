"""Layers written by hand, one group each, and how wide a choice leaves them, for the tests of that choice."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from conftest import hand_graph

from yoloprune.planning.channel_graph import ChannelGraph, Term
from yoloprune.settings.budget import Limits

FREE = Limits(round_to=1, min_width=1, max_ratio=1.0)


def layers(*sizes: int, price: tuple[float, ...] | None = None, **options: object) -> ChannelGraph:
    """Layers of the given widths, one axis and one group each; a channel of layer i costs `price[i]` FLOPs."""
    ends = np.cumsum([0, *sizes])
    axes = {f"l{i}.outputs": list(range(a, b)) for i, (a, b) in enumerate(pairwise(ends))}
    flops = [Term(p, (i,)) for i, p in enumerate(price or (1.0,) * len(sizes))]
    params = [Term(1.0, (i,)) for i in range(len(sizes))]
    return hand_graph(axes, np.repeat(range(len(sizes)), sizes), params=params, flops=flops, **options)  # type: ignore


def widths(graph: ChannelGraph, alive: np.ndarray) -> list[int]:
    """Surviving classes per group."""
    return np.bincount(graph.group_of[alive], minlength=len(graph.groups)).tolist()
