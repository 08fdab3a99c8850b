"""Modules that no example ran: which of them might run all the same, and which module would run them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any

from torch import nn

from yoloprune.torch_internals import CHILDREN

GENERIC = frozenset(
    {"getattr", "vars", "__dict__", CHILDREN, "get_submodule"}
    | {"children", "named_children", "modules", "named_modules"}
)
"""Names in code that may lead to any child."""


def holders(model: nn.Module, unreached: Iterable[str], entered: Iterable[str]) -> dict[str, str]:
    """From the modules whose code might run an unreached one to the name of that.

    A module is run by the innermost one around it that ran, if that one's class speaks of it at all: a layer that is
    only made in `__init__` is dead weight. Code outside the network sees its outputs, and nothing else of it.

    Args:
        model (nn.Module): The network.
        unreached (Iterable[str]): Modules that did not run, by dotted name.
        entered (Iterable[str]): Modules that did.
    """
    ran, found = set(entered), {}
    for name in unreached:
        holder, child = name.rpartition(".")[0], name.rpartition(".")[2]
        while holder and holder not in ran:
            holder, _, child = holder.rpartition(".")
        if holder not in found and _speaks_of(model.get_submodule(holder), child):
            found[holder] = name
    return found


def _speaks_of(module: nn.Module, child: str) -> bool:
    """Whether the code of a module's class names a child, or may reach any."""
    names: set[str] = set()
    own = vars(module).get("forward")
    for function in [own, *(f for c in type(module).__mro__ if c is not nn.Module for f in vars(c).items())]:
        if isinstance(function, tuple):
            key, function = function
            if key == "__init__":
                continue
        for code in _codes(function):
            names.update(code.co_names, (c for c in code.co_consts if isinstance(c, str)))
    return child in names or not GENERIC.isdisjoint(names) or child.isdigit()


def _codes(function: Any) -> Iterator[CodeType]:
    """Code of a function, whatever wraps it, and of those inside it."""
    wrapped = [getattr(function, key, None) for key in ("__func__", "__wrapped__", "fget")]
    for inner in wrapped:
        if inner is not None:
            yield from _codes(inner)
    pending = [getattr(function, "__code__", None)]
    while pending:
        if isinstance(code := pending.pop(), CodeType):
            yield code
            pending += code.co_consts
