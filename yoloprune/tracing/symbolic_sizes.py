"""Sizes that remember whose width they are, so that `x.view(B, C, H, W)` ties the result to `x`.

A `TorchFunctionMode` sees what a forward pass asks of tensors in Python: it hands out a `Width` where a size counts
channels, and looks where that number goes. What happens below, to the tensors themselves, is the tracer's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.torch_internals import FunctionMode, tree_leaves
from yoloprune.tracing.labels import LabelBook, Tag
from yoloprune.tracing.trace_state import TraceState


class Width(int):
    """A size that remembers the channels it counts; products and exact quotients remember them too.

    Used as a mere number, e.g. in `x / x.shape[1] ** 0.5` or `if x.shape[1] > 64`, it freezes them: its value would
    change with a cut. Compared with another width, the two keep their proportion, and the answer stays what it was.
    """

    tag: Tag
    book: LabelBook

    @classmethod
    def of(cls, value: int, tag: Tag, book: LabelBook) -> Width:
        width = cls(value)
        width.tag, width.book = tag, book
        return width

    def number(self) -> int:
        """The value, which may not change any more."""
        self.book.freeze(self.tag.labels, "width used as a number")
        return int.__int__(self)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Width):
            return self.number() * other.number()
        if isinstance(other, int):
            return Width.of(int.__mul__(self, other), self.tag, self.book)
        return self.number() * other

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, Width):
            return self.number() // other.number()
        if isinstance(other, int) and other and int.__mod__(self, other) == 0:
            return Width.of(int.__floordiv__(self, other), self.tag, self.book)
        return self.number() // other

    __int__ = number
    __hash__ = int.__hash__

    def __float__(self) -> float:
        return float(self.number())

    def __reduce__(self) -> Any:
        return int, (int.__int__(self),)


def _arithmetic(name: str) -> Callable[[Width, Any], Any]:
    plain = getattr(int, name)

    def operator(self: Width, other: Any) -> Any:
        return plain(self.number(), other)

    return operator


def _comparison(name: str) -> Callable[[Width, Any], Any]:
    plain, least = getattr(int, name), ("__lt__", "__ge__")  # a width is 1 at least, whatever is cut

    def operator(self: Width, other: Any) -> Any:
        if isinstance(other, Width):
            self.book.tie([self.tag.labels, other.tag.labels])
        elif not (isinstance(other, int | float) and (other < 1 or (other == 1 and name in least))):
            self.number()
        return plain(self, other)

    return operator


for _name in ("add", "sub", "mod", "divmod", "truediv", "pow"):
    setattr(Width, f"__{_name}__", _arithmetic(f"__{_name}__"))
for _name in ("add", "sub", "mod", "divmod", "truediv", "pow", "floordiv"):
    setattr(Width, f"__r{_name}__", _arithmetic(f"__r{_name}__"))
for _name in ("lt", "le", "eq", "ne", "gt", "ge"):
    setattr(Width, f"__{_name}__", _comparison(f"__{_name}__"))


SHAPE: Any = Tensor.shape
"""The property itself, which torch declares to be what it gives."""


class Sizes(FunctionMode):
    """Hands out widths instead of plain sizes, and reads them back where tensors are reshaped, split or made."""

    # by what a function does with the sizes it is given
    SHAPED = frozenset({Tensor.view, Tensor.reshape, torch.reshape, Tensor.expand})
    UNFLATTEN = frozenset({Tensor.unflatten, torch.unflatten})
    LIKE = frozenset({Tensor.view_as, Tensor.reshape_as, Tensor.expand_as})
    SPLIT = frozenset({Tensor.split, Tensor.split_with_sizes}) | {torch.split, torch.split_with_sizes}
    MADE = frozenset({torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn})
    MADE |= {Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty}
    FILLED = frozenset({torch.full, Tensor.new_full})
    # without being given any: the number of elements, and ways out of PyTorch
    COUNTED = frozenset({Tensor.numel, torch.numel, Tensor.nelement})
    LEFT = frozenset({Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.__deepcopy__})

    def __init__(self, state: TraceState, sized: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.state, self.sized = state, sized

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func == SHAPE.__get__ or (func is Tensor.size and len(args) == 1 and not kwargs):
            return self._sizes(args[0], out)
        if func is Tensor.size and isinstance(out, int):
            dim = (args[1] if len(args) > 1 else kwargs["dim"]) % args[0].ndim
            return self._sizes(args[0], args[0].shape)[dim]
        if func in self.SHAPED and isinstance(out, Tensor):
            sizes = [*args[1:], *kwargs.values()]
            self._check(out, sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes)
        elif func in self.UNFLATTEN:
            dim, sizes = [*args[1:], *kwargs.values()][:2]
            at = dim % args[0].ndim
            self._check(out, [-1] * at + list(sizes) + [-1] * (args[0].ndim - 1 - at))
        elif func in self.LIKE:
            self._check(out, self._sizes(args[1], args[1].shape))
        elif func in self.SPLIT:
            self._check_split(args, kwargs, out)
        elif func in self.COUNTED or (func is Tensor.__len__ and self._axis(args[0]) == 0):
            self._as_numbers(self._sizes(args[0], args[0].shape))
        elif func in self.LEFT:
            if (tag := self.state.tag(args[0])) is not None:  # what comes back, if anything, has no labels
                self.state.book.freeze(tag.labels, f"values leave PyTorch by {func.__name__} in {self.state.where}")
        elif func is F.scaled_dot_product_attention:
            if kwargs.get("scale") is None:  # then it divides by the root of the queries' width
                self._as_numbers(self._sizes(args[0], args[0].shape))
        elif func in self.FILLED:
            self._as_numbers((args[-1:], kwargs.get("fill_value")))
        elif func not in self.MADE:
            self._as_numbers((args, kwargs))
        return out

    @staticmethod
    def _as_numbers(values: Any) -> None:
        for value in tree_leaves(values):
            if isinstance(value, Width):
                value.number()

    def _axis(self, tensor: Tensor) -> int | None:
        tag = self.state.tag(tensor)
        return None if tag is None else tag.axis

    def _sizes(self, tensor: Tensor, shape: torch.Size) -> torch.Size:
        tag = self.state.tag(tensor)
        if tag is None:
            return shape
        return torch.Size([Width.of(n, tag, self.state.book) if d == tag.axis else n for d, n in enumerate(shape)])

    def _check(self, out: Tensor, sizes: Any) -> None:
        """The sizes that a tensor was given: along its channels a width follows them, a literal holds them fast."""
        tag, missing = self.state.tag(out), out.ndim - len(sizes)
        for dim, size in enumerate(sizes, missing):
            if tag is None or dim != tag.axis:
                self._as_numbers(size)
            elif isinstance(size, Width):
                self.state.book.tie([size.tag.labels, tag.labels])
            elif size != -1:
                self._literal(tag.labels)

    def _check_split(self, args: Any, kwargs: Any, pieces: Any) -> None:
        sizes = args[1] if len(args) > 1 else next((kwargs[k] for k in kwargs if k.startswith("split_size")), None)
        dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % args[0].ndim
        if (tag := self.state.tag(args[0])) is None or dim != tag.axis:
            return self._as_numbers(sizes)
        listed = sizes if isinstance(sizes, (list, tuple)) else [sizes] * len(pieces)
        for size, piece in zip(listed, pieces, strict=True):
            if not isinstance(size, Width):
                self._literal(tag.labels)
            elif (part := self.state.tag(piece)) is not None:
                self.state.book.tie([size.tag.labels, part.labels])
        return None

    def _literal(self, labels: Tensor) -> None:
        where = self.state.where
        module = self.state.modules.get(where)
        if module is None or not self.sized(module):
            self.state.book.freeze(labels, f"width written as a number in {type(module).__name__} {where}")
