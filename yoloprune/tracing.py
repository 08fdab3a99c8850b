"""Model to channel graph: one small forward pass in which every tensor carries labels of its channels.

A `TorchDispatchMode` sees each ATen operation and applies its rule (see `rules`); a `TorchFunctionMode` above it hands
out sizes that remember whose width they are, so that `x.view(B, C, H, W)` ties the result to `x`.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from yoloprune import grouping
from yoloprune.errors import ArgumentError, ModelError
from yoloprune.groups import ChannelGraph
from yoloprune.labels import LabelBook, Tag
from yoloprune.rules import COSTED, PRODUCTS, Call, batch_norm, rule_of
from yoloprune.watching import preserved, running, trains_without_targets


def trace(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    *,
    frozen: Mapping[str, str] | None = None,
    keep: Mapping[str, str] | None = None,
    sized: Callable[[nn.Module], bool] = lambda module: False,
    outputs: bool = False,
    area: float = 1.0,
) -> ChannelGraph:
    """Find out which channels of a model belong together and what each costs.

    The model is run twice without gradients, in evaluation and in training mode (batch-norm and dropout stay in
    evaluation), because heads may use different layers in each. All module state is put back afterwards.

    Args:
        model (nn.Module): Any network; an Ultralytics model goes through `host.trace_yolo`, which fills in the rest.
        example (Tensor | tuple): Input of the forward pass, e.g. shape (1, 3, 64, 64).
        frozen (Mapping[str, str]): Module-name prefix to reason: channels *made* inside (by convolution or linear
            layers) keep their number; channels that pass through may still be cut.
        keep (Mapping[str, str]): Module name to reason: all its output channels stay.
        sized (Callable): Whether the width attributes of a module are corrected after a cut; sizes that any other
            module writes as plain numbers freeze the channels they count.
        outputs (bool): Whether the network's own outputs may lose channels.
        area (float): Image area to count FLOPs for, relative to the example's.

    Returns:
        (ChannelGraph): Axes, groups, ties and costs.

    Raises:
        ModelError: If the model cannot be run on the example.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    with _one_thread():
        try:
            with preserved(model), running(model, training=False):
                tracer = Tracer(model, frozen or {}, _growths(model, inputs, area))
        except Exception as e:  # whatever a network may raise
            raise ModelError(f"The model does not run on an input of shape {tuple(inputs[0].shape)}: {e}") from e
        results = [_follow(tracer, sized, inputs, training=False)]
        if trains_without_targets(model, inputs):
            results.append(_follow(tracer, sized, inputs, training=True))
    for leaf in tree_leaves(results):
        if not outputs and isinstance(leaf, Tensor) and (tag := tracer.tag(leaf)) is not None:
            tracer.book.freeze(tag.labels, "network output")
    tracer.keep(keep or {})
    return grouping.build(model, tracer.book, tracer.axes, tracer.costs, tracer.unknown)


def match(
    model: nn.Module, patterns: Iterable[str], parts: Mapping[str, Iterable[str]] | None = None
) -> dict[str, str]:
    """Modules and parameters named by `keep` patterns, with the pattern as the reason.

    Args:
        model (nn.Module): The network.
        patterns (Iterable[str]): Each names a module and all inside it; `*` matches across dots.
        parts (Mapping): Words that stand for several modules.

    Returns:
        (dict[str, str]): Name to reason.

    Raises:
        ArgumentError: If a pattern matches nothing.
    """
    names = [n for n, _ in model.named_modules() if n] + [n for n, _ in model.named_parameters()]
    found: dict[str, str] = {}
    for pattern in patterns:
        roots = (parts or {}).get(pattern) or [n for n in names if fnmatchcase(n, pattern)]
        hits = [n for n in names if any(n == r or n.startswith(f"{r}.") for r in roots)]
        if not hits:
            near = get_close_matches(pattern, names, n=3, cutoff=0.5)
            raise ArgumentError(
                f"keep={pattern}: no layer of this model has that name. "
                + (f"Similar names are i.e. {near}." if near else f"Names look like '{names[0]}'.")
            )
        found.update(dict.fromkeys(hits, f"keep={pattern}"))
    return found


