"""Rules of operations that work element by element, or along one dimension: labels that meet are united."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import Tensor
from torch.nn import functional

from yoloprune.torch_internals import schema_of
from yoloprune.tracing.labels import Tag
from yoloprune.tracing.operation import Call
from yoloprune.tracing.zero_at_zero import zero_at_zero

REDUCED = "mean sum prod amax amin max min linalg_vector_norm median nanmedian kthvalue mode aminmax any all"
MOVED = "sort topk cumsum cumprod cummax cummin index_select _fft_r2c _fft_c2r _fft_c2c"
KEEPS_ZERO = frozenset(f"aten::{n}" for n in f"{REDUCED} {MOVED}".split())
"""Operations along a dimension that make nothing but zeros of zeros; where they are is another matter."""

LAST = frozenset({"aten::sort", "aten::topk", "aten::median", "aten::kthvalue", "aten::mode"})
"""Those that take the last dimension where they are told none."""


def unknown(call: Call) -> None:
    """No rule: freeze what is touched. The output carries no channels that could be cut."""
    call.freeze(*call.tensors())


def restride(call: Call) -> None:
    """Other strides of dimensions of size 1 move nothing: pooling to one pixel says them anew in channels last."""
    x, size, strides = (call.args[0], *(call.arg(name) for name in ("size", "stride")))
    moved = [d for d, n in enumerate(size) if n > 1 and (d >= len(call.shape) or strides[d] != call.strides[d])]
    if list(size) != call.shape or moved or call.arg("storage_offset") not in (None, x.storage_offset()):
        return unknown(call)
    return same(call)


def meet(call: Call, tensors: list[Tensor], ndim: int, zero: Callable[[], bool]) -> Tag | None:
    """Unite the labels of tensors that are combined element by element, broadcasting as PyTorch does.

    Args:
        call (Call): The operation.
        tensors (list[Tensor]): What it combines.
        ndim (int): Number of dimensions of the result.
        zero (Callable): Whether the result is zero where cut channels are, asked only when there are channels.

    Returns:
        (Tag | None): Labels of the result, None when it has no channels.
    """
    tagged = [(t, tag) for t in tensors if (tag := call.tracer.tag(t)) is not None]
    axes = {tag.axis - t.ndim for t, tag in tagged if not tag.loose}  # counted from the end, as broadcasting aligns
    axes = axes or {tag.axis - t.ndim for t, tag in tagged}
    # A parameter or buffer whose numbers stand along another dimension, e.g. one per column, is a constant.
    aside = [t for t, tag in tagged if tag.loose and (len(axes) > 1 or tag.axis - t.ndim not in axes)]
    call.freeze(*aside, why="no channels, but positions meet in")
    tagged = [(t, tag) for t, tag in tagged if not any(t is other for other in aside)]
    if not tagged:
        return None
    axis = axes.pop()
    if axes:
        call.freeze(*tensors, why="two channel dimensions meet in")
        return None
    carrying = {id(t) for t, _ in tagged}
    constants = [t for t in tensors if id(t) not in carrying and t.ndim >= -axis and t.shape[axis] > 1]
    if constants:
        call.freeze(*tensors, why="a tensor of fixed width meets channels in")
        return None
    merged: Tensor | None = None
    for t, tag in tagged:
        labels = tag.labels.reshape((1,) * (ndim - t.ndim) + tuple(tag.labels.shape))
        why = f"a constant meets channels in {call.name} in {call.tracer.place}"
        merged = labels if merged is None else call.tracer.book.unite(merged, labels, why)
    assert merged is not None
    return Tag(merged, ndim + axis, zero(), loose=all(tag.loose for _, tag in tagged))


def pointwise(call: Call) -> None:
    """Element-wise: labels that meet are united. In-place results alias labels that others may hold already."""
    out = call.out[0] if isinstance(call.out, tuple) else call.out  # the others serve the way back
    if not isinstance(out, Tensor):
        return unknown(call)
    target = call.args[0] if schema_of(call.func).is_mutable else None
    if isinstance(target, Tensor) and call.tracer.tag(target) is None:
        return call.freeze(*call.tensors(), why="channels are written into a tensor without channels by")
    return call.tracer.put(out, meet(call, call.tensors(), out.ndim, partial(zero_at_zero, call)))


def same(call: Call) -> None:
    """The output has the labels of the first argument: copies."""
    call.tracer.put(call.out[0] if isinstance(call.out, tuple) else call.out, call.tracer.tag(call.args[0]))


def like(call: Call) -> None:
    """A new tensor of the same shape; only `zeros_like` is known to be zero where channels are cut."""
    if (tag := call.tracer.tag(call.args[0])) is not None:
        call.tracer.put(call.out, replace(tag, zero=call.name == "aten::zeros_like", bare=False))


def fill(call: Call) -> None:
    """Constants in place: channels that are overwritten are not zero any more, in any view of them."""
    call.freeze(call.args[0], why="overwritten by")


def anew(call: Call) -> None:
    """A new tensor of a given shape has no channels, and but for an empty one numbers that no image has a say in."""
    if "empty" not in call.name:
        call.tracer.literals.made(call.out)


def spatial(call: Call) -> None:
    """Pooling, resizing, padding, sampling: channels pass through when only the dimensions behind them change."""
    x = call.args[0]
    tag = call.tracer.tag(x)
    call.freeze(*call.tensors()[1:], why="positions are read from channels by")
    if tag is None:
        return None
    outs = [o for o in (call.out if isinstance(call.out, tuple) else [call.out]) if isinstance(o, Tensor)]
    out = outs[0]
    if call.name == "aten::constant_pad_nd":
        changed = [x.ndim - 1 - i // 2 for i, amount in enumerate(call.arg("pad")) if amount]
        at = 2 * (x.ndim - 1 - tag.axis)
        beside = list(call.arg("pad"))[at : at + 2]
        if beside and min(beside) >= 0:  # constants beside the channels, as in the shortcuts of some ResNets
            tag = replace(tag, labels=functional.pad(tag.labels, [*[0] * at, *beside]))
            changed = [d for d in changed if d != tag.axis]
    else:  # of one image without a batch dimension as well
        changed = list(range(x.ndim - next((n for n in (1, 3) if f"{n}d" in call.name), 2), x.ndim))
    if out.ndim != x.ndim or tag.axis in changed or any(tag.labels.shape[d] > 1 for d in changed):
        return call.freeze(x, why="channels are mixed by")
    padded = call.name == "aten::constant_pad_nd" and call.arg("value", 0) != 0
    return call.tracer.put(out, Tag(tag.labels, tag.axis, tag.zero and not padded))


def reduce(call: Call) -> None:
    """Sums, maxima, softmax, sorting, Fourier transforms: exact along any dimension but the channel axis."""
    x = call.args[0]
    tag = call.tracer.tag(x)
    call.freeze(*call.tensors()[1:], why="positions are read from channels by")
    if tag is None:
        return None
    dims = call.arg("dim", -1 if call.name in LAST and isinstance(call.out, tuple) else None)
    dims = range(x.ndim) if dims is None or dims == [] else dims if isinstance(dims, (list, tuple)) else [dims]
    dims = sorted({d % x.ndim for d in dims}, reverse=True)
    if tag.axis in dims:
        return call.freeze(x, why="channels are mixed by")
    labels = tag.labels
    for d in dims:
        labels = call.tracer.book.unite_along(labels, d, f"a constant meets channels in {call.name}")
    axis = tag.axis
    for out in call.out if isinstance(call.out, tuple) else [call.out]:
        if out.ndim < x.ndim:
            for d in dims:
                labels = labels.squeeze(d)
            axis -= sum(d < tag.axis for d in dims)
            dims = []
        of_values = out.is_floating_point() or out.is_complex() or not isinstance(call.out, tuple)
        zero = tag.zero and call.name in KEEPS_ZERO and of_values
        call.tracer.put(out, Tag(labels, axis, zero, loose=tag.loose))
    return None


def layer_norm(call: Call) -> None:
    """Exact over positions. Over channels it is frozen: they share one mean and variance.

    In the masked parent the zeros of cut channels take part in both, in the cut model nothing stands in their place;
    the difference depends on the image, so no correction of the weights could make up for it.
    """
    x = call.args[0]
    tag = call.tracer.tag(x)
    normalised = range(x.ndim - len(call.arg("normalized_shape")), x.ndim)
    if tag is None or tag.axis in normalised or any(tag.labels.shape[d] > 1 for d in normalised):
        return call.freeze(*call.tensors(), why="channels share one mean in")
    return call.tracer.put(call.out[0], Tag(tag.labels, tag.axis, zero=call.arg("bias") is None))
