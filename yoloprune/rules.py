"""What each ATen operation does to channel labels. Policy only: one table at the end, one short function per kind.

An operation that is not in the table and not point-wise freezes every channel it touches, so a missing rule costs
channels, never correctness. Rules speak to the tracer through `Call` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from yoloprune.labels import Tag, compress

if TYPE_CHECKING:  # the tracer imports this table; here it is only a name
    from yoloprune.tracing import Tracer

_END = 1 << 62  # an open slice ends there, or beyond
_SHIFT = 24  # label and position along the axis travel in one integer: label << 24 | position


@dataclass
class Call:
    """One executed operation."""

    tracer: Tracer
    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    out: Any

    @property
    def name(self) -> str:
        """Operation name without overload, e.g. `aten::cat`."""
        return self.func._schema.name

    def arg(self, name: str, default: Any = None) -> Any:
        """Argument by schema name, whether it was passed by position or keyword."""
        for i, a in enumerate(self.func._schema.arguments):
            if a.name == name:
                return self.args[i] if i < len(self.args) else self.kwargs.get(name, default)
        return default

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, lists included."""
        found: list[Tensor] = []
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, (list, tuple)):
                found += [v for v in value if isinstance(v, Tensor)]
        return found

    def freeze(self, *tensors: Tensor, why: str | None = None) -> None:
        """Freeze the channels of the given tensors with this operation as the reason."""
        op = self.name.removeprefix("aten::")
        reason = f"{why or 'no rule for'} {op} in {self.tracer.where}"
        for tensor in tensors:
            if (tag := self.tracer.tag(tensor)) is not None:
                self.tracer.book.freeze(tag.labels, reason)
                if why is None:
                    self.tracer.unknown.setdefault(op, self.tracer.where)


def unknown(call: Call) -> None:
    """No rule: freeze what is touched. The output carries no channels that could be cut."""
    call.freeze(*call.tensors())


def meet(call: Call, tensors: list[Tensor], ndim: int) -> Tag | None:
    """Unite the labels of tensors that are combined element by element, broadcasting as PyTorch does."""
    tagged = [(t, tag) for t in tensors if (tag := call.tracer.tag(t)) is not None]
    if not tagged:
        return None
    axes = {tag.axis - t.ndim for t, tag in tagged}  # counted from the end, as broadcasting aligns
    axis = axes.pop()
    if axes:
        call.freeze(*tensors, why="two channel dimensions meet in")
        return None
    constants = [t for t in tensors if call.tracer.tag(t) is None and t.ndim >= -axis and t.shape[axis] > 1]
    if constants:
        call.freeze(*tensors, why="a tensor of fixed width meets channels in")
        return None
    merged: Tensor | None = None
    for t, tag in tagged:
        labels = tag.labels.reshape((1,) * (ndim - t.ndim) + tuple(tag.labels.shape))
        why = f"a constant meets channels in {call.name} in {call.tracer.where}"
        merged = labels if merged is None else call.tracer.book.unite(merged, labels, why)
    assert merged is not None
    return Tag(merged, ndim + axis, _zero_at_zero(call))


def _zero_at_zero(call: Call) -> bool:
    """Whether an element-wise operation gives zero where cut channels are zero: tried, on zeros in their place."""
    tr, mutable = call.tracer, call.func._schema.is_mutable

    def emptied(value: Any) -> Any:
        if not isinstance(value, Tensor) or (tag := tr.tag(value)) is None or not tag.zero:
            return value
        return value.new_zeros(value.shape if mutable else [1] * value.ndim)

    args, kwargs = tree_map(emptied, (tuple(call.args), call.kwargs))
    return not call.func(*args, **kwargs).count_nonzero()  # not a number counts as well


def pointwise(call: Call) -> None:
    """Element-wise: labels that meet are united. In-place results alias labels that others may hold already."""
    if not isinstance(call.out, Tensor):
        return unknown(call)
    target = call.args[0] if call.func._schema.is_mutable else None
    if isinstance(target, Tensor) and call.tracer.tag(target) is None:
        return call.freeze(*call.tensors(), why="channels are written into a tensor without channels by")
    return call.tracer.put(call.out, meet(call, call.tensors(), call.out.ndim))


def same(call: Call) -> None:
    """The output has the labels of the first argument: copies."""
    call.tracer.put(call.out[0] if isinstance(call.out, tuple) else call.out, call.tracer.tag(call.args[0]))


def like(call: Call) -> None:
    """A new tensor of the same shape; only `zeros_like` is known to be zero where channels are cut."""
    if (tag := call.tracer.tag(call.args[0])) is not None:
        call.tracer.put(call.out, Tag(tag.labels, tag.axis, zero=call.name == "aten::zeros_like"))


def fill(call: Call) -> None:
    """Constants in place: channels that are overwritten are not zero any more, in any view of them."""
    call.freeze(call.args[0], why="overwritten by")


