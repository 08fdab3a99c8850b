"""Buffers that tools hang onto layers, such as masks and counters per channel: they are cut with the layer's weight."""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch
from torch import Tensor, nn

from yoloprune.planning.plan import Keep
from yoloprune.torch_internals import BatchNorm, ConvNd

OWN = frozenset({"weight", "bias"})
"""What a layer has of itself, as buffers where it is not to be trained."""

STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
"""What a batch-norm has of itself; other layers may have buffers of these names that a tool gave them."""


def cut_extra_buffers(module: nn.Module, keep: Keep, planned: Container[str] = ()) -> None:
    """Cut the buffers of a layer that are shaped like its weight, or hold one value per output or else per input.

    Whatever reads such a buffer to compute something holds the layer's channels, or is in the plan by its own name.

    Args:
        module (nn.Module): A layer that is not cut yet.
        keep (Keep): What of it is kept.
        planned (Container[str]): Buffers that the plan itself names.
    """
    for name, buffer in [*module.named_buffers(recurse=False)]:
        if name in planned or name in OWN or (isinstance(module, BatchNorm) and name in STATISTICS):
            continue
        for dim, kept in _dims(module, keep, buffer):
            buffer = buffer.index_select(dim, torch.tensor(kept, device=buffer.device))
        setattr(module, name, buffer)


def _dims(module: nn.Module, keep: Keep, buffer: Tensor) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Along which dimensions a buffer is cut, and to what."""
    weight = module.weight if isinstance(module.weight, Tensor) else None
    out_dim, in_dim = (1, 0) if isinstance(module, ConvNd) and module.transposed else (0, 1)
    sides = [(out_dim, keep.outputs), (in_dim, keep.inputs)]
    if weight is not None and weight.ndim > 1 and buffer.shape == weight.shape:
        yield from ((dim, kept) for dim, kept in sides if kept is not None)
        return
    widths = keep.of if weight is None or weight.ndim < 2 else (weight.shape[out_dim], weight.shape[in_dim])
    long = [dim for dim, size in enumerate(buffer.shape) if size > 1]
    for width, (_, kept) in zip(widths, sides, strict=True):
        if len(long) == 1 and buffer.shape[long[0]] == width:
            yield from () if kept is None else ((long[0], kept),)
            return
