"""Rows of a model YAML: read them, spell them out, and let stock Ultralytics build one on its own.

A row is `[from, repeats, layer, arguments]`. Ultralytics multiplies repeats and widths by the model's scale, and hands
the arguments to the layer's constructor after the input width and, where the constructor takes them third, the repeats.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf
from typing import Any

import yaml
from torch import nn

from yoloprune.backend import compat, model_builder
from yoloprune.errors import ModelError
from yoloprune.torch_internals import hollow

HEADER = "# Widths of a model pruned by yoloprune"
NOTE = "; its weights, and a class branch of other width, are in the .pt beside. Keep scale letters out of the name."
SINCE = f"# Loading takes such a branch over from Ultralytics {model_builder.TAKES_OVER} on."
SCALING = ("scale", "scales", "depth_multiple", "width_multiple")
LEGACY_ENDS = frozenset({"C3k2", "A2C2f", "C2fCIB"})
"""Layers in whose company Ultralytics builds the heads of its newer families."""


@dataclass(frozen=True)
class Row:
    """One layer of a model YAML.

    Attributes:
        at (int): Index of the layer.
        sources (tuple[int, ...]): Indices of the layers it reads, -1 for the image.
        listed (bool): Whether the sources are a list in the YAML.
        repeats (int): Repeats, the depth of the scale included.
        name (str): Class name.
        arguments (tuple): Arguments as in the YAML.
    """

    at: int
    sources: tuple[int, ...]
    listed: bool
    repeats: int
    name: str
    arguments: tuple[Any, ...]

    @cached_property
    def parameters(self) -> list[inspect.Parameter]:
        """Constructor parameters that the arguments stand for, in their order."""
        found = list(inspect.signature(model_builder.layer_class(self.name).__init__).parameters.values())[1:]
        if len(found) > 2 and found[2].name == "n":
            del found[2]
        return found[1:] if found and found[0].name == "c1" else found

    def value(self, at: int) -> Any:
        """Argument at a position, the constructor's default where the YAML is silent."""
        return self.arguments[at] if at < len(self.arguments) else self.parameters[at].default

    def having(self, at: int, value: Any) -> Row:
        """The row with another argument; what is silent up to there is spelled out."""
        if at >= len(self.arguments) and value == self.value(at):
            return self
        arguments = [self.value(i) for i in range(max(at + 1, len(self.arguments)))]
        arguments[at] = value
        return replace(self, arguments=tuple(arguments))

    def numbers(self) -> Iterator[int]:
        """Positions of the arguments that are numbers; of those left silent, the fractions."""
        for at, a in enumerate(self.arguments):
            if isinstance(a, (int, float)) and not isinstance(a, bool):
                yield at
        for at in range(len(self.arguments), len(self.parameters)):
            if isinstance(self.parameters[at].default, float):
                yield at

    def to_list(self) -> list[Any]:
        """The row as it stands in a YAML."""
        before = -1 if self.sources[0] == self.at - 1 else self.sources[0]
        return [list(self.sources) if self.listed else before, self.repeats, self.name, list(self.arguments)]


def read(config: Mapping[str, Any]) -> list[Row]:
    """Rows of a model YAML, repeats multiplied by the depth of the scale, arguments as they are.

    Raises:
        ModelError: If a row names no layer.
    """
    depth = _scale(config)[0]
    rows = []
    for at, (sources, repeats, name, arguments) in enumerate([*config["backbone"], *config["head"]]):
        try:
            model_builder.layer_class(name)
        except LookupError:
            raise ModelError(f"row {at} of the model YAML names no layer of Ultralytics: {name}") from None
        listed = isinstance(sources, (list, tuple))
        absolute = tuple(s + at if s < 0 else s for s in (sources if listed else [sources]))
        repeats = max(round(repeats * depth), 1) if repeats > 1 else repeats
        rows.append(Row(at, absolute, listed, repeats, name, tuple(deepcopy(list(arguments)))))
    return rows


def write(config: Mapping[str, Any], rows: Sequence[Row], split: int) -> dict[str, Any]:
    """A model YAML with these rows, the first `split` of them its backbone, and without scales; all else as in
    `config`.
    """
    lists = [row.to_list() for row in rows]
    kept = {k: deepcopy(v) for k, v in config.items() if k not in SCALING}
    return {**kept, "backbone": lists[:split], "head": lists[split:]}


def text(config: Mapping[str, Any]) -> str:
    """A model YAML as one would write it, a line per row."""
    lines = [
        yaml.safe_dump({k: v}, sort_keys=False).strip() for k, v in config.items() if k not in {"backbone", "head"}
    ]
    for part in ("backbone", "head"):
        lines += ["", f"{part}: # from, repeats, layer, arguments"]
        lines += [f"  - {json.dumps(row)}" for row in config[part]]
    return "\n".join([HEADER + NOTE, SINCE, *lines, ""])


def spellings(row: Row, config: Mapping[str, Any]) -> Iterator[Row]:
    """What a row may mean once the scale is gone; which one it is, building it tells.

    Widths are multiplied and capped, those of prototypes as well; larger scales give C3k2 its C3k blocks and A2C2f its
    residual connection and wider perceptron.
    """
    _, width, ceiling = _scale(config)

    def scaled(value: Any) -> int:
        rounded: int = compat.make_divisible(min(value, ceiling) * width, 8)
        return rounded

    for at, value in enumerate(row.arguments):
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            wide = row.having(at, scaled(value))
            yield wide
            yield replace(wide, arguments=(wide.arguments[0], True, *wide.arguments[2:]))
            yield replace(wide, arguments=(*wide.arguments, True, 1.2))
    yield row


def build(row: Row, inputs: Sequence[int], config: Mapping[str, Any], hands_on: int | None = None) -> nn.Module | None:
    """Let Ultralytics build one row on its own, shapes without numbers.

    Args:
        row (Row): The row.
        inputs (Sequence[int]): Widths of its inputs.
        config (Mapping): The model YAML it is from, for what is said outside the rows.
        hands_on (int | None): Width that the row after it must be built for, None where that is not asked.

    Returns:
        (nn.Module | None): The layer, None if the constructor refuses or the next row would get another width.
    """
    if not all(inputs) or row.name == "TorchVision":  # which fetches weights
        return None
    alone = {k: v for k, v in config.items() if k not in {*SCALING, "backbone", "head"}}
    this = [-1, row.repeats, row.name, deepcopy(list(row.arguments))]
    before: list[list[Any]] = []  # layers of the widths that a row with several inputs reads
    after = [] if hands_on is None else [[-1, 1, "Conv", [8]]]  # for rows like nn.Conv2d Ultralytics takes the input's
    if row.listed:
        names = {name for _, _, name, _ in [*config["backbone"], *config["head"]]}
        feeder = "C3k2" if names & LEGACY_ENDS else "Conv"
        before = [[-1, 1, feeder, [width]] for width in inputs]
        this[0] = list(range(len(inputs)))
    try:
        with hollow():
            listed = [*before, this, *after]
            built = model_builder.parse({**alone, "backbone": listed, "head": []}, 8 if row.listed else inputs[0])
    except model_builder.RefusedError:
        return None
    if after and built[-1].get_submodule("conv").in_channels != hands_on:
        return None
    return built[len(before)]


def _scale(config: Mapping[str, Any]) -> tuple[float, float, float]:
    """Depth multiple, width multiple, largest width before multiplication."""
    if scales := config.get("scales"):
        depth, width, ceiling = scales[config.get("scale") or next(iter(scales))]
        return depth, width, ceiling
    return config.get("depth_multiple", 1.0), config.get("width_multiple", 1.0), inf
