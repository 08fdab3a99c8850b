"""Dials of a layer: which argument of a row sets which widths, found by doubling it, and how to set them.

Constructors are asked, never read: every numeric argument is doubled on its own, and what doubles with it follows it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from yoloprune.backend import model_builder
from yoloprune.native import yaml_rows
from yoloprune.native.yaml_rows import Row

Shape = dict[str, Any]
"""Everything that must agree between two layers: classes, tensor shapes, and widths kept as numbers, by name."""
Widths = dict[str, int]
"""Output width of every module that has one, by its name within the layer."""


@dataclass(frozen=True)
class Dial:
    """One argument of a row that sets widths.

    Attributes:
        at (int): Position among the row's arguments.
        governs (frozenset[str]): Modules, named within the layer, whose width follows it.
        base (int | None): Position of the argument whose widths a fraction is taken of, e.g. `c2` for the `e` of a C2f.
        witness (str): The one of `governs` whose width stands for all.
        width (int): Its full width.
        joint (bool): Whether the constructor insists that the input is changed alike.
    """

    at: int
    governs: frozenset[str]
    base: int | None
    witness: str
    width: int
    joint: bool


@dataclass
class Layer:
    """One row with what trying found out about it.

    Attributes:
        row (Row): The row, spelled out: it builds the layer without the model's scale.
        dials (list[Dial]): Its arguments that set widths, the outermost first.
        follows (frozenset[str]): Modules whose width follows the input's.
        own (dict[str, set[int]]): Channel groups by the module, named within the layer, whose output they are.
        reaching (set[int]): Channel groups that the layer reads.
        axes (list[int]): Axes of the graph that lie in the layer.
        full (Widths): What the row builds.
    """

    row: Row
    dials: list[Dial] = field(default_factory=list)
    follows: frozenset[str] = frozenset()
    own: dict[str, set[int]] = field(default_factory=dict)
    reaching: set[int] = field(default_factory=set)
    axes: list[int] = field(default_factory=list)
    full: Widths = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """Dotted name in the model."""
        return f"model.{self.row.at}"


def find(layer: Layer, inputs: list[int], config: Mapping[str, Any]) -> Layer:
    """Double every numeric argument, and the input, and see which widths double.

    A C2f of 32 channels has hidden ones, int(c2 * e) of them. Doubling `c2` doubles all widths, doubling `e` the hidden
    ones alone: those are what `e` governs, the rest is what `c2` governs, and `c2` is the base of `e`.
    """

    def moved(row: Row, widths: list[int]) -> frozenset[str] | None:
        built = yaml_rows.build(row, widths, config)
        if built is None or (now := widths_of(built)).keys() != full.keys():
            return None
        return frozenset(name for name, width in now.items() if width == 2 * full[name])

    row, twice = layer.row, [2 * n for n in inputs]
    whole = yaml_rows.build(row, inputs, config)
    assert whole is not None, "the row has built its layer before"
    full, chained = widths_of(whole), row.repeats > 1 and type(whole) is nn.Sequential
    moves: dict[int, frozenset[str]] = {}
    joint = set()
    for at in row.numbers():
        changed = row.having(at, 2 * row.value(at))
        if (names := moved(changed, inputs)) is None and (names := moved(changed, twice)):
            joint.add(at)  # C2PSA and others insist on as many outputs as inputs
        if names:
            moves[at] = names
    order = sorted(moves, key=lambda at: (-len(moves[at]), at))
    dials = []
    for at in order:
        governs = moves[at].difference(*(moves[inner] for inner in order if moves[inner] < moves[at]))
        outer = [o for o in order if moves[o] > moves[at]]
        if governs:
            witness, base = min(governs), outer[-1] if outer else None
            # Copies of a layer in a row are all built for the same input, which the first of them hands to the second.
            fixed = at in joint or (chained and base is None)
            dials.append(Dial(at, governs, base, witness, full[witness], fixed))
    return replace(layer, dials=dials, follows=moved(row, twice) or frozenset(), full=full)


STEP = 8
"""Ultralytics rounds widths to multiples of this; what one argument sets is never further apart than that."""


def is_thinkable(layer: Layer, wanted: Widths) -> bool:
    """Whether the widths that each argument governs are narrowed alike; if not, no row needs to be built to know."""
    for dial in layer.dials:
        ratio = wanted[dial.witness] / dial.width
        if any(abs(wanted[name] - ratio * layer.full[name]) >= STEP for name in dial.governs):
            return False
    return True


def settings(layer: Layer, wanted: Widths) -> Iterator[Row]:
    """Rows whose dials stand where the wanted widths need them.

    Constructors round down: a fraction of 0.5 with 31 channels behind it may be of 62 or of 63, and to get 24 of 63
    channels one asks for anything from 24/63 to 25/63. So several fractions are tried, the silent one and the exact
    one first; six digits are enough for widths below ten thousand.
    """
    ratio: dict[int | None, float] = {None: 1.0}
    options: list[list[Any]] = []
    for dial in layer.dials:
        target, value = wanted[dial.witness], layer.row.value(dial.at)
        ratio[dial.at] = target / dial.width
        if isinstance(value, int):
            options.append([value * target // dial.width])
        else:
            bases = [(dial.width + more) / value * ratio[dial.base] for more in (0, 0.5)]
            fractions = [(target + more) / base for base in bases for more in (0, 0.5)]
            same = [value] if ratio[dial.at] == ratio[dial.base] else []
            options.append(list(dict.fromkeys([*same, *(round(f, 6) for f in fractions)])))
    plain = layer.row
    switches = [at for at in range(len(plain.parameters)) if plain.value(at) is True]
    # A shortcut that the parent lacks, because input and output differ, must not appear once they are as wide.
    for start in (plain, *(plain.having(at, False) for at in switches)):
        for values in itertools.product(*options):
            row = start
            for dial, value in zip(layer.dials, values, strict=True):
                row = row.having(dial.at, value)
            yield row


def widths_of(layer: nn.Module) -> Widths:
    """How many channels each module in a layer puts out, of those that say so."""
    names = ("out_channels", "out_features", "num_features")
    return {n: getattr(m, a) for n, m in layer.named_modules() for a in names if isinstance(getattr(m, a, None), int)}


def shape_of(layer: nn.Module) -> Shape:
    """What tells a layer from others in which something else is built; numbers of its weights have no part in it."""
    shape: Shape = {name: tuple(t.shape) for name, t in layer.state_dict().items()}
    for name, module in layer.named_modules(remove_duplicate=False):  # one activation may serve several layers, or not
        shape[f"{name}()"] = type(module).__name__, getattr(module, "add", None)  # which asks for equal widths
        shape[f"{name}#"] = model_builder.numbers(module)
    return shape
