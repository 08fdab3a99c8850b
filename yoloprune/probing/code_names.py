"""The names that a network's code reads in a forward pass, as far as its code objects tell."""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator
from functools import cache, partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn


def run_names(model: nn.Module) -> set[str]:
    """Names that a pass may ask for: those in `forward`, and in whatever of the network's classes is asked for there.

    What only somebody else calls (`fuse`, `export`) is not among them.
    """
    methods, given = _methods(model), _given(model)
    run = {name for code in codes(given) for name in read(code)} | {"forward"} | set(filter(_is_special, methods))
    pending = list(run)
    while pending:
        new = {name for code in codes(methods.get(pending.pop(), ())) for name in read(code)} - run
        run |= new
        pending += new
    return run


def attributes_read(model: nn.Module) -> set[str]:
    """Attributes that a pass may read, of whatever object, and all words that it may give to a `getattr`."""
    methods = _methods(model)
    found: set[str] = set()
    for code in codes([*_given(model), *(f for name in run_names(model) for f in methods.get(name, ()))]):
        found.update(_attributes(code))
    return found


@cache
def _attributes(code: CodeType) -> frozenset[str]:
    """Attributes that code reads, and all words in it."""
    lines = dis.get_instructions(code)
    names = {line.argval for line in lines if line.opname in ("LOAD_ATTR", "LOAD_METHOD")}
    return frozenset(names | {c for c in code.co_consts if isinstance(c, str)})


def _methods(model: nn.Module) -> dict[str, list[Any]]:
    """What the classes of a network define, by name."""
    methods: dict[str, list[Any]] = {}
    for one in {c for module in model.modules() for c in type(module).__mro__ if c is not nn.Module}:
        for key, f in vars(one).items():
            methods.setdefault(key, []).append(f)
    return methods


def _given(model: nn.Module) -> list[Any]:
    """Functions, among other things, that modules were given."""
    return [f for module in model.modules() for key, f in vars(module).items() if not key.startswith("_")]


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and name != "__init__"


@cache
def read(code: CodeType) -> frozenset[str]:
    """Names and words that code reads; one that it only sets or deletes (`self.branch = None`) runs nothing.

    A `getattr` with a word for its name reads that word, and not any name.
    """
    found = {c for c in code.co_consts if isinstance(c, str)}
    lines = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "PUSH_NULL", "EXTENDED_ARG")]
    for at, line in enumerate(lines):
        is_name = line.opname.startswith("LOAD") and isinstance(line.argval, str)
        if is_name and (line.argval != "getattr" or not _is_word_asked_for(lines[at + 1 :])):
            found.add(line.argval)
    return frozenset(found)


def _is_word_asked_for(lines: list[dis.Instruction]) -> bool:
    """Whether an object's name, attributes of it and a constant come next."""
    after = next((k for k, line in enumerate(lines[1:], 1) if not line.opname.startswith("LOAD_ATTR")), 0)
    return bool(after) and lines[0].opname.startswith("LOAD") and lines[after].opname == "LOAD_CONST"


def codes(functions: Iterable[Any]) -> Iterator[CodeType]:
    """Code of functions, whatever wraps them, of those inside them, and of those of the same file that they call."""
    pending, known = list(functions), set()
    while pending:
        one = pending.pop()
        if id(one) in known:
            continue
        known.add(id(one))
        if isinstance(one, CodeType):
            yield one
            pending += one.co_consts
        elif isinstance(one, FunctionType):
            pending += [one.__code__, getattr(one, "__wrapped__", None), *_called(one)]
            pending += [cell.cell_contents for cell in one.__closure__ or () if _is_filled(cell)]
        elif isinstance(one, MethodType | staticmethod | classmethod | property | partial):
            pending += [getattr(one, key, None) for key in ("__func__", "fget", "func")]


def _called(function: FunctionType) -> Iterator[FunctionType]:
    for name in function.__code__.co_names:
        other = function.__globals__.get(name)
        if isinstance(other, FunctionType) and other.__globals__ is function.__globals__:
            yield other


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # of a function that is defined further down
        return False
