"""Rules of picking by computed positions: rows of a tensor by index, and boxes out of feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yoloprune.tracing.labels import Tag
from yoloprune.tracing.operation import Call


def boxes(call: Call) -> None:
    """Features inside boxes: channels pass, positions are read from the boxes."""
    x, out = call.args[0], call.out[0] if isinstance(call.out, tuple) else call.out
    tag = call.tracer.tag(x)
    call.freeze(*call.tensors()[1:], why="positions are read from channels by")
    if tag is not None and tag.vector(1) is None:
        return call.freeze(x, why="channels are not the second dimension of")
    return call.tracer.put(out, tag and Tag(tag.labels, 1, tag.zero))


def picked(call: Call) -> None:
    """Rows by index: exact where the channels lie behind what is indexed."""
    x, gone = call.args[0], _indexed(call.args[1])
    tag = call.tracer.tag(x)
    call.freeze(*(i for i in call.args[1] if i is not None), why="positions are read from channels by")
    if tag is None:
        return None
    labels = tag.vector(tag.axis)
    if labels is None or gone is None or tag.axis < gone:
        return call.freeze(x, why="channels are picked by")
    axis = tag.axis + call.out.ndim - x.ndim
    shape = [-1 if d == axis else 1 for d in range(call.out.ndim)]
    return call.tracer.put(call.out, Tag(labels.reshape(shape), axis, tag.zero, loose=tag.loose))


def _indexed(indices: Sequence[Tensor | None]) -> int | None:
    """How many of the first dimensions one index takes the place of; None for indices of any other kind."""
    if len(indices) != 1 or (index := indices[0]) is None:
        return None
    mask = index.dtype in (torch.bool, torch.uint8)
    return index.ndim if mask else 1 if index.ndim == 1 else None
