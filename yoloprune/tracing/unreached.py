"""What no example reached, layers and loose tensors: what of it might run all the same, and in whose code."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set

from torch import nn

from yoloprune.probing.code_names import codes, read, run_names
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
        elif isinstance(module, layers):  # one that handed its input on may use its weight another time
            found += [f"{name}.weight"] if "weight" in weights and id(weights["weight"]) not in seen else []
        else:
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
    ran, found, run = set(entered), {}, run_names(model)
    for name in unreached:
        holder, child = name.rpartition(".")[0], name.rpartition(".")[2]
        while holder and holder not in ran:
            holder, _, child = holder.rpartition(".")
        if holder not in found and _speaks_of(model.get_submodule(holder), child, run):
            found[holder] = name
    return found


def _speaks_of(module: nn.Module, child: str, run: Set[str]) -> bool:
    """Whether the code of a module's class that a pass may run names a child, or may reach any."""
    own = [f for key, f in vars(module).items() if not key.startswith("_")]
    classes = [c for c in type(module).__mro__ if c is not nn.Module]
    own += [f for c in classes for key, f in vars(c).items() if key in run]
    names = {name for code in codes(own) for name in read(code)}
    return child in names or not GENERIC.isdisjoint(names) or child.isdigit()
