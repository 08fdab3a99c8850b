"""The operations of one pass as a list, to compare two passes by; with the work, or without.

Without it nothing is multiplied: layers and element-wise operations hand on a single zero in the shape of their result,
so that 640 pixels cost no more than 64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.probing.examples import Example
from yoloprune.probing.forward import running
from yoloprune.probing.held_state import Held, preserved
from yoloprune.probing.random_draws import seeded
from yoloprune.torch_internals import DispatchMode, register_module_forward_pre_hook, schema_of

LAYOUT = {"aten::_unsafe_view": "aten::view", "aten::reshape": "aten::view", "aten::clone": None}
"""Operations whose choice depends on how a tensor lies in memory, by the name they are listed under; None for not."""


@dataclass
class Listing:
    """What one pass did.

    Attributes:
        operations (list): Modules entered and operations run, with their options.
        numbers (list): What was added or multiplied in Python, which may depend on the image size.
        flops (float): Of its convolutions and products.
        cramped (float): Largest share of a map's width that a pooling window covers; from 1 on it pools all alike.
    """

    operations: list[tuple[Any, ...]]
    numbers: list[tuple[float, ...]]
    flops: float
    cramped: float = 0.0


def listing(
    model: nn.Module, example: Example, *, training: int, hollow: bool = False, held: Held | None = None
) -> Listing:
    """List what one pass does, always with the same draws; raises what the model raises.

    Args:
        model (nn.Module): Any network; what it holds is put back.
        example (Example): What it is run on.
        training (bool): Whether in training mode.
        hollow (bool): Whether without the work.
        held (Held | None): What the model holds, where that is known already.
    """
    with seeded(0) as draws, held or preserved(model), running(model, training):
        return list_pass(model, example, hollow, within=draws)


def list_pass(model: nn.Module, example: Example, hollow: bool = False, within: Any = None) -> Listing:
    """The same in the mode in which the network is, without putting anything back; perhaps within another mode."""
    names = {module: name for name, module in model.named_modules()}
    mode = _Lister(hollow)
    with mode, within or nullcontext():
        hook = register_module_forward_pre_hook(lambda module, _: mode.found.operations.append((names.get(module),)))
        try:
            example(model)
        finally:
            hook.remove()
    return mode.found


@contextmanager
def without_work() -> Iterator[None]:
    """What runs inside gives the shapes of its results, and zeros for what would cost."""
    with _Lister(hollow=True):
        yield


class _Lister(DispatchMode):
    """Lists operations; with `hollow` it does none that costs and whose result has a known shape."""

    def __init__(self, hollow: bool) -> None:
        super().__init__()
        self.hollow, self.found = hollow, Listing([], [], 0.0)

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        out = _hollow(func, args, kwargs) if self.hollow else None
        out = func(*args, **kwargs) if out is None else out
        name, listed, options, others = _form(func)
        taken = [a for a in args if isinstance(a, Tensor)]
        if listed:
            # what is made of no tensor is as long as the image, e.g. the coordinates of a grid
            self.found.operations.append((*listed, *(_numbers(args, options) if taken else ())))
            self.found.numbers.append(_numbers(args, others))
        if name in CONVOLUTIONS:
            self.found.flops += 2.0 * out.numel() * args[1].shape[1:].numel()
        elif name in PRODUCTS:
            self.found.flops += 2.0 * out.numel() * taken[-1].shape[-2]
        elif name in POOLS:
            self.found.cramped = max(self.found.cramped, args[1][-1] / args[0].shape[-1])
        return out


@cache
def _form(func: Any) -> tuple[str, tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """Of an operation: name, what it is listed under, and where among its arguments options and what could be a tensor
    are numbers.
    """
    schema = schema_of(func)
    kinds = [str(argument.type) for argument in schema.arguments]
    name = LAYOUT.get(schema.name, schema.name)
    listed = () if name is None else (name, schema.overload_name)
    options = tuple(i for i, kind in enumerate(kinds) if kind in {"number", "float"})
    return schema.name, listed, options, tuple(i for i, kind in enumerate(kinds) if kind == "Tensor")


def _numbers(args: Sequence[Any], places: Sequence[int]) -> tuple[Any, ...]:
    return tuple(a for i in places if i < len(args) and isinstance(a := args[i], int | float))


CONVOLUTIONS = frozenset({"aten::convolution", "aten::_convolution"})
PRODUCTS = frozenset({"aten::mm", "aten::addmm", "aten::bmm"})
POOLS = frozenset({"aten::max_pool2d_with_indices", "aten::max_pool2d", "aten::avg_pool2d"})
SAME_SHAPE = frozenset({"aten::_softmax", "aten::_log_softmax"})
NORMS = frozenset(
    f"aten::{n}" for n in ("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training")
)


def _hollow(func: Any, args: Any, kwargs: Any) -> Any:
    """One zero in the shape that the operation's result has; None where it is better run."""
    name = _form(func)[0]
    if name in CONVOLUTIONS:
        return _blank(args[0], _convolved(*args))
    if name in PRODUCTS:
        a, b = args[-2:]
        if a.shape[-1] != b.shape[-2]:
            raise ValueError(f"a product of {tuple(a.shape)} and {tuple(b.shape)}")
        return _blank(a, (*a.shape[:-1], b.shape[-1]))
    if name in SAME_SHAPE:
        return _blank(args[0], args[0].shape)
    if name in NORMS:
        width = next((a.shape[0] for a in args[1:5] if isinstance(a, Tensor)), args[0].shape[1])
        if args[0].shape[1] != width:
            raise ValueError(f"a batch-norm of {width} channels is given {args[0].shape[1]}")
        rest = [args[0].new_empty(0)] * (len(schema_of(func).returns) - 1)  # cuDNN gives one more
        return _blank(args[0], args[0].shape), *rest
    if (
        schema_of(func).is_mutable and torch.Tag.inplace_view not in func.tags
    ):  # nothing can be written into a single zero
        return args[0] if args and isinstance(args[0], Tensor) and _is_blank(args[0]) else None
    taken = [a for a in args if isinstance(a, Tensor)]
    if torch.Tag.pointwise not in func.tags or not taken or any(isinstance(a, list | tuple) for a in args):
        return None

    def corner(x: Any) -> Any:
        return x[(slice(0, 1),) * x.ndim] if isinstance(x, Tensor) and x.ndim else x

    out = func(*map(corner, args), **{k: corner(v) for k, v in kwargs.items()})
    return out.expand(np.broadcast_shapes(*(t.shape for t in taken))) if isinstance(out, Tensor) else None


def _blank(like: Tensor, shape: Sequence[int]) -> Tensor:
    return like.new_zeros([1] * len(shape)).expand(list(shape))


def _is_blank(x: Tensor) -> bool:
    return any(n > 1 and stride == 0 for n, stride in zip(x.shape, x.stride(), strict=True))


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    extra: Sequence[int],
    groups: int,
    *_: Any,
) -> list[int]:
    """Shape of a convolution's result; ValueError if it is given another number of channels."""
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    if x.shape[1] != channels:
        raise ValueError(f"a convolution of {channels} channels is given {x.shape[1]}")
    sides = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, extra, strict=True)
    if transposed:
        sizes = [(n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, d, e in sides]
        return [x.shape[0], weight.shape[1] * groups, *sizes]
    return [x.shape[0], weight.shape[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sides)]
