"""Run a model and watch it through forward hooks; whatever is touched is put back."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from yoloprune.errors import DataError
from yoloprune.torch_internals import BatchNorm, DispatchMode, Dropout, FunctionMode, schema_of, tree_map, version_of


@contextlib.contextmanager
def running(model: nn.Module, training: bool = True) -> Iterator[None]:
    """No gradients; training mode, in which heads run all their branches, but not for dropout and batch-norm."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        if any(before is not training for _, before in modes):
            model.train(training)
        for m, _ in modes:
            if m.training and isinstance(m, (BatchNorm, Dropout)):
                m.eval()
        with torch.inference_mode(False), torch.no_grad(), _NoDropout():
            yield
    finally:
        for m, before in modes:
            if m.training is not before:
                m.training = before


class _NoDropout(FunctionMode):
    """Dropout by function lets everything pass, as the layers do in evaluation mode."""

    FUNCTIONS = frozenset(
        f
        for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
        for f in (getattr(functional, name), getattr(torch, name, None), getattr(torch, f"{name}_", None))
        if f is not None
    ) | {torch.feature_dropout, torch.feature_dropout_}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.FUNCTIONS:
            return args[0] if args else kwargs["input"]
        if func is functional.scaled_dot_product_attention:
            named = {"dropout_p": 0.0} if len(args) < 5 else {}
            args, kwargs = (*args[:4], *(0.0 for _ in args[4:5]), *args[5:]), {**kwargs, **named}
        return func(*args, **kwargs)


