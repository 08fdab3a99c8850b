"""Everything that comes out of a forward pass, whatever it is wrapped in: leaves with the path that leads to them."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.torch_internals import is_out_of_memory, tree_map


class Leaf(NamedTuple):
    """One value that is no container.

    Attributes:
        path (str): How to reach it from the output, e.g. `[1].logits`; empty for an output that is a leaf itself.
        value (Any): A tensor, a number, a string, None, or an object that cannot be looked into.
    """

    path: str
    value: Any


ATOMS = (bool, int, float, complex, str, bytes, range, slice, type(None), Enum, torch.dtype, torch.device, type)
"""Values that are compared as they are."""

CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)

LONG = 16
"""So many numbers in a list are one leaf, a tensor: a path for each takes longer than the network."""


def leaves(output: Any) -> list[Leaf]:
    """All values of an output, in their order, those of a user's own objects too.

    Args:
        output (Any): What `forward` returned. An iterator is used up.

    Returns:
        (list[Leaf]): Tensors are the very objects that came out.
    """
    return list(_walk(output, "", set()))


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output."""
    return [leaf.value for leaf in leaves(output) if isinstance(leaf.value, Tensor)]


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A copy of what a network is given, with something else in place of each tensor, also of those in objects.

    An object that cannot be copied is handed on as it is; one that is in it twice, or in itself, stays one.
    """
    copies: dict[int, Any] = {}

    def leaf(one: Any) -> Any:
        if isinstance(one, Tensor):
            return change(one)
        held = None if isinstance(one, (*ATOMS, np.ndarray)) else _attributes(one)
        if id(one) in copies or not held or not tensors(held):
            return copies.get(id(one), one)
        try:
            other = copies[id(one)] = copy.copy(one)
        except Exception as e:  # of a user's own class, whatever it raises
            if is_out_of_memory(e):
                raise
            return one
        for name, child in held.items():
            object.__setattr__(other, name, tree_map(leaf, child))  # of a frozen dataclass as well
        return other

    return tree_map(leaf, value)


def _walk(value: Any, path: str, above: set[int]) -> Iterator[Leaf]:
    if isinstance(value, np.ndarray | np.generic):
        value = torch.as_tensor(value) if value.dtype.kind in "biufc" else value.tolist()
    if isinstance(value, (Tensor, *ATOMS)):
        yield Leaf(path, value)
        if isinstance(value, Tensor) and type(value) is not Tensor and vars(value):  # what a subclass carries along
            yield from _children({k: v for k, v in vars(value).items() if isinstance(v, Tensor)}, path, above, ".")
        return
    if id(value) in above:  # an object that holds itself
        return
    above = above | {id(value)}
    held = _attributes(value)
    if held is None or isinstance(value, CONTAINERS):
        items = _items(value)
        if items is None and not held:
            yield Leaf(path, value)
        elif (numbers := _numbers(items)) is not None:
            yield Leaf(path, numbers)
        else:
            yield from _children(items or {}, path, above, "[]")
        among = {id(child) for child in (items or {}).values()}
        held = {key: child for key, child in (held or {}).items() if id(child) not in among}  # ModelOutput has both
    yield from _children(held, path, above, ".")


def _items(value: Any) -> Mapping[Any, Any] | None:
    """What a value contains; None if it is no container, or does not say."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, Iterator) and not (hasattr(value, "__len__") and hasattr(value, "__iter__")):
        return None
    try:
        return dict(enumerate(value))
    except Exception as e:  # of a user's own class, whatever it raises
        if is_out_of_memory(e):
            raise
        return None


def _numbers(items: Mapping[Any, Any] | None) -> Tensor | None:
    """Many numbers of one kind as a tensor."""
    if items is None or len(items) < LONG or {type(v) for v in items.values()} not in ({bool}, {int}, {float}):
        return None
    try:
        return torch.tensor(list(items.values()))
    except (RuntimeError, ValueError, OverflowError) as e:  # an integer beyond 64 bits
        if is_out_of_memory(e):
            raise
        return None


def _children(held: Mapping[Any, Any], path: str, above: set[int], how: str) -> Iterator[Leaf]:
    for key, child in held.items():
        yield from _walk(child, f"{path}.{key}" if how == "." else f"{path}[{key!r}]", above)


def _attributes(value: Any) -> dict[str, Any] | None:
    """What an object holds; None for functions, networks and whatever keeps its values out of sight."""
    if isinstance(value, nn.Module | Iterator) or (callable(value) and not is_dataclass(value)):
        return None
    if is_dataclass(value):
        return {f.name: getattr(value, f.name, None) for f in fields(value)} | getattr(value, "__dict__", {})
    slots = [_mangled(name, c) for c in type(value).__mro__ for name in _listed(getattr(c, "__slots__", ()))]
    held = {name: getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)}
    held |= getattr(value, "__dict__", {})
    return held or None


def _listed(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _mangled(name: str, owner: type) -> str:
    """How a private name is called outside its class."""
    private = name.startswith("__") and not name.endswith("__")
    return f"_{owner.__name__.lstrip('_')}{name}" if private else name


def plain(tensor: Tensor) -> Tensor:
    """A tensor's values as a dense tensor of torch's own class, detached and of its own memory."""
    tensor = tensor.detach()
    if tensor.is_nested:
        padded: Tensor = torch.nested.to_padded_tensor(tensor, 0.0)
        return padded.clone()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    return tensor.as_subclass(Tensor).resolve_conj().resolve_neg().clone()
