"""Rules of layers and products: channels are consumed and made, and work is counted."""

from __future__ import annotations

from torch import Tensor, nn

from yoloprune.torch_internals import BatchNorm, ConvNd
from yoloprune.tracing.labels import LabelBook, Tag
from yoloprune.tracing.operation import Call
from yoloprune.tracing.rules_shape import move


def convolution(call: Call) -> None:
    """Dense: consume channels, make new ones. Depthwise: pass them on. Other groups go as a whole, in and out."""
    x, weight = call.args[0], call.args[1]
    transposed, groups = bool(call.arg("transposed", False)), int(call.arg("groups", 1))
    tr, tag = call.tracer, call.tracer.tag(x)
    name = tr.owner(weight, ConvNd)
    if name is None or tr.modules[name].transposed != transposed:
        return call.freeze(*call.tensors(), why="computed weights of")
    c_in, c_out = int(x.shape[1]), int(call.out.shape[1])
    made = tr.axis(name, "outputs", c_out)
    incoming = tag.vector(1) if tag else None
    if tag is not None and incoming is None:
        call.freeze(x, why="labels vary along the image in")
    _given(call, made, call.arg("bias"))
    positions = x.shape[2:].numel() if transposed else call.out.shape[2:].numel()
    work = 2.0 * positions * weight.shape[2:].numel()
    if groups == 1:
        tr.attach(tr.axis(name, "inputs", c_in), incoming)
        tr.made(name, made)
        tr.flops(work, (name, "outputs"), (name, "inputs"))
    else:
        why = f"a constant meets channels in a group of {name}"
        out = tr.book.unite_along(made.reshape(groups, -1), 1, why)
        tr.attach(out, None if incoming is None else tr.book.unite_along(incoming.reshape(groups, -1), 1, why))
        if groups < c_in:  # a depthwise layer makes none
            tr.made(name, made)
        tr.flops(work * c_in / groups, (name, "outputs"))
    return tr.put(call.out, Tag(made.reshape(1, -1, *[1] * (x.ndim - 2)), 1, bare=True))


def batch_norm(call: Call) -> None:
    """Per-channel scale and shift: the parameters follow the channels."""
    x, tr = call.args[0], call.tracer
    layers = (tr.owner(t, BatchNorm) for t in call.tensors()[1:])
    name = next(filter(None, layers), None)
    tag = tr.tag(x)
    incoming = tag.vector(1) if tag else None
    if tag is not None and incoming is None:
        return call.freeze(*call.tensors(), why="channels are not the second dimension of")
    out = call.out[0] if isinstance(call.out, tuple) else call.out
    if name is None:  # instance normalisation among others, whose shift is no layer's that would be masked
        if tag is None or incoming is None:
            return call.freeze(*call.tensors())
        _given(call, incoming, *call.tensors()[1:])
        return tr.put(out, Tag(incoming.reshape(tag.labels.shape), 1, zero=False))
    own = tr.axis(name, "outputs", x.shape[1])
    tr.attach(own, incoming)
    _given(call, own, *call.tensors()[1:])
    tr.flops(8.0 * x.shape[2:].numel(), (name, "outputs"))
    return tr.put(out, tag and Tag(tag.labels, tag.axis, bare=tag.bare and not tr.modules[name].affine))


def group_norm(call: Call) -> None:
    """Channels of a group share one mean and variance, so they go together, and as many groups are left."""
    x, tr, groups = call.args[0], call.tracer, int(call.arg("group"))
    name = next(filter(None, (tr.owner(t, nn.GroupNorm) for t in call.tensors()[1:])), None)
    tag = tr.tag(x)
    incoming = tag.vector(1) if tag else None
    if name is None or tag is None or incoming is None:
        return call.freeze(*call.tensors(), why="channels share one mean in")
    own = tr.axis(name, "outputs", x.shape[1])
    tr.book.unite_along(own.reshape(groups, -1), 1, f"a constant meets channels in a group of {name}")
    tr.attach(own, incoming)
    _given(call, own, *call.tensors()[1:])
    return tr.put(call.out[0], Tag(tag.labels, tag.axis, zero=False))


def _given(call: Call, labels: Tensor, *vectors: Tensor | None) -> None:
    """Numbers per channel that come with a layer's input, its bias among others, go with the channels they belong to.

    Args:
        call (Call): The operation.
        labels (Tensor): Of the channels, shape (channels,).
        vectors (Tensor | None): One number per channel each, of the layer or of anything else.
    """
    for vector in vectors:
        if vector is None or vector.numel() == 1:
            continue
        if (tag := call.tracer.tag(vector)) is None:
            call.tracer.book.freeze(labels, f"a tensor of fixed width is given to {call.name} in {call.tracer.place}")
        else:
            call.tracer.attach(labels, tag.labels.flatten())


def transpose(call: Call) -> None:
    """Linear layers read their weight through `t`; of anything else it is a movement."""
    if not call.tracer.transpose(call.args[0], call.out):
        move(call)


def matmul(call: Call) -> None:
    """Linear layer, or the product of two activations: contracted channels meet, outer ones pass."""
    a, b = call.args[1:3] if call.name == "aten::addmm" else call.args[:2]
    tr = call.tracer
    if (name := tr.linear(b)) is not None:
        return _linear(call, name, a)
    if call.name == "aten::addmm":
        call.freeze(call.args[0], why="the bias of computed weights in")
    call.freeze(*(t for t in (a, b) if (tag := tr.tag(t)) is not None and tag.loose), why="no channels, but numbers in")
    tag_a, tag_b = (None if tag is None or tag.loose else tag for tag in (tr.tag(a), tr.tag(b)))
    rank = call.out.ndim
    _count_product(call, a, b, tag_a, tag_b)
    if tag_a is not None and tag_b is not None and tag_a.axis == tag_b.axis == rank - 3:  # a product per channel
        why = f"a constant meets channels in {call.name}"
        left, right = (_of_matrices(tr.book, tag.labels, why) for tag in (tag_a, tag_b))
        return tr.put(call.out, Tag(tr.book.unite(left, right, why), rank - 3, tag_a.zero or tag_b.zero))
    if (
        tag_a is not None
        and tag_b is not None
        and (tag_a.axis, tag_b.axis) == (rank - 1, rank - 2)
        and (tag_a.zero or tag_b.zero)
    ):
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


def _of_matrices(book: LabelBook, labels: Tensor, why: str) -> Tensor:
    """Labels of whole matrices, shape (..., 1, 1)."""
    return book.unite_along(book.unite_along(labels, labels.ndim - 1, why), labels.ndim - 2, why)


def _linear(call: Call, name: str, x: Tensor) -> None:
    tr, tag = call.tracer, call.tracer.tag(x)
    made = tr.axis(name, "outputs", call.out.shape[1])
    incoming = tag.vector(1) if tag else None
    if tag is not None and incoming is None:
        call.freeze(x, why="channels are not the last dimension of")
    tr.attach(tr.axis(name, "inputs", x.shape[1]), incoming)
    _given(call, made, *call.args[:1] if call.name == "aten::addmm" else ())
    tr.made(name, made)
    tr.flops(2.0 * x.shape[0], (name, "outputs"), (name, "inputs"))
    tr.put(call.out, Tag(made.reshape(1, -1), 1, bare=True))


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