def anew(call: Call) -> None:
    """A new tensor of a given shape has no channels."""


def move(call: Call) -> None:
    """Pure data movement: apply the same operation to the labels."""
    x = call.args[0]
    tag = call.tracer.tag(x)
    if tag is None:
        return
    packed = _pack(tag, x)
    reshaped = isinstance(call.out, Tensor) and call.name in {"aten::view", "aten::_unsafe_view", "aten::reshape"}
    if reshaped and _interleaved(packed.reshape(call.out.shape)):
        # (channels, rows) become one dimension: unequal choices per row would come out in another order than they had.
        labels = tag.labels
        for d in range(x.ndim):
            labels = labels if d == tag.axis else call.tracer.book.unite_along(labels, d, "interleaved")
        packed = _pack(Tag(labels, tag.axis), x)
    # `view` refuses the strides of broadcast labels
    moved = packed.reshape(call.out.shape) if reshaped else call.func(packed, *call.args[1:], **call.kwargs)
    outs = call.out if isinstance(call.out, (list, tuple)) else [call.out]
    for out, m in zip(outs, moved if isinstance(moved, (list, tuple)) else [moved], strict=True):
        call.tracer.put(out, _unpack(m, tag.zero))


def along(call: Call) -> None:
    """Movement that picks by index along `dim` (slice, select, unbind, roll): exact unless that is the channel axis."""
    x = call.args[0]
    tag = call.tracer.tag(x)
    if tag is None:
        return
    dims = call.arg("dims", call.arg("dim", 0))
    dims = [d % x.ndim for d in (dims if isinstance(dims, (list, tuple)) else [dims])]
    # x[:, :] alone: any other start, end or step would mean other channels after a cut
    bounds = (call.arg("start") or 0, min(call.arg("end") or _END, _END), call.arg("step", 1))
    whole = call.name == "aten::slice" and bounds == (0, _END, 1)
    if tag.axis in dims and not whole:
        call.freeze(x, why="channels are picked by number by")
    else:
        move(call)


def split(call: Call) -> None:
    """Pieces of equal size along the channel axis stay equal: their sizes are computed, or kept as one attribute."""
    x = call.args[0]
    tag = call.tracer.tag(x)
    if tag is None:
        return None
    if call.arg("dim", 0) % x.ndim == tag.axis:
        sizes = [o.shape[tag.axis] for o in call.out]
        if call.name == "aten::split" and len(set(sizes)) > 1:
            return call.freeze(x, why="uneven")
        pieces = tag.labels.split(sizes, tag.axis)
        for size in set(sizes):
            call.tracer.book.tie([p for p, s in zip(pieces, sizes, strict=True) if s == size])
    return move(call)


def cat(call: Call) -> None:
    """Join labels along the channel axis; along another dimension, unite them channel by channel."""
    tensors = [t for t in call.args[0] if t.numel()]
    tags = [call.tracer.tag(t) for t in tensors]
    tagged = [tag for tag in tags if tag is not None]
    if not tagged:
        return None
    dim, axis = call.arg("dim", 0) % tensors[0].ndim, tagged[0].axis
    if any(tag.axis != axis for tag in tagged):
        return call.freeze(*tensors, why="two channel dimensions meet in")
    if dim != axis:
        if any(tag.labels.shape[dim] > 1 for tag in tagged):
            return call.freeze(*tensors, why="labels vary along the joined dimension of")
        return call.tracer.put(call.out, meet(call, tensors, call.out.ndim))
    shapes = [list(tag.labels.shape) if tag else [1] * t.ndim for t, tag in zip(tensors, tags, strict=True)]
    common = [max(sizes) for sizes in zip(*shapes, strict=True)]
    parts = []
    for t, tag in zip(tensors, tags, strict=True):
        common[dim] = t.shape[dim]
        parts.append((tag.labels if tag else torch.zeros([1] * t.ndim, dtype=torch.int64)).expand(common))
    return call.tracer.put(call.out, Tag(torch.cat(parts, dim), dim, all(tag.zero for tag in tagged)))


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


