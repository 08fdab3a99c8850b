"""Rules of operations that rearrange channels by numbers of their own, which no Python code sees."""

from __future__ import annotations

from yoloprune.tracing.labels import Tag
from yoloprune.tracing.operation import Call

WHY = "a constant meets channels in one pack"


def packs(call: Call) -> None:
    """Several channels become one, or one becomes several that follow each other: packs go as a whole.

    A channel shuffle takes one channel of each group in turn, so that groups lose the same ones.
    """
    x, name = call.args[0], call.name.removeprefix("aten::")
    tag = call.tracer.tag(x)
    if tag is None:
        return None
    axis = 1 if "shuffle" in name and name.endswith("channel_shuffle") else x.ndim - (2 if name == "col2im" else 3)
    labels = tag.vector(axis)
    if labels is None:
        return call.freeze(x, why="channels are mixed by")
    if name.endswith("channel_shuffle"):
        groups = call.args[1]
        labels = call.tracer.book.unite_along(labels.reshape(groups, -1), 0, WHY).flatten().repeat_interleave(groups)
    else:
        size = call.args[1] if name.startswith("pixel") else call.arg("kernel_size")
        each = size**2 if isinstance(size, int) else size[0] * size[1]
        if name in {"pixel_shuffle", "col2im"}:
            labels = call.tracer.book.unite_along(labels.reshape(-1, each), 1, WHY).flatten()
        else:
            labels = labels.repeat_interleave(each)
    shape = [-1 if d == axis else 1 for d in range(call.out.ndim)]
    return call.tracer.put(call.out, Tag(labels.reshape(shape), axis, tag.zero))


def glu(call: Call) -> None:
    """One half gates the other."""
    x = call.args[0]
    tag, dim = call.tracer.tag(x), call.arg("dim", -1) % x.ndim
    if tag is None:
        return None
    first, second = (tag.labels, tag.labels) if tag.labels.shape[dim] == 1 else tag.labels.chunk(2, dim)
    labels = call.tracer.book.unite(first, second, WHY)
    return call.tracer.put(call.out, Tag(labels, tag.axis, tag.zero))
