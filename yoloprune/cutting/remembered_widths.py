"""Numbers in which modules remember the widths of their layers, and which a forward pass may not even read.

A block that is re-parameterised later keeps its `in_channels`. Whatever a pass does read as a width holds its channels,
or belongs to a block that `width_attributes` knows; what it does not read cannot change what the network computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from yoloprune.probing.code_names import attributes_read
from yoloprune.torch_internals import BatchNorm, ConvNd

LAYERS = (ConvNd, nn.Linear, BatchNorm)
WIDTHS = ("in_channels", "out_channels", "in_features", "out_features", "num_features")
NAMED = re.compile(
    r"channel|feature|plane|width|filter|hidden|embed|units|dims?$|^(c|ch)\d*_?$|^c_|_(c|ch)$|^(inp|oup)$"
)
INPUTS, OUTPUTS = re.compile(r"^_?(in|inp|input|c1|c_in)(_|\d|$)"), re.compile(r"^_?(out|oup|output|c2|c_out)(_|\d|$)")


@dataclass(frozen=True)
class Remembered:
    """A number that agrees with the widths of a module's own layers.

    Attributes:
        name (str): Dotted name of the attribute.
        module (nn.Module): Whose it is.
        key (str): Its name in the module.
        value (int): What it is.
        agrees (tuple): The layers and the attributes of theirs that are the same.
    """

    name: str
    module: nn.Module
    key: str
    value: int
    agrees: tuple[tuple[nn.Module, str], ...]

    @property
    def now(self) -> set[int]:
        """What the layers say."""
        return {getattr(layer, key) for layer, key in self.agrees}


def remembered(model: nn.Module) -> list[Remembered]:
    """All such numbers of a network."""
    return [
        one for name, module in model.named_modules() if not isinstance(module, LAYERS) for one in _of(name, module)
    ]


def _of(name: str, module: nn.Module) -> Iterator[Remembered]:
    for key, value in vars(module).items():
        if type(value) is not int or value < 2 or not NAMED.search(key):
            continue
        agrees = _agreeing(list(module.children()), key, value) or _agreeing(list(module.modules()), key, value)
        if agrees:
            yield Remembered(f"{name}.{key}".lstrip("."), module, key, value, tuple(agrees))


def _agreeing(modules: list[nn.Module], key: str, value: int) -> list[tuple[nn.Module, str]]:
    """Widths of some layers that are the number, of the side that its name speaks of."""
    skipped = "out_" if INPUTS.search(key) else "in_" if OUTPUTS.search(key) else "none"
    layers = [module for module in modules if isinstance(module, LAYERS)]
    widths = [width for width in WIDTHS if not width.startswith(skipped)]
    return [(layer, width) for layer in layers for width in widths if getattr(layer, width, None) == value]


def correct(model: nn.Module, before: list[Remembered]) -> None:
    """Set right, after a cut, what no forward pass reads and the layers agree on.

    Args:
        model (nn.Module): The cut network.
        before (list[Remembered]): From `remembered`, of the same network before it was cut.
    """
    changed = [one for one in before if getattr(one.module, one.key) == one.value and one.now != {one.value}]
    read = attributes_read(model) if changed else set()
    for one in changed:
        if one.key not in read and len(one.now) == 1:
            setattr(one.module, one.key, one.now.pop())


def stale(parent: nn.Module, model: nn.Module) -> list[str]:
    """Names of the numbers that agreed with layers of the parent, and agree with none of the cut network's."""
    modules = dict(model.named_modules())
    names = {layer: name for name, layer in parent.named_modules()}
    found = []
    for one in remembered(parent):
        left = [(modules[names[layer]], key) for layer, key in one.agrees if names[layer] in modules]
        now = {getattr(layer, key, None) for layer, key in left}  # a branch that was removed tells no width
        if getattr(modules.get(names[one.module]), one.key, None) == one.value and one.value not in now:
            found.append(one.name)
    return found
