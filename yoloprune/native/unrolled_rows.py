"""A block whose widths no row of its own can say, as several rows that compute the same.

A C2f is two `Conv` (its chunk), a `Bottleneck` each, `Concat` and `Conv`: whatever Ultralytics' parser builds from a
row may stand for a child of the block, and what lies between them is a concat or a split of a convolution's channels.
No block is known here by name: it is watched while it runs, and every row is built and compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from yoloprune.backend import model_builder
from yoloprune.cutting import surgery
from yoloprune.native import block_calls, input_sums, output_pieces, width_arguments, yaml_rows
from yoloprune.native.block_calls import Calls, Step
from yoloprune.native.input_sums import Sums
from yoloprune.native.yaml_rows import Row
from yoloprune.planning.plan import REMOVED, Plan

INPUT = 0
"""Number of the value that a block takes."""


@dataclass(frozen=True)
class Part:
    """One of the rows that stand for a block.

    Attributes:
        row (Row): Class, repeats and arguments; its place and its sources are open.
        takes (tuple[int, ...]): Values that it reads, by number; 0 is the block's input.
        gives (int): Value that it makes.
        child (str): Module of the block that it stands for, empty for a concat.
        piece (tuple[int, int] | None): Which of that module's output channels, None for all.
        sums (Sums): Where its inputs are added up.
    """

    row: Row
    takes: tuple[int, ...]
    gives: int
    child: str = ""
    piece: tuple[int, int] | None = None
    sums: Sums = None


Told = Mapping[str, Mapping[str, Any]]
"""What the modules of a block were constructed with in the parent, by their names."""


class Unroller:
    """Finds rows for the blocks of one model.

    Args:
        config (Mapping): Its model YAML.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self._rows: dict[str, Row | None] = {}
        self._layers: dict[str, width_arguments.Layer] = {}

    def told(self, row: Row, inputs: Sequence[int]) -> Told | None:
        """What Ultralytics constructs the modules of a row with, None if it cannot build it."""
        with block_calls.constructors() as all_told:
            built = yaml_rows.build(row, inputs, self.config)
        return None if built is None else {n: all_told[m] for n, m in built.named_modules() if m in all_told}

    def parts(
        self, told: Told, full: nn.Module, cut: nn.Module, inputs: tuple[int, int]
    ) -> tuple[list[Part], int] | None:
        """Rows that stand for a cut block.

        Args:
            told (Told): From `told`.
            full (nn.Module): The parent's block, shapes without numbers.
            cut (nn.Module): What the cut leaves of it, shapes without numbers; where a branch was removed, a module
                that hands on its input, for which there is no row.
            inputs (tuple[int, int]): Width of its input, in the parent and now.

        Returns:
            (tuple[list[Part], int] | None): The rows in order, and the value that comes out; None if there are none.
        """
        whole, full = full, _without_removed(full, cut)
        before = block_calls.watch(deepcopy(full), inputs[0])
        after = before if full is cut and inputs[0] == inputs[1] else block_calls.watch(deepcopy(cut), inputs[1])
        if before is None or after is None or before.steps != after.steps:
            return None
        found: list[Part] = []
        count = len(after.widths)  # numbers of values that rows within a child make
        summed: dict[int, tuple[int, ...]] = {}  # by value that a concat with equal pieces makes
        for step in after.steps:
            if step.kind == "split":
                continue
            if step.kind == "concat":
                takes = step.takes
                if full is not whole and (sums := input_sums.of(step, after, cut)) is not None:
                    takes, summed[step.gives[0]] = tuple(dict.fromkeys(takes)), sums
                found.append(Part(Row(0, (), True, 1, "Concat", (1,)), takes, step.gives[0]))
                continue
            sums = summed.get(step.takes[0])
            made = self._called(step, told, full, cut, (before, after), count, sums)
            if made is None or (_has_weights(cut, step.child) and _uses(after, step.child) > 1):
                return None
            found += made
            count = max(count, *(p.gives + 1 for p in made))
        return found, after.result

    def _called(
        self,
        step: Step,
        told: Told,
        full: nn.Module,
        cut: nn.Module,
        calls: tuple[Calls, Calls],
        count: int,
        sums: Sums,
    ) -> list[Part] | None:
        """Rows for one call of a child: one, one per piece where its channels are split, or those within it."""
        before, after = calls
        (taken,), (given,) = step.takes, step.gives
        inputs = before.widths[taken], after.widths[taken]
        child, whole = cut.get_submodule(step.child), full.get_submodule(step.child)
        if sums is not None:
            child, inputs = input_sums.summed(child, sums), (inputs[0], max(sums) + 1)
        splits = [s for s in after.steps if s.kind == "split" and s.takes == (given,)]
        if splits:
            readers = [s for s in after.steps if given in s.takes]
            if len(splits) > 1 or len(readers) > 1 or given == after.result:
                return None
            pieces, start = [], 0
            for value in splits[0].gives:
                end = start + after.widths[value]
                piece = output_pieces.piece(child, start, end, after.widths[given])
                row = None if piece is None else self._row(step.child, told, whole, piece, inputs, end - start)
                if row is None:
                    return None
                pieces.append(Part(row, (taken,), value, step.child, (start, end), sums))
                start = end
            return pieces
        row = self._row(step.child, told, whole, child, inputs, after.widths[given])
        if row is not None:
            return [Part(row, (taken,), given, step.child, sums=sums)]
        inner = {n.removeprefix(f"{step.child}."): t for n, t in told.items() if n.startswith(f"{step.child}.")}
        if not any(child.children()) or (made := self.parts(inner, whole, child, inputs)) is None:
            return None
        parts, result = made

        def outer(value: int) -> int:
            return taken if value == INPUT else given if value == result else count + value

        return [
            replace(
                p,
                takes=tuple(map(outer, p.takes)),
                gives=outer(p.gives),
                child=f"{step.child}.{p.child}" if p.child else "",
            )
            for p in parts
        ]

    def _builds(self, row: Row, width: int, shape: width_arguments.Shape) -> bool:
        built = yaml_rows.build(row, [width], self.config)
        return built is not None and width_arguments.shape_of(built) == shape

    def _row(
        self, name: str, told: Told, full: nn.Module, cut: nn.Module, inputs: tuple[int, int], width: int
    ) -> Row | None:
        """The row from which Ultralytics builds a module of this shape, None if there is none."""
        plain = _spelled(full, told.get(name))
        if plain is None:
            return None
        shape = width_arguments.shape_of(full)
        key = json.dumps([plain.name, plain.repeats, plain.arguments, inputs[0], sorted(map(str, shape.items()))])
        if key not in self._rows:
            same = (r for r in _variants(plain) if self._builds(r, inputs[0], shape))
            self._rows[key] = next(same, None)
        if self._rows[key] is None:
            return None
        wanted = width_arguments.shape_of(cut)
        for row in self._candidates(key, full, cut, inputs[0]):
            built = yaml_rows.build(row, [inputs[1]], self.config, width)
            if built is not None and width_arguments.shape_of(built) == wanted:
                return row
        return None

    def _candidates(self, key: str, full: nn.Module, cut: nn.Module, width: int) -> Iterator[Row]:
        """Rows that may build what the cut left: most say it in their numbers, and only else arguments are doubled."""
        row = self._rows[key]
        assert row is not None
        yield _following(row, full, cut)
        if key not in self._layers:
            self._layers[key] = width_arguments.find(width_arguments.Layer(row), [width], self.config)
        yield from width_arguments.settings(self._layers[key], width_arguments.widths_of(cut))


