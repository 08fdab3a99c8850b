"""The rows of a model's YAML, spelled out: what each builds, and which row builds what a cut leaves of it."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from yoloprune.backend import model_builder, model_facts, own_network, yaml_markers
from yoloprune.backend.model_facts import network
from yoloprune.cutting import surgery
from yoloprune.errors import ModelError, raised_by
from yoloprune.native import attention_heads, width_arguments, yaml_rows
from yoloprune.native.width_arguments import Layer, Shape
from yoloprune.native.yaml_rows import Row
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.layer_names import LayerNames
from yoloprune.planning.plan import Plan
from yoloprune.torch_internals import is_out_of_memory


class SpelledLayers:
    """The layers of one model and the rows that build them.

    Attributes:
        graph (ChannelGraph): Its channels, with the attention heads of which whole ones may go.
        yaml (dict[str, Any]): Its YAML.
        heads (dict[int, Heads]): By axis, the groups of each attention head.
        carried (frozenset[str]): Children of the head that loading takes over from the weights, whatever the row
            builds: Ultralytics does so with a class branch, whose width depends on the classes it was first trained
            for. Known as soon as one differs.
        full (np.ndarray): Width of every group in the parent, shape (groups,).
        layers (list[Layer]): One per row.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph) -> None:
        """Find out which argument sets which widths.

        Args:
            model (nn.Module): An Ultralytics model.
            graph (ChannelGraph): Its channels, from `trace_yolo`.

        Raises:
            ModelError: If a layer of the model is not what its row in the YAML builds.
        """
        if model_facts.is_prompted(model):
            raise ModelError(
                "the trainers of YOLO-World and YOLOE build the full network from the name of its file, whatever the "
                "YAML in the checkpoint says (native=True is not possible)"
            )
        yaml = network(model).yaml
        if yaml.get("yoloprune", {}).get("widths"):
            raise ModelError("the model was pruned to free widths before (native=True is possible for its parent only)")
        if (why := own_network.difference(model)) is not None:
            raise ModelError(f"the network is not what its own YAML says, {why} (native=True is not possible)")
        self.graph, self.yaml = graph, yaml_markers.cleared(yaml)
        self.image = model_facts.channels(model)
        bones = deepcopy(model).to("meta")  # shapes without numbers
        self._network: Any = network(bones)
        self.carried: frozenset[str] = frozenset()
        self.heads = attention_heads.find(bones, graph)
        self.graph = replace(graph, heads={i: len(found) for i, found in self.heads.items()})
        self._bones = {f"model.{i}": pickle.dumps(layer) for i, layer in enumerate(network(bones).model)}
        self._last = len(self._bones) - 1
        self.full = np.array([g.size for g in graph.groups], dtype=np.float64)
        self._read = {
            axis.module: np.bincount(graph.group_of[classes], minlength=len(graph.groups)) / self.full
            for axis, classes in zip(graph.axes, graph.class_of, strict=True)
            if axis.side == "count"
        }
        self.layers = [self._layer(row) for row in yaml_rows.read(self.yaml)]

    def said(self, layer: Layer, alive: np.ndarray, widths: np.ndarray) -> Row | None:
        """The row with which stock Ultralytics builds the layer that a cut leaves, None if there is none."""
        if not layer.own:
            return layer.row  # without widths of its own
        wanted = self.left_of(layer, alive)
        shape, own = width_arguments.shape_of(wanted), width_arguments.widths_of(wanted)
        gone = layer.full and own.keys() != layer.full.keys()  # a branch, without which no row of its own builds it
        if gone or not width_arguments.is_thinkable(layer, own):
            return None
        inputs, hands_on = self.inputs(layer.row, widths), self._handed_on(layer.row, widths)
        for row in width_arguments.settings(layer, own):
            built = yaml_rows.build(row, inputs, self.yaml, hands_on)
            if built is None:
                continue
            differ = _differing(width_arguments.shape_of(built), shape)
            if not differ or (layer.row.at == self._last and self._takes_over(built, wanted, differ)):
                return row
        return None

    def is_carried(self, row: Row, alive: np.ndarray, widths: np.ndarray) -> bool:
        """Whether the row of a head builds another one than a cut leaves, which loading makes the same."""
        head = self.layers[-1]
        built = yaml_rows.build(row, self.inputs(head.row, widths), self.yaml)
        wanted = width_arguments.shape_of(self.left_of(head, alive))
        return built is not None and bool(_differing(width_arguments.shape_of(built), wanted))

    def _takes_over(self, built: nn.Module, wanted: nn.Module, differ: frozenset[str]) -> bool:
        """Whether loading the wanted head makes the built one the same in the children in which they differ."""
        if not differ <= self.carried:
            try:
                made = model_builder.loaded(self._network, built, wanted)
            except Exception as e:  # a head that is put together otherwise has nothing that it looks for
                if is_out_of_memory(e) or raised_by(e) != "ultralytics":
                    raise
                return False
            if _differing(width_arguments.shape_of(made), width_arguments.shape_of(wanted)):
                return False
            self.carried |= differ
        return True

    def left_of(self, layer: Layer, alive: np.ndarray) -> nn.Module:
        """What a cut leaves of a layer, shapes without numbers."""
        kept = self.graph.kept(alive, layer.axes)
        inside = {f"layer{name.removeprefix(layer.prefix)}": keep for name, keep in kept.items()}
        return surgery.cut(nn.ModuleDict({"layer": self.bone(layer)}), Plan(inside))["layer"]

    def bone(self, layer: Layer) -> nn.Module:
        """A layer of the parent, shapes without numbers."""
        bone: nn.Module = pickle.loads(self._bones[layer.prefix])  # ten times as fast as deepcopy
        return bone

    def _layer(self, row: Row) -> Layer:
        """Spell a row out and find its dials.

        Raises:
            ModelError: If what reaches it is not known, or no spelling builds the layer of the model.
        """
        prefix = f"model.{row.at}"
        axes = [
            i for i, a in enumerate(self.graph.axes) if a.side != "count" and f"{a.module}.".startswith(f"{prefix}.")
        ]
        layer = Layer(row, own=self._made(axes, prefix), reaching=self._reaching(row), axes=axes)
        if not layer.own:
            return layer
        inputs, wanted = self.inputs(row, self.full), width_arguments.shape_of(self.bone(layer))
        if not all(inputs):
            called = self.graph.names.of(prefix)
            raise ModelError(f"what reaches {called} ({row.name}) could not be followed (native=True is not possible)")
        head = row.at == self._last  # whose own widths stay
        for spelled in yaml_rows.spellings(row, self.yaml):
            built = yaml_rows.build(spelled, inputs, self.yaml, self._handed_on(row, self.full))
            if built is None:
                continue
            differ = _differing(width_arguments.shape_of(built), wanted)
            if not differ and not head:
                return width_arguments.find(replace(layer, row=spelled), inputs, self.yaml)
            if not differ or (head and self._takes_over(built, self.bone(layer), differ)):
                return replace(layer, row=spelled)
        raise _unsaid(layer, self.graph.names)

    def inputs(self, row: Row, widths: np.ndarray) -> list[int]:
        """Width of every input of a row at the given group widths; 0 where it is not one tensor."""
        read = [self._read.get(f"model.{source}") for source in row.sources]
        return [
            self.image if source < 0 else 0 if occurrence is None else round(float(occurrence @ widths))
            for source, occurrence in zip(row.sources, read, strict=True)
        ]

    def _handed_on(self, row: Row, widths: np.ndarray) -> int | None:
        """Width that a row hands on, None where that is not one tensor, or to no row."""
        occurrence = self._read.get(f"model.{row.at}") if row.at < self._last else None
        return None if occurrence is None else round(float(occurrence @ widths))

    def _reaching(self, row: Row) -> set[int]:
        read = [self._read.get(f"model.{source}") for source in row.sources]
        return {int(g) for occurrence in read if occurrence is not None for g in np.flatnonzero(occurrence)}

    def _made(self, axes: list[int], prefix: str) -> dict[str, set[int]]:
        made = [i for i in axes if self.graph.axes[i].side == "outputs"]
        names = [self.graph.axes[i].module.removeprefix(prefix).lstrip(".") for i in made]
        groups = [self.graph.group_of[self.graph.class_of[i]] for i in made]
        return {name: {int(g) for g in np.unique(found)} for name, found in zip(names, groups, strict=True)}


def _differing(first: Shape, second: Shape) -> frozenset[str]:
    """Children in which two builds of a layer differ."""
    return frozenset(k.partition(".")[0] for k in {*first, *second} if first.get(k) != second.get(k))


def _unsaid(layer: Layer, names: LayerNames) -> ModelError:
    return ModelError(
        f"{names.of(layer.prefix)} ({layer.row.name}) is not what its row in the model YAML builds (native=True is not "
        "possible)"
    )
