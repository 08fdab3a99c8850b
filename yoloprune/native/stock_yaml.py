"""Which widths a stock model YAML can say, found by trying, and the YAML that says them.

A row of a model YAML names a layer and a few arguments; its constructor makes all inner widths from those. So some
widths are tied (both convolutions of a C2f's bottleneck), some follow the layer before (SPPF's hidden width is half its
input), some have no argument at all. None of this is listed here: every numeric argument of a row is doubled on its
own, the widths that double with it are what it governs, and a width may be chosen if stock Ultralytics, asked for it,
builds the very layer that the cut leaves. A plan made under these restrictions needs nothing but Ultralytics to train.
"""

from __future__ import annotations

import itertools
import pickle
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from yoloprune.backend import model_builder, model_facts, yaml_markers
from yoloprune.backend.progress_bar import Wait
from yoloprune.cutting import surgery
from yoloprune.errors import ModelError, PlanError
from yoloprune.native import attention_heads, width_arguments, yaml_rows
from yoloprune.planning import disjoint_sets, steps
from yoloprune.planning.channel_graph import ChannelGraph, Tie
from yoloprune.planning.plan import Plan
from yoloprune.settings.budget import Limits


class Stock:
    """What stock Ultralytics can build in place of the layers of one model."""

    def __init__(self, model: nn.Module, graph: ChannelGraph) -> None:
        """Find out which argument sets which widths.

        Args:
            model (nn.Module): An Ultralytics model.
            graph (ChannelGraph): Its channels, from `host.trace_yolo`.

        Raises:
            ModelError: If a layer of the model is not what its row in the YAML builds.
        """
        if model_facts.is_prompted(model):
            raise ModelError(
                "the trainers of YOLO-World and YOLOE build the full network from the name of its file, whatever the "
                "YAML in the checkpoint says (native=True is not possible)"
            )
        if model.yaml.get("yoloprune", {}).get("widths"):
            raise ModelError("the model was pruned to free widths before (native=True is possible for its parent only)")
        self.graph, self.yaml = graph, yaml_markers.cleared(model.yaml)
        self.image = model_facts.channels(model)
        self.carried: frozenset[str] = frozenset()  # children of the head that loading takes over from the weights
        bones = deepcopy(model).to("meta")  # shapes without numbers
        self._heads = attention_heads.find(bones, graph)
        self.graph = replace(graph, heads={i: len(found) for i, found in self._heads.items()})
        self._bones = {f"model.{i}": pickle.dumps(layer) for i, layer in enumerate(bones.model)}
        self.full = np.array([g.size for g in graph.groups], dtype=np.float64)
        self._read = {
            axis.module: np.bincount(graph.group_of[classes], minlength=len(graph.groups)) / self.full
            for axis, classes in zip(graph.axes, graph.class_of, strict=True)
            if axis.side == "count"
        }
        self.layers = [self._layer(row) for row in yaml_rows.read(self.yaml)]
        if self.carried and width_arguments.shape_of(model_builder.rebuild(model, self.yaml).model[-1]) != self._bone(
            self.layers[-1]
        ):
            raise _unsaid(self.layers[-1])

    # ---- restrictions ------------------------------------------------------------------------------------------------

    def restrict(self, limits: Limits) -> ChannelGraph:
        """The graph with further ties, frozen groups and allowed widths, so that every plan can be said in YAML.

        Args:
            limits (Limits): Widths that these rule out are not tried.

        Returns:
            (ChannelGraph): For the selection.
        """
        merged, reasons = self._couplings()
        groups, ties = list(self.graph.groups), []
        whole = [self._tie(members) for members in merged]
        whys = [next((reasons[g] for g in tie.groups if g in reasons), None) for tie in whole]
        tried = [[] if why else steps.allowed(tie, limits) for tie, why in zip(whole, whys, strict=True)]
        with Wait(sum(map(len, tried)), "finding native widths") as wait:
            found = [self._allowed(tie, units, wait, limits) for tie, units in zip(whole, tried, strict=True)]
        for tie, why, candidates, allowed in zip(whole, whys, tried, found, strict=True):
            if candidates and not allowed:
                why = "the only width a model YAML can say; native=False frees it"
            if why is None:
                ties.append(replace(tie, allowed=tuple(allowed)))
            for g in tie.groups if why else ():
                groups[g] = replace(groups[g], frozen=groups[g].frozen or why)
        return replace(self.graph, groups=groups, ties=ties)

    def _tie(self, members: list[int]) -> Tie:
        """A tie of groups, of which whole heads go where there are several: a YAML cannot say anything between."""
        several = tuple(found for found in self._heads.values() if {*members}.issuperset(itertools.chain(*found)))
        return Tie(tuple(members), tuple(self.graph.groups[g].size for g in members), heads=several)

    def _couplings(self) -> tuple[list[list[int]], dict[int, str]]:
        """Groups that one argument sets together, a partition, and why some cannot be set at all."""
        sets = [set(tie.groups) for tie in self.graph.ties]
        reasons = {g: group.frozen for g, group in enumerate(self.graph.groups) if group.frozen}
        for layer in self.layers:
            governed = [
                set().union(layer.reaching if d.joint else (), *(layer.own.get(name, ()) for name in d.governs))
                for d in layer.dials
            ]
            following = set().union(*(layer.own.get(name, ()) for name in layer.follows)) - layer.reaching
            sets += [*governed, following | layer.reaching if following else set()]
            said = layer.reaching.union(following, *governed)
            for g in set(itertools.chain(*layer.own.values())) - said:
                reasons.setdefault(g, f"{layer.row.name} has no argument for it in a model YAML; native=False frees it")
        return disjoint_sets.united(len(self.graph.groups), sets), reasons

    def _allowed(self, tie: Tie, candidates: list[int], wait: Wait, limits: Limits) -> list[int]:
        """Those units that can be said.

        Where widths are in step with Ultralytics' own rounding, and the widest, the middle and the narrowest can be
        said, all can: what else constructors do to a width switches once on the way down. `describe` proves the plan.
        """
        some = {candidates[i] for i in (0, len(candidates) // 2, -1)} if candidates else set()
        if limits.round_to % 8 == 0 and all(self._can_say(tie, unit) for unit in some):
            return list(wait.over(candidates))
        return [unit for unit in wait.over(candidates) if self._can_say(tie, unit)]

    def _can_say(self, tie: Tie, unit: int) -> bool:
        """Whether stock constructors give every layer that this width of a tie leaves."""
        widths, alive = self.full.copy(), np.ones(self.graph.n_classes, dtype=bool)
        for g, width in zip(tie.groups, tie.widths(unit), strict=True):
            alive[self.graph.classes(g)[width:]] = False
            widths[g] = width
        touched = set(tie.groups)
        return all(
            self._said(layer, alive, widths) is not None
            for layer in self.layers
            if not touched.isdisjoint(itertools.chain(layer.reaching, *layer.own.values()))
        )

    # ---- the YAML ----------------------------------------------------------------------------------------------------

    def describe(self, alive: np.ndarray) -> dict[str, Any]:
        """The model YAML of a plan: stock rows with explicit widths, no scales.

        Args:
            alive (np.ndarray): Mask of the surviving channel classes, shape (classes,).

        Returns:
            (dict): A model YAML.

        Raises:
            PlanError: If a layer cannot be said; plans made under `restrict` can.
        """
        widths = np.bincount(self.graph.group_of[alive], minlength=len(self.full)).astype(np.float64)
        said = []
        for layer in self.layers:
            row = self._said(layer, alive, widths)
            if row is None:
                raise PlanError(f"{layer.prefix} ({layer.row.name}) has widths that no model YAML can say.")
            said.append(row)
        return yaml_rows.write(self.yaml, said)

    def _said(self, layer: width_arguments.Layer, alive: np.ndarray, widths: np.ndarray) -> yaml_rows.Row | None:
        """The row with which stock Ultralytics builds the layer that a cut leaves, None if there is none."""
        if not layer.own:
            return layer.row  # without widths of its own
        kept = self.graph.kept(alive, layer.axes)
        inside = {f"layer{name.removeprefix(layer.prefix)}": keep for name, keep in kept.items()}
        shell = nn.ModuleDict({"layer": pickle.loads(self._bones[layer.prefix])})  # ten times as fast as deepcopy
        wanted = surgery.cut(shell, Plan(inside))["layer"]
        inputs, hands_on = self._inputs(layer.row, widths), self._handed_on(layer.row, widths)
        for row in width_arguments.settings(layer, width_arguments.widths_of(wanted)):
            built = yaml_rows.build(row, inputs, self.yaml, hands_on)
            if built is not None and self._agree(
                layer, width_arguments.shape_of(built), width_arguments.shape_of(wanted)
            ):
                return row
        return None

    def _agree(self, layer: width_arguments.Layer, *shapes: width_arguments.Shape) -> bool:
        """Whether two builds of a layer are the same, but for what loading the weights makes the same."""
        ignored = self.carried if layer is self.layers[-1] else frozenset()
        first, second = ({k: v for k, v in s.items() if k.partition(".")[0] not in ignored} for s in shapes)
        return first == second

    # ---- trying ------------------------------------------------------------------------------------------------------

    def _layer(self, row: yaml_rows.Row) -> width_arguments.Layer:
        """Spell a row out and find its dials."""
        prefix = f"model.{row.at}"
        axes = [
            i for i, a in enumerate(self.graph.axes) if a.side != "count" and f"{a.module}.".startswith(f"{prefix}.")
        ]
        layer = width_arguments.Layer(row, own=self._made(axes, prefix), reaching=self._reaching(row), axes=axes)
        if not layer.own:
            return layer
        inputs, wanted = self._inputs(row, self.full), self._bone(layer)
        if not all(inputs):
            raise ModelError(f"what reaches {prefix} ({row.name}) could not be followed (native=True is not possible)")
        head = row.at == len(self._bones) - 1  # whose own widths stay
        nearest: tuple[yaml_rows.Row, set[str]] | None = None
        for spelled in yaml_rows.spellings(row, self.yaml):
            built = yaml_rows.build(spelled, inputs, self.yaml, self._handed_on(row, self.full))
            shape = {} if built is None else width_arguments.shape_of(built)
            if shape == wanted:
                layer = replace(layer, row=spelled)
                return layer if head else width_arguments.find(layer, inputs, self.yaml)
            differ = {k.partition(".")[0] for k in {*shape, *wanted} if shape.get(k) != wanted.get(k)}
            if nearest is None or len(differ) < len(nearest[1]):
                nearest = spelled, differ
        if not head or nearest is None:
            raise _unsaid(layer)
        self.carried = frozenset(nearest[1])
        return replace(layer, row=nearest[0])

    def _bone(self, layer: width_arguments.Layer) -> width_arguments.Shape:
        return width_arguments.shape_of(pickle.loads(self._bones[layer.prefix]))

    def _inputs(self, row: yaml_rows.Row, widths: np.ndarray) -> list[int]:
        """Width of every input of a row at the given group widths; 0 where it is not one tensor."""
        read = [self._read.get(f"model.{source}") for source in row.sources]
        return [
            self.image if source < 0 else 0 if occurrence is None else round(float(occurrence @ widths))
            for source, occurrence in zip(row.sources, read, strict=True)
        ]

    def _handed_on(self, row: yaml_rows.Row, widths: np.ndarray) -> int | None:
        """Width that a row hands on, None where that is not one tensor, or to no row."""
        occurrence = self._read.get(f"model.{row.at}") if row.at < len(self._bones) - 1 else None
        return None if occurrence is None else round(float(occurrence @ widths))

    def _reaching(self, row: yaml_rows.Row) -> set[int]:
        read = [self._read.get(f"model.{source}") for source in row.sources]
        return {int(g) for occurrence in read if occurrence is not None for g in np.flatnonzero(occurrence)}

    def _made(self, axes: list[int], prefix: str) -> dict[str, set[int]]:
        made = [i for i in axes if self.graph.axes[i].side == "outputs"]
        names = [self.graph.axes[i].module.removeprefix(prefix).lstrip(".") for i in made]
        groups = [self.graph.group_of[self.graph.class_of[i]] for i in made]
        return {name: {int(g) for g in np.unique(found)} for name, found in zip(names, groups, strict=True)}


def _unsaid(layer: width_arguments.Layer) -> ModelError:
    return ModelError(
        f"{layer.prefix} ({layer.row.name}) is not what its row in the model YAML builds (native=True is not possible)"
    )
