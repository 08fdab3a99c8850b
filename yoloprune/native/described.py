"""A cut model in a stock YAML's words: its rows, what of the model each stands for, and the model made of them."""

from __future__ import annotations

from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

from torch import nn

from yoloprune.backend import model_builder, model_facts
from yoloprune.native import input_sums
from yoloprune.native.input_sums import Sums
from yoloprune.native.output_pieces import piece_of
from yoloprune.probing.residual_modules import ROUTING
from yoloprune.torch_internals import hollow


@dataclass(frozen=True)
class Origin:
    """What a row of the YAML stands for.

    Attributes:
        layer (int): Index of the cut model's layer.
        child (str | None): Module within it; empty for the whole layer, None for a concat that no module does there.
        piece (tuple[int, int] | None): Which of that module's output channels, None for all.
        sums (Sums): Where its inputs are added up, because they are the same without a branch.
    """

    layer: int
    child: str | None = ""
    piece: tuple[int, int] | None = None
    sums: Sums = None


@dataclass(frozen=True)
class Described:
    """A model YAML and where its rows come from.

    Attributes:
        yaml (dict[str, Any]): Stock rows with explicit widths, no scales.
        origins (tuple[Origin, ...]): By row.
        removed (tuple[str, ...]): Modules of the parent that no row stands for: branches that went as a whole.
        carried (bool): Whether the class branch is as wide as it is only because loading takes it over.
    """

    yaml: dict[str, Any]
    origins: tuple[Origin, ...]
    removed: tuple[str, ...] = ()
    carried: bool = False

    @property
    def rearranged(self) -> bool:
        """Whether a row stands for anything else than the layer of its number."""
        return self.origins != tuple(map(Origin, range(len(self.origins))))

    @property
    def unrolled(self) -> dict[int, list[int]]:
        """Layers that became several rows, and which."""
        return {layer: rows for layer, rows in self._rows().items() if len(rows) > 1}

    def modules(self) -> dict[str, list[str]]:
        """Where modules of the cut model went, by dotted name; empty where all are where they were."""
        if not self.rearranged:
            return {}
        found = {f"model.{layer}": [f"model.{row}" for row in rows] for layer, rows in self._rows().items()}
        for row, origin in enumerate(self.origins):
            if origin.child:
                found.setdefault(f"model.{origin.layer}.{origin.child}", []).append(f"model.{row}")
        return {**found, **{name: [] for name in self.removed}}

    def _rows(self) -> dict[int, list[int]]:
        rows: dict[int, list[int]] = {}
        for row, origin in enumerate(self.origins):
            rows.setdefault(origin.layer, []).append(row)
        return rows


def as_described(model: nn.Module, described: Described) -> nn.Module:
    """The cut model in the layers that its YAML describes; the same object where each is where it was.

    Args:
        model (nn.Module): The cut model, stays untouched; modules that are not shared out are shared.
        described (Described): From `Stock.describe`.

    Returns:
        (nn.Module): With `yaml` still the parent's.
    """
    if not described.rearranged:
        return model
    inputs = model_facts.channels(model)
    with hollow():
        fresh, save = model_builder.parse_rows(deepcopy(described.yaml), inputs)
    made: dict[tuple[int, str | None], int] = {}  # outputs of the modules that became pieces
    for origin in described.origins:
        if origin.piece is not None:
            made[origin.layer, origin.child] = max(origin.piece[1], made.get((origin.layer, origin.child), 0))
    layers = []
    for origin, stock in zip(described.origins, fresh, strict=True):
        whole = model_facts.network(model).model[origin.layer]
        module = stock if origin.child is None else whole.get_submodule(origin.child)
        if origin.sums is not None:
            module = input_sums.summed(module, origin.sums)
        if origin.piece is None:
            module = copy(module)
        else:
            module = piece_of(module, origin.piece, made[origin.layer, origin.child])
        for key in ROUTING:
            setattr(module, key, getattr(stock, key))
        module.train(whole.training)
        layers.append(module)
    shell = deepcopy(model, {id(model.model): nn.Sequential()})
    theirs = model_facts.network(shell)
    theirs.model, theirs.save = nn.Sequential(*layers), sorted(save)
    return shell
