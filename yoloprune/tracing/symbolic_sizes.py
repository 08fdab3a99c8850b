"""Sizes that remember whose width they are, so that `x.view(B, C, H, W)` ties the result to `x`.

A `TorchFunctionMode` sees what a forward pass asks of tensors in Python: it hands out a `Width` where a size counts
channels, and looks where that number goes. What happens below, to the tensors themselves, is the tracer's business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.torch_internals import FunctionMode
from yoloprune.tracing import circular_padding, slices, weight_sizes
from yoloprune.tracing.arguments import in_order, listed
from yoloprune.tracing.labels import Tag
from yoloprune.tracing.trace_state import TraceState
from yoloprune.tracing.widths import Width

SHAPE: Any = Tensor.shape
"""The property itself, which torch declares to be what it gives."""


class Sizes(FunctionMode):
    """Hands out widths instead of plain sizes, and reads them back where tensors are reshaped, divided or made."""

    # by what a function does with the sizes it is given
    SHAPED = frozenset({Tensor.view, Tensor.reshape, torch.reshape})
    EXPAND = frozenset({Tensor.expand, Tensor.broadcast_to, torch.broadcast_to})
    REPEAT = frozenset({Tensor.repeat, Tensor.tile, torch.tile})
    UNFLATTEN = frozenset({Tensor.unflatten, torch.unflatten})
    LIKE = frozenset({Tensor.view_as, Tensor.reshape_as, Tensor.expand_as})
    SPLIT = frozenset({Tensor.split, Tensor.split_with_sizes}) | {torch.split, torch.split_with_sizes}
    SHARED = frozenset({Tensor.tensor_split, torch.tensor_split})
    NARROW = frozenset({Tensor.narrow, torch.narrow})
    MADE = frozenset({torch.empty, torch.rand, torch.randn, Tensor.new_empty})
    CONSTANT = frozenset({torch.zeros, torch.ones, Tensor.new_zeros, Tensor.new_ones, torch.full, Tensor.new_full})
    # without being given any: the number of elements, and ways out of PyTorch
    COUNTED = frozenset({Tensor.numel, torch.numel, Tensor.nelement})
    LEFT = frozenset({Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.__deepcopy__})

    def __init__(self, state: TraceState, sized: Callable[[nn.Module], Collection[str]]) -> None:
        super().__init__()
        self.state, self.sized = state, sized

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = in_order(func, args, kwargs or {})
        if func is Tensor.__getitem__ or func in self.NARROW:
            return self._sliced(func, args, kwargs)
        if func in self.SHAPED or func in self.UNFLATTEN or func in self.LIKE:
            return self._shaped(func, args, kwargs)
        if func in self.SPLIT:
            return self._split(func, args, kwargs)
        if func in self.SHARED or func is Tensor.__setitem__:
            return self._shared(func, args, kwargs) if func in self.SHARED else self._written(func, args, kwargs)
        out: Any = circular_padding.padded(*args, **kwargs) if func is F.pad else None
        out = func(*args, **kwargs) if out is None else out
        if func == SHAPE.__get__ or (func is Tensor.size and len(args) == 1 and not kwargs):
            return self._sizes(args[0], out)
        if func is Tensor.size and isinstance(out, int):
            return self._sizes(args[0], args[0].shape)[args[1] % args[0].ndim]
        if func in self.EXPAND or func in self.REPEAT:
            self._spread(out, args[0], listed([*args[1:], *kwargs.values()]), times=func in self.REPEAT)
        elif func in self.CONSTANT:
            self._constant(func, args, kwargs, out)
        elif func in self.COUNTED or (func is Tensor.__len__ and self._axis(args[0]) == 0):
            self._as_numbers(self._sizes(args[0], args[0].shape))
        elif func in self.LEFT:
            if (tag := self.state.tag(args[0])) is not None:  # what comes back, if anything, has no labels
                self.state.book.freeze(tag.labels, f"values leave PyTorch by {func.__name__} in {self.state.place}")
        elif func is F.scaled_dot_product_attention:
            self._scaled(args[0], kwargs.get("scale"))
        elif func not in self.MADE:
            self._as_numbers((args, kwargs))
        return out

    @classmethod
    def _as_numbers(cls, values: Any) -> None:
        if isinstance(values, Width):
            values.number()
        elif isinstance(values, slice):
            cls._as_numbers((values.start, values.stop, values.step))
        elif isinstance(values, list | tuple | dict):
            for value in values.values() if isinstance(values, dict) else values:
                cls._as_numbers(value)

    def _scaled(self, queries: Tensor, scale: float | None) -> None:
        """Attention divides by the root of the queries' width where it is given no scale."""
        tag = self.state.tag(queries)
        if scale is None and tag is not None and tag.axis == queries.ndim - 1:
            self.state.book.freeze(tag.labels, f"attention without scale= divides by this width in {self.state.place}")

    def _axis(self, tensor: Tensor) -> int | None:
        tag = self.state.tag(tensor)
        return None if tag is None else tag.axis

    def _sizes(self, tensor: Tensor, shape: torch.Size) -> torch.Size:
        if (layer := self.state.layer(tensor)) and (sizes := weight_sizes.sizes(self.state, layer, tensor)) is not None:
            return sizes
        tag = self.state.tag(tensor)
        if tag is None:
            return shape
        return torch.Size([Width.of(n, tag, self.state.book) if d == tag.axis else n for d, n in enumerate(shape)])

    def _literal(self, labels: Tensor) -> None:
        if not self._is_sized():
            module = self.state.modules.get(self.state.where)
            where = f"{type(module).__name__} {self.state.called.of(self.state.where)}".rstrip()
            self.state.book.freeze(labels, f"width written as a number in {where}")

    def _is_sized(self) -> bool:
        module = self.state.modules.get(self.state.where)
        return module is not None and bool(self.sized(module))

    # ---- shapes ------------------------------------------------------------------------------------------------------

    def _shaped(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A tensor in another shape: of the factors that its channels become, the one that may change is told."""
        given = [*args[1:], *kwargs.values()]
        if func in self.LIKE:
            sizes: Sequence[Any] = self._sizes(args[1], args[1].shape)
        elif func in self.UNFLATTEN:
            at = given[0] % args[0].ndim
            sizes = [-1] * at + list(given[1]) + [-1] * (args[0].ndim - 1 - at)
        else:
            sizes = listed(given)
        widths = [d for d, size in enumerate(sizes) if type(size) is Width]
        # what is left to torch may change as well, unless the numbers beside it are those that are corrected
        open_ends = [d for d, size in enumerate(sizes) if type(size) is int and size == -1 and not self._is_sized()]
        out = self.state.told((*widths, *open_ends), func, args, kwargs)
        if func is Tensor.expand_as:
            self._spread(out, args[0], sizes, times=False)
        elif isinstance(out, Tensor):
            self._check(out, sizes)
        return out

    def _check(self, out: Tensor, sizes: Sequence[Any]) -> None:
        """The sizes that a tensor was given: along its channels a width follows them, a literal holds them fast."""
        tag, missing = self.state.tag(out), out.ndim - len(sizes)
        for dim, size in enumerate(sizes, missing):
            if tag is None or dim != tag.axis:
                self._as_numbers(size)
            elif isinstance(size, Width):
                size.count(tag.labels, tag.axis)
            elif size != -1:
                self._literal(tag.labels)

    def _spread(self, out: Tensor, source: Tensor, sizes: Sequence[Any], *, times: bool) -> None:
        """One value is repeated as often as there are channels; the sizes say how long it gets, or how many times."""
        if self.state.tag(source) is None:
            missing = source.ndim - len(sizes)
            once = [d + missing < 0 or source.shape[d + missing] == 1 for d in range(len(sizes))]
            self._as_numbers([size for size, free in zip(sizes, once, strict=True) if not free])
            self._follow(out, [size if free else None for size, free in zip(sizes, once, strict=True)], zero=False)
        elif times:
            self._as_numbers(sizes)
        else:
            self._check(out, sizes)

    def _constant(self, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
        """A tensor of one value in a given shape: its positions may become fewer as the channels do."""
        given = list(args[1:] if func.__name__.startswith("new_") else args)
        filled = "full" in func.__name__
        value = kwargs.get("fill_value", given.pop() if filled and given and "fill_value" not in kwargs else None)
        self._as_numbers(value)
        self._follow(
            out, listed([*given, *(v for k, v in kwargs.items() if k == "size")]), zero="zeros" in func.__name__
        )

    def _follow(self, out: Tensor, sizes: Sequence[Any], *, zero: bool) -> None:
        """Labels for a tensor that has the same value at all positions along a dimension as long as a width."""
        widths = [(d, size) for d, size in enumerate(sizes, out.ndim - len(sizes)) if isinstance(size, Width)]
        for dim, size in widths:
            if len(widths) > 1:
                size.number()
            else:
                row = self.state.counted(out.shape[dim])
                size.count(row, 0)
                self.state.put(out, Tag(row.reshape([-1 if d == dim else 1 for d in range(out.ndim)]), dim, zero))

    # ---- pieces ------------------------------------------------------------------------------------------------------

    def _split(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Pieces whose sizes are widths follow them; a literal holds its own piece, and no other."""
        sizes, dim = args[1], (args[2] if len(args) > 2 else 0) % args[0].ndim
        tag = self.state.tag(args[0])
        if tag is None or dim != tag.axis or not isinstance(sizes, (list, tuple)):
            pieces = func(*args, **kwargs)
            if tag is None or dim != tag.axis:
                self._as_numbers(sizes)
                return pieces
            sizes = [sizes] * len(pieces)
        else:
            pieces = self.state.told((), func, args, kwargs)
        parts = tag.labels.split([p.shape[dim] for p in pieces], dim)
        written: dict[int, list[Tensor]] = {}
        for size, part in zip(sizes, parts, strict=True):
            if isinstance(size, Width):
                size.count(part, dim)
            else:
                self._literal(part)
                written.setdefault(size, []).append(part)
        for equal in written.values():  # sizes that are corrected after a cut may all be one number
            self.state.book.tie(equal)
        return pieces

    def _shared(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Equal pieces, which stay equal."""
        count, dim = (*args[1:], *kwargs.values(), 0)[:2]
        tag = self.state.tag(args[0])
        self._as_numbers((args, kwargs))
        if tag is None or type(count) is not int or dim % args[0].ndim != tag.axis or args[0].shape[dim] % count:
            return func(*args, **kwargs)
        self.state.book.tie(list(tag.labels.chunk(count, tag.axis)))
        return self.state.told((), func, args, kwargs)

    def _written(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Values written over the first so many channels, which stay: `x[:, :8] = …`; anywhere else they are held."""
        tag = self.state.tag(args[0])
        bounds, others = slices.along_axis(args[0], args[1], None if tag is None else tag.axis)
        self._as_numbers((others, args[2]))
        if tag is not None and bounds is not None and isinstance(bounds.stop, int) and not bounds.start:
            inside = 0 < int.__int__(bounds.stop) < args[0].shape[tag.axis] and bounds.step in (None, 1)
            if inside and slices.hold(self.state, args[0], tag, bounds, strict=False):
                return self.state.told((), func, args, kwargs)
        self._as_numbers(bounds)
        return func(*args, **kwargs)

    def _sliced(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Channels from one bound to another: as many stay before each as it will say."""
        tag, bounds, others = self.state.tag(args[0]), None, (args, kwargs)
        if func in self.NARROW:
            dim, start, length = (*args[1:], *kwargs.values())[:3]
            if tag is not None and isinstance(start, int) and dim % args[0].ndim == tag.axis:
                bounds, others = slice(start, start + length), ((), {})
        else:
            bounds, others = slices.along_axis(args[0], args[1], None if tag is None else tag.axis)
        self._as_numbers(others)
        strict = func in self.NARROW
        if tag is not None and bounds is not None and slices.hold(self.state, args[0], tag, bounds, strict=strict):
            return self.state.told((), func, args, kwargs)
        self._as_numbers(bounds)
        return func(*args, **kwargs)
