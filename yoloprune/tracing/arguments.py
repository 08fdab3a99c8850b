"""The arguments of a call in the order of the parameters, however they were given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

PARAMETERS: dict[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(("view", "reshape", "expand", "broadcast_to"), (("input",), ("shape", "size"))),
    **dict.fromkeys(("view_as", "reshape_as", "expand_as"), (("input",), ("other",))),
    "repeat": (("input",), ("repeats",)),
    "tile": (("input",), ("dims",)),
    "unflatten": (("input",), ("dim",), ("sizes",)),
    "split": (("tensor", "input"), ("split_size", "split_size_or_sections"), ("dim",)),
    "split_with_sizes": (("input",), ("split_sizes",), ("dim",)),
    "tensor_split": (("input",), ("indices_or_sections", "sections", "indices"), ("dim",)),
    "narrow": (("input",), ("dim",), ("start",), ("length",)),
    "size": (("input",), ("dim",)),
    "numel": (("input",),),
    "pad": (("input",), ("pad",), ("mode",), ("value",)),
    "scaled_dot_product_attention": (("query",),),
}
"""By function or method of torch: the names of its first parameters."""


def in_order(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positions instead of names where the rules for sizes look at positions."""
    args, kwargs = tuple(args), dict(kwargs)
    for names in PARAMETERS.get(getattr(func, "__name__", ""), ())[len(args) :]:
        given = [name for name in names if name in kwargs]
        if not given:
            break
        args += (kwargs.pop(given[0]),)
    return args, kwargs


def listed(given: Sequence[Any]) -> Sequence[Any]:
    """Sizes that were given one by one, or as one list."""
    return list(given[0]) if len(given) == 1 and isinstance(given[0], (tuple, list)) else list(given)
