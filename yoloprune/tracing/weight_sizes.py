"""Sizes of a layer's weight: the first two dimensions count its channels, the others its kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yoloprune.torch_internals import ConvNd
from yoloprune.tracing.labels import Tag
from yoloprune.tracing.trace_state import TraceState
from yoloprune.tracing.widths import Width


def sizes(state: TraceState, name: str, weight: Tensor) -> torch.Size | None:
    """Sizes of a weight of which those that a cut changes are widths; None where that cannot be told.

    Padding as in TensorFlow asks for the kernel: `self.weight.shape[-2:]`. That reads no number of the weight.

    Args:
        state (TraceState): What is known while the model runs.
        name (str): The layer.
        weight (Tensor): Its weight, of two dimensions or more.
    """
    sides = _sides(state.modules[name])
    if sides is None:
        return None
    state.asked.add(name)
    told = [
        Width.of(n, Tag(state.axis(name, side, n), 0), state.book) if side else n
        for n, side in zip(weight.shape, sides, strict=False)
    ]
    return torch.Size([*told, *weight.shape[len(sides) :]])


def _sides(layer: nn.Module) -> tuple[str, ...] | None:
    """Which of a layer's positions the first dimensions of its weight count; "" for what no cut changes."""
    if not isinstance(layer, ConvNd):
        return ("outputs", "inputs") if isinstance(layer, nn.Linear) else None
    if layer.groups == 1:
        return ("inputs", "outputs") if layer.transposed else ("outputs", "inputs")
    # of grouped layers whole groups go: what is left of a group is as wide as before
    return None if layer.transposed and layer.in_channels != layer.out_channels else ("outputs", "")
