"""Whole numbers that modules keep, by themselves or in a list: `self.dim`, `self.dims[2]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

LEAST = 2
"""Smaller numbers count nothing that could become fewer."""


@dataclass(frozen=True)
class KeptNumber:
    """A number that a module keeps.

    Attributes:
        name (str): Dotted name, with the place in a list as its last part: "model.3.dim", "model.3.dims.2".
        module (nn.Module): Whose it is.
        key (str): Name of the attribute.
        index (int | None): Place in it, None where it is the number itself.
        value (int): What it is.
    """

    name: str
    module: nn.Module
    key: str
    index: int | None
    value: int

    def set(self, value: int) -> None:
        """Put another number in its place; of a tuple or a list all others stay."""
        held = vars(self.module)
        if self.index is None:
            held[self.key] = value
        else:
            old = held[self.key]
            held[self.key] = type(old)([*old[: self.index], value, *old[self.index + 1 :]])


def kept_numbers(modules: Mapping[str, nn.Module]) -> list[KeptNumber]:
    """All such numbers; torch's own layers keep none but instance normalisation, whose width a pass asks for."""
    found = []
    for name, module in modules.items():
        if isinstance(module, torch.jit.ScriptModule) or not _tells(module):
            continue
        for key, value in vars(module).items():
            if key.startswith("_"):
                continue
            for index, number in _numbers(value):
                path = ".".join(filter(None, (name, key, "" if index is None else str(index))))
                found.append(KeptNumber(path, module, key, index, number))
    return found


def _tells(module: nn.Module) -> bool:
    return isinstance(module, INSTANCE_NORMS) or not type(module).__module__.startswith("torch.nn.")


def named(modules: Mapping[str, nn.Module], name: str) -> KeptNumber | None:
    """The number of this name, None where there is none."""
    path, index = name, None
    if path.rpartition(".")[2].isdecimal():
        path, _, place = name.rpartition(".")
        index = int(place)
    owner, _, key = path.rpartition(".")
    module = modules.get(owner)
    if module is None:
        return None
    value = dict(_numbers(vars(module).get(key), least=0)).get(index)
    return None if value is None else KeptNumber(name, module, key, index, value)


def _numbers(value: Any, least: int = LEAST) -> list[tuple[int | None, int]]:
    if type(value) is int:
        return [(None, value)] if value >= least else []
    if type(value) in (list, tuple):
        return [(i, n) for i, n in enumerate(value) if type(n) is int and n >= least]
    return []
