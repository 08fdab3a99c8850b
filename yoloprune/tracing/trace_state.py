"""What is known while a model runs: labels of its tensors, axes of its modules, and the work that it did."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from yoloprune.planning.layer_names import AS_THEY_ARE
from yoloprune.probing.outputs import tensors
from yoloprune.torch_internals import (
    WeakIdKeyDictionary,
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from yoloprune.tracing.labels import LabelBook, Tag
from yoloprune.tracing.literals import Literals
from yoloprune.tracing.loose_ends import LooseEnds
from yoloprune.tracing.owners import LAYERS, owners
from yoloprune.tracing.unreached import holders, unread


class TraceState:
    """Keeps the labels of all tensors while a model runs, and the axes of all modules met.

    Rules read and write it; which rule an operation has is the business of `Tracer`, which this knows nothing of.

    Attributes:
        book (LabelBook): Which labels live and die together, are frozen or tied.
        modules (dict[str, nn.Module]): All of the model, by dotted name.
        axes (dict[tuple[str, str], Tensor]): Labels by module and side, in the order in which modules ran.
        costs (dict): FLOPs by the axes to whose widths they are proportional.
        unknown (dict[str, str]): Operations without a rule that met channels, with the module that ran them first.
        misused, asked (set[str]): Layers whose weights something else reads as well; of whose weights sizes were asked.
        where (str): Dotted name of the innermost running module.
        entered (set[str]): Modules that ran.
        counting (bool): Whether FLOPs are recorded in this pass.
        worked (int): Number of costed operations so far, which finds the growth of each.
        said (tuple[int, ...] | None): What `told` was given, while its function runs.
    """

    def __init__(self, model: nn.Module, frozen: Mapping[str, str], growth: list[float]) -> None:
        self.model = model
        self.book = LabelBook()
        self.modules = dict(model.named_modules())
        self.axes: dict[tuple[str, str], Tensor] = {}
        self.costs: defaultdict[tuple[tuple[str, str], ...], float] = defaultdict(float)
        self.unknown: dict[str, str] = {}
        self.misused: set[str] = set()
        self.asked: set[str] = set()
        self.where, self.counting = "", True
        self.said: tuple[int, ...] | None = None
        self.entered: set[str] = set()
        self._seen: set[int] = set()  # identities of all that operations read; those of parameters and buffers count
        self.ends = LooseEnds()
        self._overheard: dict[str, str] = {}  # modules in whose own code all channels stay, and why
        self.handing_on: frozenset[str] = frozenset()  # modules whose output channels get an axis of their own
        self.called = AS_THEY_ARE  # what reasons call modules by
        self._frozen, self._growth, self.worked = frozen, growth, 0
        self._names = {module: name for name, module in self.modules.items()}
        self._tags: WeakIdKeyDictionary[Tensor, Tag] = WeakIdKeyDictionary()
        self._owners, self._loose = owners(self.modules)
        self._transposed: WeakIdKeyDictionary[Tensor, str] = WeakIdKeyDictionary()
        self.literals = Literals()

    @property
    def place(self) -> str:
        """The innermost running module in words: the network has no name of its own."""
        return self.called.of(self.where) or "the network's own code"

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Keep `where`, the dotted name of the innermost running module, up to date."""
        stack: list[str] = []
        self.where = ""

        def enter(module: nn.Module, args: Any) -> None:
            name = self._names.get(module, type(module).__name__)
            self.entered.add(name)
            for one in (name, self.where):
                self.hold(one, args)
            stack.append(name)
            self.where = name

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            name = stack.pop()
            if isinstance(module, LAYERS):
                self.left(name, module, args, output)
            if name in self.handing_on and isinstance(output, Tensor) and output.ndim > 1:
                tag = self.tag(output)  # without one nothing of it can go
                labels = None if tag is None else tag.vector(1)
                if tag is None or labels is not None:
                    width = output.shape[1] if labels is None else len(labels)
                    self.attach(self.axis(name, "count", width), labels)
            self.where = stack[-1] if stack else ""
            self.hold(self.where, output)

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def left(self, name: str, layer: nn.Module, args: Any, output: Any) -> None:
        """A layer has run: the masked parent has zeros in what it gives, after the bias too."""
        tag = self._tags.get(output) if isinstance(output, Tensor) else None
        if tag is not None and not tag.zero:
            self._tags[output] = replace(tag, zero=True)

    def saw(self, read: Iterable[Tensor]) -> None:
        """An operation read these."""
        for tensor in read:
            self._seen.add(id(tensor))
            self.ends.read(tensor)

    def unreached(self) -> list[str]:
        """Modules with weights that no pass ran, and loose parameters and buffers that nothing read."""
        return unread(self.modules, self.entered, self._seen, LAYERS)

    def overhear(self, unreached: Iterable[str]) -> bool:
        """Hold, from now on, all channels that the modules see which might run these; False if there are none."""
        for holder, name in holders(self.model, unreached, self.entered).items():
            self._overheard[holder] = f"{self.called.of(name)} was not run on the example and might read this"
        return bool(self._overheard)

    def hold(self, module: str, values: Any) -> None:
        """Freeze the channels of all tensors in some values, if all that a module sees has to stay."""
        if (why := self._overheard.get(module)) is not None:
            for tensor in tensors(values):
                if (tag := self.tag(tensor)) is not None:
                    self.book.freeze(tag.labels, why)

    def tag(self, tensor: Tensor) -> Tag | None:
        """Labels of a tensor. Parameters and buffers of one dimension have those of their layer, or get their own."""
        if (tag := self._tags.get(tensor)) is not None:
            return tag
        layer, name = self._owners.get(tensor), self._loose.get(tensor)
        if tensor.is_nested:  # it has no shape
            return None
        dims = [d for d, n in enumerate(tensor.shape) if n > 1]
        owner = name or (layer if tensor.ndim == 1 else None)
        if len(dims) == 1 and owner:
            labels = self.axis(owner, "outputs", tensor.numel())
            return Tag(labels.reshape(tensor.shape), dims[0], zero=False, loose=name is not None)
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
        self.ends.made(tensor, tag.labels)
        rows = tag.rows()
        if len(rows) > 1:
            self.book.tie(list(rows))

    def read_bare(self, tensors: Iterable[Tensor]) -> None:
        """Something other than batch-norm reads these tensors: channels as a layer made them are told apart."""
        for tensor in tensors:
            if (tag := self._tags.get(tensor)) is not None and tag.bare:
                self.book.read_bare(tag.labels)

    def layer(self, tensor: Tensor) -> str | None:
        """Name of the layer whose weight this is, None of anything else."""
        return self._owners.get(tensor) if tensor.ndim > 1 else None

    def owner(self, tensor: Any, kind: type[nn.Module]) -> str | None:
        """Name of the running layer that a weight belongs to; a weight used outside its layer holds the layer fast."""
        name = self._owners.get(tensor) if isinstance(tensor, Tensor) else None
        if name is None or not isinstance(self.modules[name], kind):
            return None
        if name != self.where:
            self.misused.add(name)
            return None
        return name

    def transpose(self, weight: Tensor, view: Tensor) -> bool:
        """Remember the transposed view through which a linear layer reads its weight; False for any other tensor."""
        if (name := self._transposed.get(weight)) is not None:
            self.misused.add(name)
        elif (name := self.owner(weight, nn.Linear)) is not None:
            self._transposed[view] = name
        return name is not None

    def linear(self, weight: Tensor) -> str | None:
        """Name of the running linear layer that reads its weight through this view."""
        name = self._transposed.get(weight)
        return name if name == self.where else None

    def axis(self, module: str, side: str, width: int) -> Tensor:
        """Labels of a module's output or input positions, issued at first sight, shape (width,)."""
        if (module, side) not in self.axes:
            self.axes[module, side] = self.book.issue(width)
        return self.axes[module, side]

    def attach(self, labels: Tensor, incoming: Tensor | None) -> None:
        """The positions of a layer live and die with the channels that reach them."""
        if incoming is None:
            self.book.freeze(labels, "fixed input")
        else:
            self.book.unite(labels, incoming, "fixed input")

    def counted(self, width: int) -> Tensor:
        """Labels of positions that no layer makes, but which are as many as some channels, shape (width,)."""
        return self.axis(f"{self.where} constant {len(self.axes)}", "count", width)

    def told(self, axes: tuple[int, ...], func: Any, args: Any, kwargs: Any) -> Any:
        """Run a function of which it is known that it takes channels apart by their widths, and not by number.

        Args:
            axes (tuple[int, ...]): Dimensions of the result that may change, the likeliest first.
            func (Callable): The function.
            args (tuple): Its arguments.
            kwargs (dict): Its arguments by keyword.
        """
        self.said = axes
        try:
            return func(*args, **kwargs)
        finally:
            self.said = None

    def made(self, module: str, labels: Tensor) -> None:
        """A dense layer made channels: inside a frozen part they keep their number."""
        for prefix, reason in self._frozen.items():
            if module == prefix or module.startswith(f"{prefix}."):
                self.book.freeze(labels, reason)

    def keep(self, keep: Mapping[str, str]) -> None:
        """Freeze all output channels of the named modules, and layers whose weights are also used elsewhere."""
        for (module, side), labels in self.axes.items():
            if module in self.misused or (module in self.asked and id(self.modules[module].weight) not in self._seen):
                self.book.freeze(labels, f"weights of {self.called.of(module)} are used outside it")
            elif side == "outputs" and module in keep:
                self.book.freeze(labels, keep[module])

    def flops(self, factor: float, *axes: tuple[str, str]) -> None:
        """Record work in the running pass: `factor` times the widths of the axes, at the example's size."""
        if self.counting:
            growth = self._growth[self.worked - 1] if self.worked <= len(self._growth) else 1.0
            self.costs[axes] += factor * growth