def _without_removed(full: nn.Module, cut: nn.Module) -> nn.Module:
    """The parent's block without the branches that were removed from it."""
    gone = {
        name
        for name, module in cut.named_modules()
        if type(module) is nn.Identity and type(full.get_submodule(name)) is not nn.Identity
    }
    return surgery.cut(deepcopy(full), Plan(dict.fromkeys(gone, REMOVED))) if gone else full


def _variants(row: Row) -> Iterator[Row]:
    """A row, and with a switch turned: Ultralytics turns some after it has constructed a layer."""
    yield row
    for at, value in enumerate(row.arguments):
        if isinstance(value, bool):
            yield row.having(at, not value)


def _following(row: Row, full: nn.Module, cut: nn.Module) -> Row:
    """A row all of whose arguments that are as large as a width become what the cut left of it: a depthwise
    convolution has its width as the number of its groups, too.
    """
    widths = dict(zip(width_arguments.widths_of(full).values(), width_arguments.widths_of(cut).values(), strict=True))
    changed = [widths.get(a, a) if type(a) is int and a > 1 else a for a in row.arguments]
    return replace(row, arguments=tuple(changed))


def _spelled(module: nn.Module, told: Mapping[str, Any] | None) -> Row | None:
    """The row that says what a module was constructed with, None if a YAML cannot."""
    kind = type(module)
    name = f"nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else kind.__name__
    if told is None or not model_builder.is_layer(name, kind):
        return None
    row = Row(0, (), False, told.get("n", 1) if model_builder.takes_repeats(name) else 1, name, ())
    values = [told.get(p.name, p.default) for p in row.parameters]
    while values and values[-1] == row.parameters[len(values) - 1].default:
        del values[-1]
    try:
        arguments = json.loads(json.dumps(values))
    except TypeError:  # a module or a function
        return None
    return replace(row, arguments=tuple(arguments))


def _has_weights(block: nn.Module, child: str) -> bool:
    return any(True for _ in block.get_submodule(child).parameters())


def _uses(calls: Calls, child: str) -> int:
    return sum(step.kind == "call" and step.child == child for step in calls.steps)