def _follow(tracer: Tracer, sized: Callable[[nn.Module], bool], inputs: tuple[Any, ...], *, training: bool) -> Any:
    tracer.counting = not training  # FLOPs are those of inference
    with preserved(tracer.model), running(tracer.model, training), tracer.following(), tracer, _Sizes(tracer, sized):
        return tracer.model(*inputs)


LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)
"""Modules whose tensors a cut slices; parameters of any other are loose."""


class Tracer(TorchDispatchMode):
    """Keeps the labels of all tensors while a model runs, and the axes of all modules met."""

    def __init__(self, model: nn.Module, frozen: Mapping[str, str], growth: list[float]) -> None:
        super().__init__()
        self.model = model
        self.book = LabelBook()
        self.modules = dict(model.named_modules())
        self.axes: dict[tuple[str, str], Tensor] = {}
        self.costs: Counter[tuple[tuple[str, str], ...]] = Counter()
        self.unknown: dict[str, str] = {}
        self.misused: set[str] = set()
        self.where, self.counting = "", True
        self._frozen, self._growth, self.worked = frozen, growth, 0
        self._names = {module: name for name, module in self.modules.items()}
        self._tags: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._owners: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._loose: WeakIdKeyDictionary = WeakIdKeyDictionary()
        shared: Counter[int] = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
        for name, module in self.modules.items():
            for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if isinstance(module, LAYERS) and shared[id(tensor)] < 2:
                    self._owners[tensor] = name
                elif isinstance(tensor, nn.Parameter) and shared[id(tensor)] < 2:
                    self._loose[tensor] = f"{name}.{key}".lstrip(".")

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first use of a mode imports the compiler: seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.worked += func._schema.name in COSTED
        call, rule = Call(self, func, args, kwargs, out), rule_of(func)
        if rule is not batch_norm:
            for tensor in call.tensors():
                if (tag := self._tags.get(tensor)) is not None and tag.bare:
                    self.book.read_bare(tag.labels)
        rule(call)
        return out

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Keep `where`, the dotted name of the innermost running module, up to date."""
        stack: list[str] = []
        self.where = ""

        def enter(module: nn.Module, _: Any) -> None:
            stack.append(self._names.get(module, type(module).__name__))
            self.where = stack[-1]

        def leave(module: nn.Module, _: Any, __: Any) -> None:
            stack.pop()
            self.where = stack[-1] if stack else ""

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def tag(self, tensor: Tensor) -> Tag | None:
        """Labels of a tensor. One-dimensional parameters have those of their layer, or get their own at first use."""
        if (tag := self._tags.get(tensor)) is not None:
            return tag
        layer, name = self._owners.get(tensor), self._loose.get(tensor)
        dims = [d for d, n in enumerate(tensor.shape) if n > 1]
        if len(dims) == 1 and (name or (layer and tensor.ndim == 1)):
            labels = self.axis(name or layer, "outputs", tensor.numel())
            return Tag(labels.reshape(tensor.shape), dims[0], zero=False)
        if layer and isinstance(tensor, nn.Parameter):
            self.misused.add(layer)
        return None

    def put(self, tensor: Tensor, tag: Tag | None) -> None:
        """Give a tensor its labels. Where they vary along other dimensions than the axis, all rows are tied."""
        if tag is None or tag.labels.shape[tag.axis] == 1:
            if tag is not None:
                self.book.freeze(tag.labels, "single channel")
            self._tags.pop(tensor, None)
            return
        self._tags[tensor] = tag
        rows = tag.rows()
        if len(rows) > 1:
            self.book.tie(list(rows))

    def owner(self, tensor: Any, kind: type[nn.Module]) -> str | None:
        """Name of the running layer that a weight belongs to; a weight used outside its layer holds the layer fast."""
        name = self._owners.get(tensor) if isinstance(tensor, Tensor) else None
        if name is None or not isinstance(self.modules[name], kind):
            return None
        if name != self.where:
            self.misused.add(name)
            return None
        return name

    def own(self, view: Tensor, name: str) -> None:
        """Record that a tensor is a view of a module's weight."""
        self._owners[view] = name

    def axis(self, module: str, side: str, width: int) -> Tensor:
        """Labels of a module's output or input positions, issued at first sight, shape (width,)."""
        if (module, side) not in self.axes:
            self.axes[module, side] = self.book.issue(width)
        return self.axes[module, side]

    def attach(self, labels: Tensor, incoming: Tensor | None) -> None:
        """The positions of a layer live and die with the channels that reach them."""
        if incoming is None:
            self.book.freeze(labels, "network input or channels without identity")
        else:
            self.book.unite(labels, incoming, "network input or channels without identity")

    def made(self, module: str, labels: Tensor) -> None:
        """A dense layer made channels: inside a frozen part they keep their number."""
        for prefix, reason in self._frozen.items():
            if module == prefix or module.startswith(f"{prefix}."):
                self.book.freeze(labels, reason)

    def keep(self, keep: Mapping[str, str]) -> None:
        """Freeze all output channels of the named modules, and layers whose weights are also used elsewhere."""
        for (module, side), labels in self.axes.items():
            if module in self.misused:
                self.book.freeze(labels, f"weights of {module} are used outside it")
            elif side == "outputs" and module in keep:
                self.book.freeze(labels, keep[module])

    def flops(self, factor: float, *axes: tuple[str, str]) -> None:
        """Record work in the running pass: `factor` times the widths of the axes, at the example's size."""
        if self.counting:
            growth = self._growth[self.worked - 1] if self.worked <= len(self._growth) else 1.0
            self.costs[axes] += factor * growth


