"""Layers of classes that do more than torch's own: what a plan says of their channels has to be so outside them too.

A cut is proved against a parent in which cut channels are zero where a layer is entered and left. A subclass that takes
its image second, hands on two tensors, or turns them round has them elsewhere, and keeps its channels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from yoloprune.torch_internals import channel_dim
from yoloprune.tracing.trace_state import TraceState


def hold(state: TraceState, name: str, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    """Hold the channels of a layer that has just run, unless they are where torch's own has them.

    Args:
        state (TraceState): What is known of the pass.
        name (str): The layer.
        layer (nn.Module): The same.
        args (tuple): What it was given by position.
        output (Any): What it gave.
    """
    if str(getattr(type(layer).forward, "__module__", None)).startswith("torch.nn."):
        return
    why = f"{type(layer).__name__} {state.called.of(name)} has its channels elsewhere than torch's own layer"
    for side, value in (("inputs", args[0] if args else None), ("outputs", output)):
        if (own := state.axes.get((name, side))) is not None:
            if (labels := _outside(state, layer, value)) is None or len(labels) != len(own):
                state.book.freeze(own, why)
            else:
                state.book.unite(own, labels, why)


def _outside(state: TraceState, layer: nn.Module, value: Any) -> Tensor | None:
    """Labels of the channels of a tensor where a layer has them; None where there are none, or elsewhere."""
    if not isinstance(value, Tensor) or (tag := state.tag(value)) is None:
        return None
    dim = channel_dim(layer)
    return tag.vector(dim % value.ndim) if -value.ndim <= dim < value.ndim else None