def spatial(call: Call) -> None:
    """Pooling, resizing, padding: channels pass through when only the dimensions behind them change."""
    x = call.args[0]
    tag = call.tracer.tag(x)
    if tag is None:
        return None
    outs = [o for o in (call.out if isinstance(call.out, tuple) else [call.out]) if isinstance(o, Tensor)]
    out = outs[0]
    if call.name == "aten::constant_pad_nd":
        changed = [x.ndim - 1 - i // 2 for i, amount in enumerate(call.arg("pad")) if amount]
    else:  # of one image without a batch dimension as well
        changed = [x.ndim - 2, x.ndim - 1]
    if out.ndim != x.ndim or tag.axis in changed or any(tag.labels.shape[d] > 1 for d in changed):
        return call.freeze(x, why="channels are mixed by")
    padded = call.name == "aten::constant_pad_nd" and call.arg("value", 0) != 0
    return call.tracer.put(out, Tag(tag.labels, tag.axis, tag.zero and not padded))


def reduce(call: Call) -> None:
    """Sum, mean, maximum or softmax: exact along any dimension but the channel axis."""
    x = call.args[0]
    tag = call.tracer.tag(x)
    if tag is None:
        return None
    dims = call.arg("dim")
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
        call.tracer.put(out, Tag(labels, axis, tag.zero and call.name in KEEPS_ZERO))
    return None


def convolution(call: Call) -> None:
    """Dense: consume channels, make new ones. Depthwise: pass them on. Any other grouping freezes both sides."""
    x, weight = call.args[0], call.args[1]
    transposed, groups = bool(call.arg("transposed", False)), int(call.arg("groups", 1))
    tr, tag = call.tracer, call.tracer.tag(x)
    name = tr.owner(weight, nn.modules.conv._ConvNd)
    if name is None:
        return call.freeze(*call.tensors(), why="computed weights of")
    c_in, c_out = x.shape[1], call.out.shape[1]
    made = tr.axis(name, "outputs", c_out)
    incoming = tag.vector(1) if tag else None
    if tag is not None and incoming is None:
        call.freeze(x, why="labels vary along the image in")
    positions = x.shape[2:].numel() if transposed else call.out.shape[2:].numel()
    work = 2.0 * positions * weight.shape[2:].numel()
    if groups == 1:
        tr.attach(tr.axis(name, "inputs", c_in), incoming)
        tr.made(name, made)
        tr.flops(work, (name, "outputs"), (name, "inputs"))
    elif groups == c_in and not transposed:
        tr.attach(made, None if incoming is None else incoming.repeat_interleave(c_out // c_in))
        tr.flops(work, (name, "outputs"))
    else:
        call.freeze(x, why="grouped")
        tr.book.freeze(made, f"grouped convolution {name}")
        tr.flops(work * c_out * c_in / groups)
    return tr.put(call.out, Tag(made.reshape(1, -1, *[1] * (x.ndim - 2)), 1, bare=True))


def batch_norm(call: Call) -> None:
    """Per-channel scale and shift: the parameters follow the channels."""
    x, tr = call.args[0], call.tracer
    layers = (tr.owner(t, nn.modules.batchnorm._BatchNorm) for t in call.tensors()[1:])
    name = next(filter(None, layers), None)
    tag = tr.tag(x)
    incoming = tag.vector(1) if tag else None
    if name is None:  # instance normalisation among others
        return call.freeze(*call.tensors(), why="parameters that belong to no batch-norm layer in")
    if tag is not None and incoming is None:
        return call.freeze(*call.tensors(), why="channels are not the second dimension of")
    tr.attach(tr.axis(name, "outputs", x.shape[1]), incoming)
    tr.flops(8.0 * x.shape[2:].numel(), (name, "outputs"))
    out = call.out[0] if isinstance(call.out, tuple) else call.out
    return tr.put(out, tag and Tag(tag.labels, tag.axis, bare=tag.bare and not tr.modules[name].affine))


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


def group_norm(call: Call) -> None:
    """Frozen as `layer_norm` is: channels of a group share one mean and variance."""
    call.freeze(*call.tensors(), why="channels share one mean in")


def transpose_weight(call: Call) -> None:
    """`linear` reads its weight through `t`: remember whose it is."""
    name = call.tracer.owner(call.args[0], nn.Linear)
    if name is None:
        return move(call)
    return call.tracer.own(call.out, name)


def matmul(call: Call) -> None:
    """Linear layer, or the product of two activations: contracted channels meet, outer ones pass."""
    a, b = call.args[1:3] if call.name == "aten::addmm" else call.args[:2]
    tr = call.tracer
    if (name := tr.owner(b, nn.Linear)) is not None:
        return _linear(call, name, a)
    if call.name == "aten::addmm":
        call.freeze(call.args[0], why="the bias of computed weights in")
    tag_a, tag_b, rank = tr.tag(a), tr.tag(b), call.out.ndim
    inner_a, inner_b = tag_a is not None and tag_a.axis == rank - 1, tag_b is not None and tag_b.axis == rank - 2
    _count_product(call, a, b, tag_a, tag_b)
    if inner_a and inner_b and (tag_a.zero or tag_b.zero):
        book, why = tr.book, f"a constant meets channels in {call.name}"
        left = book.unite_along(tag_a.labels, rank - 2, why)
        right = book.unite_along(tag_b.labels, rank - 1, why)
        book.unite(left.transpose(-1, -2), right, why)
        return None
    if tag_a is not None and tag_b is None and tag_a.axis == rank - 2 and tag_a.labels.shape[-1] == 1:
        return tr.put(call.out, tag_a)
    if tag_b is not None and tag_a is None and tag_b.axis == rank - 1 and tag_b.labels.shape[-2] == 1:
        return tr.put(call.out, tag_b)
    return call.freeze(a, b, why="channels are mixed by")


def _count_product(call: Call, a: Tensor, b: Tensor, tag_a: Tag | None, tag_b: Tag | None) -> None:
    """FLOPs of a product of activations (..., M, K) x (..., K, N): so much work per channel."""
    tr, tag = call.tracer, tag_a or tag_b
    work = 2.0 * a.numel() * b.shape[-1]
    if tag is None or not tr.counting:
        tr.flops(work)
        return
    name = f"{tr.where} product {tr.worked}"
    labels = tag.labels.flatten()
    tr.book.unite(tr.axis(name, "count", len(labels)), labels, "product of activations")
    tr.flops(work / len(labels), (name, "count"))


def _linear(call: Call, name: str, x: Tensor) -> None:
    tr, tag = call.tracer, call.tracer.tag(x)
    made = tr.axis(name, "outputs", call.out.shape[1])
    incoming = tag.vector(1) if tag else None
    if tag is not None and incoming is None:
        call.freeze(x, why="channels are not the last dimension of")
    tr.attach(tr.axis(name, "inputs", x.shape[1]), incoming)
    tr.made(name, made)
    tr.flops(2.0 * x.shape[0], (name, "outputs"), (name, "inputs"))
    tr.put(call.out, Tag(made.reshape(1, -1), 1, bare=True))


def _pack(tag: Tag, x: Tensor) -> Tensor:
    position = torch.arange(x.shape[tag.axis]).reshape([-1 if d == tag.axis else 1 for d in range(x.ndim)])
    return (tag.labels << _SHIFT | position).expand(x.shape)


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


def _unpack(packed: Tensor, zero: bool) -> Tag | None:
    packed = compress(packed)
    position = packed & ((1 << _SHIFT) - 1)
    varying = [d for d in range(packed.ndim) if packed.shape[d] > 1 and (position != position.narrow(d, 0, 1)).any()]
    # Where one axis was factored into several, code writes the inner factor as the one that may change: (heads, width).
    return Tag(packed >> _SHIFT, varying[-1], zero) if varying else None


def _names(rule: Callable[[Call], None], names: str) -> dict[str, Callable[[Call], None]]:
    return {f"aten::{n}": rule for n in names.split()}


KEEPS_ZERO = frozenset(f"aten::{n}" for n in ("mean", "sum", "amax", "amin", "max", "min", "linalg_vector_norm"))

PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm"})
COSTED = PRODUCTS | {"aten::convolution", "aten::_convolution", "aten::native_batch_norm", "aten::cudnn_batch_norm"}
"""Operations whose rules count FLOPs."""

RULES: dict[str, Callable[[Call], None]] = {
    **_names(move, "view _unsafe_view reshape permute transpose squeeze unsqueeze expand flip repeat movedim"),
    **_names(along, "slice select unbind roll narrow"),
    **_names(split, "split split_with_sizes"),
    **_names(same, "_to_copy detach alias contiguous lift_fresh native_dropout"),
    **_names(like, "zeros_like ones_like empty_like full_like rand_like randn_like bernoulli"),
    **_names(fill, "fill_ zero_ normal_ uniform_"),
    **_names(anew, "new_full new_zeros new_ones new_empty"),
    **_names(pointwise, "copy_ hardswish hardswish_ _prelu_kernel clip clip_"),
    **_names(spatial, "max_pool2d_with_indices max_pool2d avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool2d"),
    **_names(spatial, "adaptive_max_pool2d upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d"),
    **_names(spatial, "upsample_bicubic2d constant_pad_nd reflection_pad2d replication_pad2d"),
    **_names(reduce, "mean sum amax amin max min logsumexp var std _softmax _log_softmax linalg_vector_norm"),
    **_names(cat, "cat"),
    **_names(stack, "stack"),
    **_names(convolution, "convolution _convolution"),
    **_names(batch_norm, "native_batch_norm cudnn_batch_norm _native_batch_norm_legit_no_training"),
    **_names(layer_norm, "native_layer_norm"),
    **_names(group_norm, "native_group_norm"),
    **_names(transpose_weight, "t"),
    **_names(matmul, "mm addmm bmm"),
}
"""Rule of each operation by its ATen name; point-wise operations are recognised by PyTorch's own tag."""


def rule_of(func: Any) -> Callable[[Call], None]:
    """The rule of an operation, `unknown` when there is none."""
    found = RULES.get(func._schema.name)
    return found or (pointwise if torch.Tag.pointwise in func.tags else unknown)