class _Growth(TorchDispatchMode):
    """Work of each costed operation, in the order of execution, without labels."""

    def __init__(self) -> None:
        super().__init__()
        self.work: list[float] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see Tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.name in COSTED:
            tensors = [a for a in args if isinstance(a, Tensor)]
            first = out[0] if isinstance(out, tuple) else out
            self.work.append(
                float(first.numel() * tensors[0].shape[-1] if func._schema.name in PRODUCTS else first.numel())
            )
        return out


def _growths(model: nn.Module, inputs: tuple[Any, ...], area: float) -> list[float]:
    """Factor from the example's size to the asked one for each costed operation.

    Measured, not assumed: convolutions grow with the area, products of positions with its square, pooled maps and text
    not at all. Two plain passes, the second on an image of twice the side, tell which.
    """
    if area == 1.0:
        model(*inputs)  # a model that does not run is found here
        return []
    twice = tuple(x.repeat(1, 1, 2, 2) if isinstance(x, Tensor) and x.ndim == 4 else x for x in inputs)
    passes = []
    for x in (inputs, twice):
        with _Growth() as counted:
            model(*x)
        passes.append(counted.work)
    small, large = passes
    if len(small) != len(large):
        return [area] * len(small)
    return [area ** (math.log(b / a) / math.log(4)) for a, b in zip(small, large, strict=True)]


class _Width(int):
    """A size that remembers the channels it counts; products and exact quotients remember them too.

    Used as a mere number, e.g. in `x / x.shape[1] ** 0.5` or `if x.shape[1] > 64`, it freezes them: its value would
    change with a cut. Compared with another width, the two keep their proportion, and the answer stays what it was.
    """

    tag: Tag
    book: LabelBook

    @classmethod
    def of(cls, value: int, tag: Tag, book: LabelBook) -> _Width:
        width = cls(value)
        width.tag, width.book = tag, book
        return width

    def number(self) -> int:
        """The value, which may not change any more."""
        self.book.freeze(self.tag.labels, "width used as a number")
        return int.__int__(self)

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, _Width):
            return self.number() * other.number()
        if isinstance(other, int):
            return _Width.of(int.__mul__(self, other), self.tag, self.book)
        return self.number() * other

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, _Width):
            return self.number() // other.number()
        if isinstance(other, int) and other and int.__mod__(self, other) == 0:
            return _Width.of(int.__floordiv__(self, other), self.tag, self.book)
        return self.number() // other

    __int__ = number
    __hash__ = int.__hash__

    def __float__(self) -> float:
        return float(self.number())

    def __reduce__(self) -> Any:
        return int, (int.__int__(self),)


