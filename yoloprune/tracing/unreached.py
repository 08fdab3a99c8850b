"""What no example reached, layers and loose tensors: what of it might run all the same, and in whose code."""

from __future__ import annotations

import dis
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from yoloprune.torch_internals import CHILDREN

GENERIC = frozenset(
    {"getattr", "vars", "__dict__", CHILDREN, "get_submodule"}
    | {"children", "named_children", "modules", "named_modules"}
)
"""Names in code that may lead to any child."""


def unread(
    modules: Mapping[str, nn.Module], entered: Collection[str], seen: Set[int], layers: tuple[type, ...]
) -> list[str]:
    """Modules with weights that did not run, and loose tensors of those that did; none of which anything else read.

    Args:
        modules (Mapping): All modules, by dotted name.
        entered (Collection[str]): Those that ran.
        seen (Set[int]): Identities of the tensors that operations read.
        layers (tuple[type, ...]): Modules whose tensors are no loose ones.

    Returns:
        (list[str]): Dotted names.
    """
    found = []
    for name, module in modules.items():
        weights, buffers = dict(module.named_parameters(recurse=False)), dict(module.named_buffers(recurse=False))
        if isinstance(module, (nn.Embedding, nn.ParameterList, nn.ParameterDict)):  # not fed with channels
            continue
        if name not in entered:
            found += [name] if weights and seen.isdisjoint(map(id, weights.values())) else []
        elif not isinstance(module, layers):
            loose = {key: tensor for key, tensor in (weights | buffers).items() if tensor.numel() > 1}
            found += [f"{name}.{key}".lstrip(".") for key, tensor in loose.items() if id(tensor) not in seen]
    return found


def holders(model: nn.Module, unreached: Iterable[str], entered: Iterable[str]) -> dict[str, str]:
    """From the modules whose code might run an unreached one to the name of that.

    A module is run by the innermost one around it that ran, if that one's class speaks of it at all: a layer that is
    only made in `__init__` is dead weight. Code outside the network sees its outputs, and nothing else of it.

    Args:
        model (nn.Module): The network.
        unreached (Iterable[str]): From `unread`.
        entered (Iterable[str]): Modules that did.
    """
    ran, found, run = set(entered), {}, _run_names(model)
    for name in unreached:
        holder, child = name.rpartition(".")[0], name.rpartition(".")[2]
        while holder and holder not in ran:
            holder, _, child = holder.rpartition(".")
        if holder not in found and _speaks_of(model.get_submodule(holder), child, run):
            found[holder] = name
    return found


def _run_names(model: nn.Module) -> set[str]:
    """Names that a pass may ask for: those in `forward`, and in whatever of the network's classes is asked for there.

    What only somebody else calls (`fuse`, `export`) is not among them.
    """
    classes = {c for module in model.modules() for c in type(module).__mro__ if c is not nn.Module}
    given = [f for module in model.modules() for key, f in vars(module).items() if not key.startswith("_")]
    methods: dict[str, list[Any]] = {}
    for key, f in (pair for c in classes for pair in vars(c).items()):
        methods.setdefault(key, []).append(f)
    run = {name for code in _codes(given) for name in _read(code)} | {"forward"} | set(filter(_is_special, methods))
    pending = list(run)
    while pending:
        new = {name for code in _codes(methods.get(pending.pop(), ())) for name in _read(code)} - run
        run |= new
        pending += new
    return run


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and name != "__init__"


def _speaks_of(module: nn.Module, child: str, run: Set[str]) -> bool:
    """Whether the code of a module's class that a pass may run names a child, or may reach any."""
    own = [f for key, f in vars(module).items() if not key.startswith("_")]
    classes = [c for c in type(module).__mro__ if c is not nn.Module]
    own += [f for c in classes for key, f in vars(c).items() if key in run]
    names = {name for code in _codes(own) for name in _read(code)}
    return child in names or not GENERIC.isdisjoint(names) or child.isdigit()


def _read(code: CodeType) -> Iterator[str]:
    """Names and words that code reads; one that it only sets or deletes (`self.branch = None`) runs nothing.

    A `getattr` with a word for its name reads that word, and not any name.
    """
    yield from (c for c in code.co_consts if isinstance(c, str))
    lines = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "PUSH_NULL", "EXTENDED_ARG")]
    for at, line in enumerate(lines):
        if not line.opname.startswith("LOAD") or not isinstance(line.argval, str):
            continue
        if line.argval == "getattr" and _is_word_asked_for(lines[at + 1 :]):
            continue
        yield line.argval


def _is_word_asked_for(lines: list[dis.Instruction]) -> bool:
    """Whether an object's name, attributes of it and a constant come next."""
    after = next((k for k, line in enumerate(lines[1:], 1) if not line.opname.startswith("LOAD_ATTR")), 0)
    return bool(after) and lines[0].opname.startswith("LOAD") and lines[after].opname == "LOAD_CONST"


def _codes(functions: Iterable[Any]) -> Iterator[CodeType]:
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