CONTAINERS = (dict, list, set, deque)  # a module's attributes are a dict as well
PLAIN = frozenset({dict, OrderedDict, list, set})
NUMBERS = (int, float, bool, complex, torch.Size)
ATOMS = frozenset({*NUMBERS, str, bytes, type(None), torch.dtype, torch.device, FunctionType})
"""Kinds of values that hold nothing that could change; most attributes are of them."""


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Put back whatever a forward pass changes: attributes, the lists and dicts among them, tensors, generators.

    A head remembers its anchors, a network for video its last frame.
    """
    found = _found(model)
    containers = [(v, _copied(v) if v else None) for v in found if isinstance(v, CONTAINERS)]
    tensors = [v for v in found if isinstance(v, Tensor) and not v.is_inference()]  # which nothing can change
    values = [(v, version_of(v), v.detach().clone()) for v in tensors]
    generators = [(v, v.get_state()) for v in found if isinstance(v, torch.Generator)]
    try:
        yield
    finally:
        for container, content in containers:
            if content is not None:
                _refill(container, content)
            elif container:  # most are the dicts of hooks, and empty before and after
                container.clear()
        for tensor, version, value in values:
            if version_of(tensor) != version:
                tensor.detach().copy_(value)
        for generator, state in generators:
            generator.set_state(state)


def state_of(model: nn.Module) -> list[tuple[Any, ...]]:
    """What a network holds, to tell whether it holds the same later; only while the objects in it live."""
    return [
        (id(v), version_of(v)) if isinstance(v, Tensor) else (id(v), *map(id, _items(v)))
        for v in _found(model)
        if isinstance(v, CONTAINERS) or (isinstance(v, Tensor) and not v.is_inference())
    ]


def held_tensors(model: nn.Module) -> list[Tensor]:
    """Buffers, and tensors among the attributes of all modules and in their lists and dicts; no parameters."""
    return [v for v in _found(model) if isinstance(v, Tensor)]


def _items(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _found(model: nn.Module) -> list[Any]:
    """All that a forward pass could change: the attributes of every module, and what these hold.

    That is every container, tensor that is no parameter, and generator, by identity. A loop without calls: a proof
    comes by here dozens of times, and most of what a module has are the empty dicts of its hooks.
    """
    found: dict[int, Any] = {}
    open_: list[Any] = [vars(module) for module in model.modules()]
    while open_:
        value = open_.pop()
        kind = type(value)
        if kind in ATOMS or kind is nn.Parameter or id(value) in found:
            continue
        if kind in PLAIN or isinstance(value, CONTAINERS):
            found[id(value)] = value
            open_ += value.values() if isinstance(value, dict) else () if isinstance(value, set) else value
        elif isinstance(value, (nn.Module, nn.Parameter)):
            continue
        elif isinstance(value, (Tensor, torch.Generator)):
            found[id(value)] = value
        elif isinstance(value, tuple):
            open_ += value
    return list(found.values())


def _copied(container: Any) -> Any:
    """What a container holds; `copy.copy` asks each object how it is copied, which takes ten times as long."""
    kind = type(container)
    return kind(container) if kind in PLAIN else copy.copy(container)


def _refill(container: Any, content: Any) -> None:
    """Give a container back what it held, if that is not what it holds."""
    if isinstance(container, list | deque):
        same = len(container) == len(content) and all(a is b for a, b in zip(container, content, strict=True))
    else:
        same = container.keys() == content.keys() if isinstance(container, dict) else container == content
        same = same and (not isinstance(container, dict) or all(container[k] is v for k, v in content.items()))
    if not same:
        container.clear()
        container.extend(content) if isinstance(container, list | deque) else container.update(content)


@contextlib.contextmanager
def placed(target: torch.device, *models: nn.Module) -> Iterator[None]:
    """Models on a device for the time of a `with` block."""
    homes = [next(m.parameters()).device for m in models]
    try:
        for model in models:
            model.to(target)
        yield
    finally:
        for model, home in zip(models, homes, strict=True):
            model.to(home)


@contextlib.contextmanager
def hooked() -> Iterator[list[RemovableHandle]]:
    """A list of hooks that are removed at the end."""
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """What a layer was given, its first argument, by position or by name."""
    return next(iter((*args, *kwargs.values())))


def feed(model: nn.Module, batches: Iterable[Any]) -> None:
    """Run a model on batches, each a tensor or all arguments as a tuple; raises DataError if there are none."""
    weight, fed = next(model.parameters()), False

    def placed(x: Any) -> Any:
        return x.to(weight.device, weight.dtype if x.is_floating_point() else None) if isinstance(x, Tensor) else x

    for batch in batches:
        model(*(tree_map(placed, batch) if isinstance(batch, tuple) else (placed(batch),)))
        fed = True
    if not fed:
        raise DataError("There are no calibration images.")


def follow(
    parent: nn.Module,
    names: Iterable[str],
    kinds: type[nn.Module] | tuple[type[nn.Module], ...],
    hooks: list[RemovableHandle],
) -> dict[str, str]:
    """From modules to the one of these kinds whose input is their output itself; filled when the parent runs.

    A tensor that was changed in place in between is another one: a batch-norm behind an in-place activation does not
    follow the layer before that. Nor does one that follows something else as well, or one of several.
    """
    found: dict[str, str] = {}
    sources: dict[str, set[str | None]] = {}
    norms: dict[str | None, set[str]] = {}

    def mark(name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.made_by = (name, version_of(output))  # type: ignore[attr-defined]  # it lives and dies with the tensor

    def look(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = input_of(args, kwargs)
        source, version = getattr(given, "made_by", (None, None))
        source = source if version == version_of(given) else None
        sources.setdefault(name, set()).add(source)
        norms.setdefault(source, set()).add(name)
        if source is not None:
            found[source] = name
        if isinstance(module, BatchNorm):  # an activation may well be one object for all layers
            for other, norm in tuple(found.items()):
                if len(sources[norm]) > 1 or len(norms[other]) > 1:
                    del found[other]

    for name, module in parent.named_modules():
        if isinstance(module, kinds) and getattr(module, "track_running_stats", True):
            hooks.append(module.register_forward_pre_hook(partial(look, name), with_kwargs=True))
    hooks += [parent.get_submodule(name).register_forward_hook(partial(mark, name)) for name in names]
    return found


class Readers(DispatchMode):
    """Which of the modules that `follow` marks have outputs that something else reads than a batch-norm.

    Attributes:
        others (set[str]): Names of these modules.
    """

    def __init__(self) -> None:
        super().__init__()
        self.others: set[str] = set()

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        if "batch_norm" not in schema_of(func).name:
            read = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else [arg])]
            self.others.update(a.made_by[0] for a in read if isinstance(a, Tensor) and hasattr(a, "made_by"))
        return func(*args, **kwargs)