def _arithmetic(name: str) -> Callable[[_Width, Any], Any]:
    plain = getattr(int, name)

    def operator(self: _Width, other: Any) -> Any:
        return plain(self.number(), other)

    return operator


def _comparison(name: str) -> Callable[[_Width, Any], Any]:
    plain = getattr(int, name)

    def operator(self: _Width, other: Any) -> Any:
        if isinstance(other, _Width):
            self.book.tie([self.tag.labels, other.tag.labels])
        else:
            self.number()
        return plain(self, other)

    return operator


for _name in "add radd sub rsub mod rmod pow rpow truediv rtruediv rfloordiv divmod rdivmod".split():
    setattr(_Width, f"__{_name}__", _arithmetic(f"__{_name}__"))
for _name in "lt le eq ne gt ge".split():
    setattr(_Width, f"__{_name}__", _comparison(f"__{_name}__"))


class _Sizes(TorchFunctionMode):
    """Hands out widths instead of plain sizes, and reads them back where tensors are reshaped, split or made."""

    SHAPED = frozenset({Tensor.view, Tensor.reshape, torch.reshape, Tensor.expand})
    UNFLATTEN = frozenset({Tensor.unflatten, torch.unflatten})
    LIKE = frozenset({Tensor.view_as, Tensor.reshape_as, Tensor.expand_as})
    SPLIT = frozenset({Tensor.split, torch.split, Tensor.split_with_sizes, torch.split_with_sizes})
    MADE = frozenset(
        {torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn}
        | {Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty}
    )
    FILLED = frozenset({torch.full, Tensor.new_full})
    COUNTED = frozenset({Tensor.numel, torch.numel, Tensor.nelement})

    def __init__(self, tracer: Tracer, sized: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.tracer, self.sized = tracer, sized

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func == Tensor.shape.__get__ or (func is Tensor.size and len(args) == 1 and not kwargs):
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
            if isinstance(value, _Width):
                value.number()

    def _axis(self, tensor: Tensor) -> int | None:
        tag = self.tracer.tag(tensor)
        return None if tag is None else tag.axis

    def _sizes(self, tensor: Tensor, shape: torch.Size) -> torch.Size:
        tag = self.tracer.tag(tensor)
        if tag is None:
            return shape
        return torch.Size([_Width.of(n, tag, self.tracer.book) if d == tag.axis else n for d, n in enumerate(shape)])

    def _check(self, out: Tensor, sizes: Any) -> None:
        """The sizes that a tensor was given: along its channels a width follows them, a literal holds them fast."""
        tag, missing = self.tracer.tag(out), out.ndim - len(sizes)
        for dim, size in enumerate(sizes, missing):
            if tag is None or dim != tag.axis:
                self._as_numbers(size)
            elif isinstance(size, _Width):
                self.tracer.book.tie([size.tag.labels, tag.labels])
            elif size != -1:
                self._literal(tag.labels)

    def _check_split(self, args: Any, kwargs: Any, pieces: Any) -> None:
        sizes = args[1] if len(args) > 1 else next((kwargs[k] for k in kwargs if k.startswith("split_size")), None)
        dim = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % args[0].ndim
        if (tag := self.tracer.tag(args[0])) is None or dim != tag.axis:
            return self._as_numbers(sizes)
        listed = sizes if isinstance(sizes, (list, tuple)) else [sizes] * len(pieces)
        for size, piece in zip(listed, pieces, strict=True):
            if not isinstance(size, _Width):
                self._literal(tag.labels)
            elif (part := self.tracer.tag(piece)) is not None:
                self.tracer.book.tie([size.tag.labels, part.labels])
        return None

    def _literal(self, labels: Tensor) -> None:
        where = self.tracer.where
        module = self.tracer.modules.get(where)
        if module is None or not self.sized(module):
            self.tracer.book.freeze(labels, f"width written as a number in {type(module).__name__} {where}")


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Waking threads costs more than the tiny operations of a trace."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
