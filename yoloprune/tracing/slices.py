"""Slices of channels: `x[:, c // 2 :]`, `x[:, 8:]`, `x[:, ::2]`, `x.narrow(1, 0, c)`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from yoloprune.tracing.labels import Tag
from yoloprune.tracing.trace_state import TraceState
from yoloprune.tracing.widths import Width


def along_axis(x: Tensor, index: Any, axis: int | None) -> tuple[slice | None, Any]:
    """Of what indexes a tensor, the slice along an axis, and all other numbers in it."""
    items = list(index) if isinstance(index, tuple) else [index]
    dim, found, others = 0, None, []
    simple = all(item is None or item is Ellipsis or isinstance(item, slice) or type(item) is int for item in items)
    for item in items:
        if simple and isinstance(item, slice) and dim == axis:
            found = item
        else:
            others.append(item)
        if item is Ellipsis:
            dim += x.ndim - sum(i is not None and i is not Ellipsis for i in items)
        elif item is not None:
            dim += 1
    return found, others


def hold(state: TraceState, x: Tensor, tag: Tag, bounds: slice, *, strict: bool) -> bool:
    """Hold channels to the bounds of a slice, so that as many stay before each as it will say after a cut.

    Args:
        state (TraceState): The trace.
        x (Tensor): What is sliced.
        tag (Tag): Its labels.
        bounds (slice): The slice along the channel axis.
        strict (bool): Whether channels that are not there are an error, as in `narrow`.

    Returns:
        (bool): False if that is not possible.
    """
    n, step = x.shape[tag.axis], bounds.step or 1
    ends = [0 if bounds.start is None else bounds.start, n if bounds.stop is None else bounds.stop]
    if not all(isinstance(b, int) for b in (*ends, step)) or isinstance(step, Width):
        return False
    at = range(n)[slice(*(int.__int__(b) for b in ends))]
    if not at or any(isinstance(b, Width) and abs(int.__int__(b)) > n for b in ends):
        return False
    if step > 1:  # of each pack one is taken, so whole packs go
        if bounds.stop is not None or isinstance(ends[0], Width) or not 0 <= ends[0] < step or n % step:
            return False
        state.book.unite_along(tag.labels.unflatten(tag.axis, (-1, step)), tag.axis + 1, "picked by number")
        return True
    for bound, is_start in zip(ends, (True, False), strict=True):
        value = int.__int__(bound)
        whole = value == 0 or value <= -n if is_start else bounds.stop is None or (value >= n and not strict)
        if whole and not isinstance(bound, Width):
            continue
        before = tag.labels.narrow(tag.axis, *((0, min(value, n)) if value >= 0 else (n + value, -value)))
        if isinstance(bound, Width):
            (bound if value >= 0 else -bound).count(before, tag.axis)
        else:
            state.book.freeze(before, f"channels are picked by number by slice in {state.place}")
    return True
