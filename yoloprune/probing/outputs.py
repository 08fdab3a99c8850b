"""Everything that comes out of a forward pass, whatever it is wrapped in: leaves with the path that leads to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.torch_internals import is_out_of_memory


class Leaf(NamedTuple):
    """One value that is no container.

    Attributes:
        path (str): How to reach it from the output, e.g. `[1].logits`; empty for an output that is a leaf itself.
        value (Any): A tensor, a number, a string, None, or an object that cannot be looked into.
    """

    path: str
    value: Any


ATOMS = (bool, int, float, complex, str, bytes, type(None), Enum, torch.dtype, torch.device, type)
"""Values that are compared as they are."""


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


def _walk(value: Any, path: str, above: set[int]) -> Iterator[Leaf]:
    if isinstance(value, np.ndarray | np.generic):
        value = torch.as_tensor(value) if value.dtype.kind in "biufc" else value.tolist()
    if isinstance(value, (Tensor, *ATOMS)):
        yield Leaf(path, value)
        if isinstance(value, Tensor) and type(value) is not Tensor and vars(value):  # what a subclass carries along
            yield from _children({k: v for k, v in vars(value).items() if isinstance(v, Tensor)}, path, above, ".")
    elif id(value) in above:  # an object that holds itself
        return
    elif isinstance(value, Mapping):
        yield from _children(value, path, above | {id(value)}, "[]")
    elif hasattr(value, "_fields") or isinstance(value, list | tuple):
        yield from _children(dict(enumerate(value)), path, above | {id(value)}, "[]")
    elif isinstance(value, Iterator) or (hasattr(value, "__len__") and hasattr(value, "__iter__")):
        try:
            listed = list(value)
        except Exception as e:  # of a user's own class, whatever it raises
            if is_out_of_memory(e):
                raise
            yield Leaf(path, value)
        else:
            yield from _children(dict(enumerate(listed)), path, above | {id(value)}, "[]")
    elif (held := _attributes(value)) is not None:
        yield from _children(held, path, above | {id(value)}, ".")
    else:
        yield Leaf(path, value)


def _children(held: Mapping[Any, Any], path: str, above: set[int], how: str) -> Iterator[Leaf]:
    for key, child in held.items():
        yield from _walk(child, f"{path}.{key}" if how == "." else f"{path}[{key!r}]", above)


def _attributes(value: Any) -> dict[str, Any] | None:
    """What an object holds; None for functions, networks and whatever keeps its values out of sight."""
    if callable(value) and not is_dataclass(value):
        return None
    if isinstance(value, nn.Module):
        return None
    if is_dataclass(value):
        return {f.name: getattr(value, f.name, None) for f in fields(value)} | getattr(value, "__dict__", {})
    slots = [name for c in type(value).__mro__ for name in _listed(getattr(c, "__slots__", ()))]
    held = {name: getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)}
    held |= getattr(value, "__dict__", {})
    return held or None


def _listed(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def plain(tensor: Tensor) -> Tensor:
    """A tensor's values as a dense tensor of torch's own class, detached and of its own memory."""
    tensor = tensor.detach()
    if tensor.is_nested:
        return torch.nested.to_padded_tensor(tensor, 0.0).clone()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    return tensor.as_subclass(Tensor).resolve_conj().resolve_neg().clone()
