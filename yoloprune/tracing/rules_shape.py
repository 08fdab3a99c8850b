"""Rules of operations that only move data: the same operation is applied to the labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from yoloprune.tracing.labels import Tag, compress
from yoloprune.tracing.operation import Call
from yoloprune.tracing.rules_elementwise import meet

_END = 1 << 62  # an open slice ends there, or beyond
_SHIFT = 24  # label and position along the axis travel in one integer: label << 24 | position


def move(call: Call) -> None:
    """Pure data movement: apply the same operation to the labels."""
    x = call.args[0]
    tag = call.tracer.tag(x)
    if tag is None:
        return
    shape = call.shape or x.shape  # of `x.unsqueeze_(2)` that from before
    packed = _pack(tag, shape)
    reshaped = isinstance(call.out, Tensor) and call.name in {"aten::view", "aten::_unsafe_view"}
    if reshaped and _interleaved(packed.reshape(call.out.shape)):
        # (channels, rows) become one dimension: unequal choices per row would come out in another order than they had.
        labels = tag.labels
        for d in range(x.ndim):
            labels = labels if d == tag.axis else call.tracer.book.unite_along(labels, d, "interleaved")
        packed = _pack(Tag(labels, tag.axis), shape)
    # `view` refuses the strides of broadcast labels
    moved = packed.reshape(call.out.shape) if reshaped else call.func(packed, *call.args[1:], **call.kwargs)
    outs = call.out if isinstance(call.out, (list, tuple)) else [call.out]
    for out, m in zip(outs, moved if isinstance(moved, (list, tuple)) else [moved], strict=True):
        call.tracer.put(out, _unpack(call, m, tag))


def along(call: Call) -> None:
    """Movement that picks by index along `dim` (slice, select, unbind, roll): exact unless that is the channel axis."""
    x = call.args[0]
    tag = call.tracer.tag(x)
    if tag is None:
        return
    dims = call.arg("dims", []) if call.name == "aten::roll" else call.arg("dim", 0)
    dims = dims if isinstance(dims, (list, tuple)) else [dims]
    dims = [d % x.ndim for d in dims or range(x.ndim)]  # `roll` without any rolls over all of them
    # x[:, :] alone: any other start, end or step would mean other channels after a cut
    bounds = (call.arg("start") or 0, min(call.arg("end") or _END, _END), call.arg("step", 1))
    whole = call.name == "aten::slice" and bounds == (0, _END, 1)
    taken_apart = call.name == "aten::slice" and call.tracer.said is not None  # which has held what the bounds count
    if tag.axis in dims and not whole and not taken_apart:
        call.freeze(x, why="channels are picked by number by")
    else:
        move(call)


def split(call: Call) -> None:
    """Pieces of equal size along the channel axis stay equal; others are held, unless what their sizes say is known."""
    x = call.args[0]
    tag = call.tracer.tag(x)
    if tag is None:
        return None
    if call.arg("dim", 0) % x.ndim == tag.axis and call.tracer.said is None:
        sizes = [o.shape[tag.axis] for o in call.out]
        if call.name == "aten::split_with_sizes" or len(set(sizes)) > 1:
            return call.freeze(x, why="uneven")
        call.tracer.book.tie(list(tag.labels.split(sizes, tag.axis)))
    return move(call)


def cat(call: Call) -> None:
    """Join labels along the channel axis; along another dimension, unite them channel by channel."""
    tensors = [t for t in call.args[0] if t.numel()]
    tags = [call.tracer.tag(t) for t in tensors]
    tagged = [tag for tag in tags if tag is not None]
    if not tagged:
        return None
    dim, axis, zero = call.arg("dim", 0) % tensors[0].ndim, tagged[0].axis, all(tag.zero for tag in tagged)
    if any(tag.axis != axis for tag in tagged):
        return call.freeze(*tensors, why="two channel dimensions meet in")
    if dim != axis:
        if any(tag.labels.shape[dim] > 1 for tag in tagged):
            return call.freeze(*tensors, why="labels vary along the joined dimension of")
        return call.tracer.put(call.out, meet(call, tensors, call.out.ndim, lambda: zero))
    shapes = [list(tag.labels.shape) if tag else [1] * t.ndim for t, tag in zip(tensors, tags, strict=True)]
    common = [max(sizes) for sizes in zip(*shapes, strict=True)]
    parts = []
    for t, tag in zip(tensors, tags, strict=True):
        common[dim] = t.shape[dim]
        parts.append((tag.labels if tag else torch.zeros([1] * t.ndim, dtype=torch.int64)).expand(common))
    return call.tracer.put(call.out, Tag(torch.cat(parts, dim), dim, zero))


def stack(call: Call) -> None:
    """A new dimension whose rows are the stacked tensors; each row must lose equally many."""
    tensors = list(call.args[0])
    tags = [call.tracer.tag(t) for t in tensors]
    tagged = [tag for tag in tags if tag is not None]
    if not tagged:
        return None
    if len(tagged) < len(tags) or any(tag.axis != tagged[0].axis for tag in tagged):
        return call.freeze(*tensors, why="two channel dimensions meet in")
    dim = call.arg("dim", 0) % call.out.ndim
    labels = compress(torch.stack(torch.broadcast_tensors(*[tag.labels for tag in tagged]), dim))
    axis = tagged[0].axis + (dim <= tagged[0].axis)
    return call.tracer.put(call.out, Tag(labels, axis, all(tag.zero for tag in tagged)))


def _pack(tag: Tag, shape: Sequence[int]) -> Tensor:
    position = torch.arange(shape[tag.axis]).reshape([-1 if d == tag.axis else 1 for d in range(len(shape))])
    return (tag.labels << _SHIFT | position).expand(*shape)


def _interleaved(packed: Tensor) -> bool:
    """Whether neighbours along some dimension are different channels at one position of the old axis."""
    position = packed & ((1 << _SHIFT) - 1)
    for d in range(packed.ndim):
        if packed.shape[d] > 1:
            n = packed.shape[d] - 1
            same = position.narrow(d, 0, n) == position.narrow(d, 1, n)
            if (same & (packed.narrow(d, 0, n) != packed.narrow(d, 1, n))).any() and (~same).any():
                return True
    return False


def _unpack(call: Call, packed: Tensor, tag: Tag) -> Tag | None:
    """Labels of what was moved. Of the factors into which one axis was divided, one may change.

    It is the one that code gives as a width or leaves open, the last one where it does neither: (heads, width). Those
    outside it divide the channels into blocks that keep equally many; those inside it make packs that go as a whole.
    """
    packed = compress(packed)
    position = packed & ((1 << _SHIFT) - 1)
    varying = [d for d in range(packed.ndim) if packed.shape[d] > 1 and (position != position.narrow(d, 0, 1)).any()]
    if not varying:
        return None
    axis = next((d for d in call.tracer.said or () if d in varying), varying[-1])
    labels = packed >> _SHIFT
    for inner in varying[varying.index(axis) + 1 :]:
        labels = call.tracer.book.unite_along(labels, inner, "a constant meets channels in one pack")
    labels = compress(labels, but=axis)  # images of a batch that were one dimension with the channels
    return Tag(labels, axis, tag.zero, loose=tag.loose)


def parts(call: Call) -> None:
    """Complex numbers as pairs of their parts, in a dimension behind all others, and pairs as complex numbers."""
    x = call.args[0]
    if (tag := call.tracer.tag(x)) is None:
        return None
    if call.name == "aten::view_as_real":
        return call.tracer.put(call.out, Tag(tag.labels.unsqueeze(-1), tag.axis, tag.zero, loose=tag.loose))
    if tag.axis == x.ndim - 1:
        return call.freeze(x, why="channels are mixed by")
    labels = call.tracer.book.unite_along(tag.labels, x.ndim - 1, "a constant meets channels in view_as_complex")
    return call.tracer.put(call.out, Tag(labels.squeeze(-1), tag.axis, tag.zero, loose=tag.loose))
