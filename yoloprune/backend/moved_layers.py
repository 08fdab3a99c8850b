"""Where the layers of a parent are in a model that was pruned from it, some of whose blocks became several rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from fnmatch import fnmatchcase

from torch import nn

from yoloprune.backend.yaml_markers import LAYERS, entry_of
from yoloprune.planning.layer_names import PIECE, LayerNames


def table_of(model: nn.Module) -> dict[str, list[str]]:
    """New names of the parent's modules by their old ones, none of a branch that is gone; empty where all are where
    they were.
    """
    return (entry_of(model) or {}).get(LAYERS) or {}


def names_of(model: nn.Module) -> LayerNames:
    """What is printed of a model's modules, and what keys call them by: the names of the model first pruned."""
    return names(table_of(model))


def names(table: Mapping[str, list[str]]) -> LayerNames:
    """The same of a table: a row goes by the innermost module of the parent that it stands for.

    Where one layer became several rows each is a piece of it, by number; a concat, which no module does in the parent,
    has the name of its block.
    """
    inner: dict[str, str] = {}
    for old, places in sorted(table.items(), key=lambda pair: pair[0].count(".")):
        inner.update(dict.fromkeys(places, old))
    rows = {row: old for row, old in inner.items() if row != old}
    for old, places in table.items():
        if len(places) > 1 and all(inner[row] == old for row in places):
            rows |= {row: f"{old}{PIECE}{number}" for number, row in enumerate(places, start=1)}
    return LayerNames(rows, tuple(old for old, places in table.items() if not places))


def count(table: Mapping[str, list[str]]) -> int:
    """How many layers the parent had; 0 where all are where they were."""
    return max((int(old.split(".")[1]) + 1 for old in table), default=0)


def layers(table: Mapping[str, list[str]]) -> dict[int, list[int]]:
    """The same by numbers of layers, those that became several or moved; in the parent's order."""
    found: dict[int, set[int]] = {}
    for old, places in table.items():
        found.setdefault(int(old.split(".")[1]), set()).update(int(new.split(".")[1]) for new in places)
    return {old: sorted(new) for old, new in sorted(found.items()) if [old] != sorted(new)}


def moved(names: Iterable[str], table: Mapping[str, list[str]]) -> list[str]:
    """Names or patterns of an unrolled model's modules for those of its parent's, e.g. `model.4.cv1`.

    Args:
        names (Iterable[str]): Dotted names or shell patterns; what names none of the parent's layers stays.
        table (Mapping): From `Described.modules`.
    """
    found: list[str] = []
    for name in names:
        if hits := [places for old, places in table.items() if fnmatchcase(old, name)]:
            found += [new for places in hits for new in places]
            continue
        head = next((old for old in sorted(table, key=len, reverse=True) if name.startswith(f"{old}.")), None)
        found += [name] if head is None else [new + name[len(head) :] for new in table[head]]
    return list(dict.fromkeys(found))


def joined(first: Mapping[str, list[str]], second: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Where modules went in two prunings in a row."""
    if not first or not second:
        return deepcopy(dict(first or second))
    found = {name: moved(places, second) for name, places in first.items()}
    for name, places in first.items():  # of what went to one place, the parts may go apart, or be gone, by the second
        for part, new in second.items() if len(places) == 1 else ():
            if part.startswith(f"{places[0]}."):
                found.setdefault(name + part[len(places[0]) :], new)
    return found


def frozen_layers(layers: Iterable[int | str], table: Mapping[str, list[str]]) -> list[int | str]:
    """Layers by number and modules by name, such as "4.cv1", of an unrolled model for those of its parent."""
    found: list[int | str] = []
    pieces = {called: [row] for row, called in names(table).rows.items()}
    for layer in layers:
        places = moved([f"model.{layer}"], {**pieces, **table})
        found += [int(p.split(".")[1]) if isinstance(layer, int) else p.removeprefix("model.") for p in places]
    return list(dict.fromkeys(found))
