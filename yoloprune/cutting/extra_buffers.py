"""Buffers that tools hang onto layers, such as masks and counters per channel: they are cut with the layer's weight."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import NamedTuple

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
    sides = _sides(module, keep, weight)
    if weight is not None and weight.ndim > 1 and buffer.shape == weight.shape:
        yield from ((side.dim, side.kept) for side in sides if side.dim is not None and side.kept is not None)
        return
    long = [dim for dim, size in enumerate(buffer.shape) if size > 1]
    for side in sides:
        if len(long) == 1 and buffer.shape[long[0]] == side.width:
            yield from () if side.kept is None else ((long[0], side.kept),)
            return


class _Side(NamedTuple):
    """The outputs or the inputs of a layer: the dimension of its weight along which they are, how many, which stay."""

    dim: int | None
    width: int | None
    kept: tuple[int, ...] | None


def _sides(module: nn.Module, keep: Keep, weight: Tensor | None) -> tuple[_Side, _Side]:
    """Outputs and inputs. Of groups, the plan names the outputs, with which their inputs go; the weight lists one of
    the two by all groups in turn, and the other for one group alone.
    """
    if isinstance(module, ConvNd) and module.groups > 1:
        each, fed = module.out_channels // module.groups, module.in_channels // module.groups
        whole = None if keep.outputs is None else [p // each for p in keep.outputs[::each]]
        inputs = None if whole is None else tuple(group * fed + i for group in whole for i in range(fed))
        made, read = (None, 0) if module.transposed else (0, None)
        return _Side(made, module.out_channels, keep.outputs), _Side(read, module.in_channels, inputs)
    widths = keep.of if weight is None or weight.ndim < 2 else tuple(weight.shape[:2])
    if isinstance(module, ConvNd) and module.transposed:
        return _Side(1, widths[1], keep.outputs), _Side(0, widths[0], keep.inputs)
    return _Side(0, widths[0], keep.outputs), _Side(1, widths[1], keep.inputs)
