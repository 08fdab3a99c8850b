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
    """Rows by index: exact where the channels lie behind what is indexed, or one dimension alone is picked from."""
    x, gone = call.args[0], _indexed(call.args[1])
    tag = call.tracer.tag(x)
    call.freeze(*(i for i in call.args[1] if i is not None), why="positions are read from channels by")
    if tag is None:
        return None
    *before, index = call.args[1]
    if before and not any(i is not None for i in before) and index.ndim == 1 and len(before) != tag.axis:
        return call.tracer.put(call.out, _along(call, tag, len(before)))
    labels = tag.vector(tag.axis)
    if labels is None or gone is None or tag.axis < gone:
        return call.freeze(x, why="channels are picked by")
    axis = tag.axis + call.out.ndim - x.ndim
    shape = [-1 if d == axis else 1 for d in range(call.out.ndim)]
    return call.tracer.put(call.out, Tag(labels.reshape(shape), axis, tag.zero, loose=tag.loose))


def gather(call: Call) -> None:
    """One value of each position by an index of its own, which goes with the channel that it picks from."""
    x, index = call.args[0], call.arg("index")
    tag, theirs = call.tracer.tag(x), call.tracer.tag(index)
    dim = int(call.arg("dim")) % max(x.ndim, 1)
    if tag is None or tag.axis == dim or (theirs is not None and theirs.axis != tag.axis):
        return call.freeze(x, index, why="positions are read from channels by")
    differing = [d for d in range(x.ndim) if d == tag.axis or (d != dim and tag.labels.shape[d] > 1)]
    if theirs is None or any(index.shape[d] != x.shape[d] for d in differing):
        return call.freeze(x, index, why="an index of another width meets channels in")
    found, picked_by = _along(call, tag, dim), _along(call, theirs, dim)
    labels = call.tracer.book.unite(found.labels, picked_by.labels, "a constant meets channels")
    return call.tracer.put(call.out, Tag(labels, tag.axis, tag.zero))


def windows(call: Call) -> None:
    """Windows along a dimension, which become one behind all others: exact along any but the channel axis."""
    x = call.args[0]
    tag, dim = call.tracer.tag(x), int(call.args[1]) % max(x.ndim, 1)
    if tag is None:
        return None
    if tag.axis == dim:
        return call.freeze(x, why="channels are picked by number by")
    found = _along(call, tag, dim)
    return call.tracer.put(call.out, Tag(found.labels.unsqueeze(-1), tag.axis, tag.zero))


def _along(call: Call, tag: Tag, dim: int) -> Tag:
    """Labels that do not vary along a dimension, whatever is picked from it."""
    labels = call.tracer.book.unite_along(tag.labels, dim, f"a constant meets channels in {call.name}")
    return Tag(labels, tag.axis, tag.zero, loose=tag.loose)


def _indexed(indices: Sequence[Tensor | None]) -> int | None:
    """How many of the first dimensions one index takes the place of; None for indices of any other kind."""
    if len(indices) != 1 or (index := indices[0]) is None:
        return None
    mask = index.dtype in (torch.bool, torch.uint8)
    return index.ndim if mask else 1 if index.ndim == 1 else None
