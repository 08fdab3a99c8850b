"""Which widths a stock model YAML can say, found by trying, and the YAML that says them.

A row of a model YAML names a layer and a few arguments; its constructor makes all inner widths from those. So some
widths are tied (both convolutions of a C2f's bottleneck), some follow the layer before (SPPF's hidden width is half its
input), some have no argument at all. None of this is listed here: every numeric argument of a row is doubled on its
own, the widths that double with it are what it governs, and a width may be chosen if stock Ultralytics, asked for it,
builds the very layer that the cut leaves. A block that would tie widths is written as several rows where that is
possible, see `unrolled_rows`. A plan made under what is left of these restrictions needs nothing but Ultralytics to
train.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
from torch import nn

from yoloprune.backend.progress_bar import Wait
from yoloprune.errors import PlanError
from yoloprune.native import openable_blocks, yaml_rows
from yoloprune.native.described import Described, Origin
from yoloprune.native.spelled_layers import SpelledLayers
from yoloprune.native.unrolled_rows import INPUT, Told, Unroller
from yoloprune.native.width_arguments import Layer
from yoloprune.native.yaml_rows import Row
from yoloprune.planning import disjoint_sets, steps
from yoloprune.planning.branch import Branch, removed
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.tie import Tie
from yoloprune.settings.budget import Limits


def _is_allowed(tie: Tie, share: Fraction) -> bool:
    """Whether a tie may keep this share of its channels."""
    unit = share * tie.units
    return unit.denominator == 1 and (unit == tie.units or unit in (tie.allowed or ()))


class NotSayableError(PlanError):
    """A layer has widths that neither a row nor several can say.

    Attributes:
        layer (int): Its index.
    """

    def __init__(self, layer: int, message: str) -> None:
        super().__init__(message)
        self.layer = layer


class Stock:
    """What stock Ultralytics can build in place of the layers of one model.

    Attributes:
        spelled (SpelledLayers): The rows that build them.
        blocks (dict[int, Told]): Layers that may be written as several rows, and what their modules were made with.
        branches (tuple[Branch, ...]): Those of the graph without which rows can say the network.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph) -> None:
        """See `SpelledLayers`."""
        self.spelled = SpelledLayers(model, graph)
        self.blocks: dict[int, Told] = {}
        self.branches: tuple[Branch, ...] = ()
        self._shortened: dict[int, Told] = {}  # layers with such branches inside
        self._found: dict[int, Told] | None = None
        self._said: dict[tuple[int, tuple[int, ...], int], bool] = {}  # by row, groups of a tie, and unit
        self._unroller = Unroller(self.spelled.yaml)

    # ---- restrictions ------------------------------------------------------------------------------------------------

    def restrict(self, limits: Limits) -> ChannelGraph:
        """The graph with further ties, frozen groups and allowed widths, so that every plan can be said in YAML.

        Blocks that can be written as several rows tie nothing, unless `native=tied` wants to see each in one row.

        Args:
            limits (Limits): Widths that these rule out are not tried.

        Returns:
            (ChannelGraph): For the selection.
        """
        if self._found is None:
            self._found = {} if limits.native == "tied" else openable_blocks.blocks(self.spelled, self._unroller)
            self.blocks = dict(self._found)
            if limits.native != "tied":
                self.branches, self._shortened = openable_blocks.branches(self.spelled, self._unroller, self.blocks)
        merged, reasons = self._couplings()
        groups, ties = list(self.spelled.graph.groups), []
        whole = [self._tie(members) for members in merged]
        whys = [next((reasons[g] for g in tie.groups if g in reasons), None) for tie in whole]
        tried = [
            [] if why else steps.allowed(tie, limits, self.spelled.graph) for tie, why in zip(whole, whys, strict=True)
        ]
        with Wait(sum(map(len, tried)), "finding native widths") as wait:
            found = [self._allowed(tie, units, wait, limits) for tie, units in zip(whole, tried, strict=True)]
        for tie, why, candidates, allowed in zip(whole, whys, tried, found, strict=True):
            if candidates and not allowed:
                why = "the only width a model YAML can say; native=False frees it"
            if why is None:
                ties.append(replace(tie, allowed=tuple(allowed)))
            for g in tie.groups if why else ():
                groups[g] = replace(groups[g], frozen=groups[g].frozen or why)
        withheld = tuple(tie for tie in self.spelled.graph.ties if groups[tie.groups[0]].frozen)
        return replace(self.spelled.graph, groups=groups, ties=ties, branches=self.branches, withheld=withheld)

    def _tie(self, members: list[int]) -> Tie:
        """A tie of groups, of which whole heads go where there are several: a YAML cannot say anything between."""
        several = tuple(
            found for found in self.spelled.heads.values() if {*members}.issuperset(itertools.chain(*found))
        )
        graph = self.spelled.graph
        packs = {g: n for tie in graph.ties for g, n in zip(tie.groups, tie.packs, strict=False)}
        sizes = tuple(graph.groups[g].size for g in members)
        whole = Tie(tuple(members), sizes, heads=several, packs=tuple(packs.get(g, 1) for g in members))
        limited = [tie for tie in graph.ties if tie.allowed is not None and {*members}.issuperset(tie.groups)]
        if not limited:
            return whole
        units = [u for u in range(1, whole.units) if all(_is_allowed(tie, Fraction(u, whole.units)) for tie in limited)]
        return replace(whole, allowed=tuple(units))

    def _couplings(self) -> tuple[list[list[int]], dict[int, str]]:
        """Groups that one argument sets together, a partition, and why some cannot be set at all."""
        sets = [set(tie.groups) for tie in self.spelled.graph.ties]
        reasons = {g: group.frozen for g, group in enumerate(self.spelled.graph.groups) if group.frozen}
        for layer in self._in_one_row():
            governed = [
                set().union(layer.reaching if d.joint else (), *(layer.own.get(name, ()) for name in d.governs))
                for d in layer.dials
            ]
            following = set().union(*(layer.own.get(name, ()) for name in layer.follows)) - layer.reaching
            sets += [*governed, following | layer.reaching if following else set()]
            said = layer.reaching.union(following, *governed)
            for g in set(itertools.chain(*layer.own.values())) - said:
                reasons.setdefault(g, f"{layer.row.name} has no argument for it in a model YAML; native=False frees it")
        return disjoint_sets.united(len(self.spelled.graph.groups), sets), reasons

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
        widths, alive = self.spelled.full.copy(), np.ones(self.spelled.graph.n_classes, dtype=bool)
        for g, width in zip(tie.groups, tie.widths(unit), strict=True):
            alive[self.spelled.graph.classes(g)[width:]] = False
            widths[g] = width
        touched = set(tie.groups)
        return all(
            self._is_said(layer, tie, unit, alive, widths)
            for layer in self._in_one_row()
            if not touched.isdisjoint(itertools.chain(layer.reaching, *layer.own.values()))
        )

    def _is_said(self, layer: Layer, tie: Tie, unit: int, alive: np.ndarray, widths: np.ndarray) -> bool:
        """Whether one layer can be said; asked once, since each `restrict` after a `tie` comes to the same widths."""
        key = layer.row.at, tie.groups, unit
        if key not in self._said:
            self._said[key] = self.spelled.said(layer, alive, widths) is not None
        return self._said[key]

    def tie(self, layer: int) -> bool:
        """Keep a block in one row after all, from the next `restrict` on; False if it was in one anyway."""
        whole = Branch(f"model.{layer}", ())
        self.branches = tuple(b for b in self.branches if not whole.holds(b.name))
        shortened = self._shortened.pop(layer, None)
        return self.blocks.pop(layer, shortened) is not None

    def _in_one_row(self) -> list[Layer]:
        """Layers that stay one row, whatever widths are chosen."""
        return [layer for layer in self.spelled.layers if layer.row.at not in self.blocks]

    # ---- the YAML ----------------------------------------------------------------------------------------------------

    def describe(self, alive: np.ndarray) -> Described:
        """The model YAML of a plan: stock rows with explicit widths, no scales; as few as can say it.

        Args:
            alive (np.ndarray): Mask of the surviving channel classes, shape (classes,).

        Returns:
            (Described): The YAML, and what its rows stand for.

        Raises:
            PlanError: If a layer cannot be said; plans made under `restrict` can.
        """
        graph = self.spelled.graph
        widths = graph.widths(alive).astype(np.float64)
        rows: list[Row] = []
        origins: list[Origin] = []
        place: dict[int, int] = {-1: -1}  # where the output of each layer comes from now
        split = 0
        gone = [branch.name for branch in removed(graph.branches, widths)]
        for at, layer in enumerate(self.spelled.layers):
            split = len(rows) if at == len(self.spelled.yaml["backbone"]) else split
            if layer.prefix in gone:
                place[at] = place[layer.row.sources[0]]
            elif (row := self.spelled.said(layer, alive, widths)) is not None:
                rows.append(replace(row, at=len(rows), sources=tuple(place[s] for s in row.sources)))
                origins.append(Origin(at))
                place[at] = len(rows) - 1
            else:
                place[at] = self._unroll(layer, alive, widths, place, rows, origins)
        split = split if self.spelled.yaml["head"] else len(rows)  # all may be in the backbone
        yaml = yaml_rows.write(self.spelled.yaml, rows, split)
        carried = self.spelled.is_carried(rows[-1], alive, widths)
        return Described(yaml, tuple(origins), tuple(gone), carried)

    def _unroll(
        self,
        layer: Layer,
        alive: np.ndarray,
        widths: np.ndarray,
        place: dict[int, int],
        rows: list[Row],
        origins: list[Origin],
    ) -> int:
        """Append the rows of a block; the one that its output comes from."""
        at = layer.row.at
        made = None
        told = self.blocks.get(at) or self._shortened.get(at)
        if told is not None:
            before, after = (self.spelled.inputs(layer.row, w)[0] for w in (self.spelled.full, widths))
            bones = self.spelled.bone(layer), self.spelled.left_of(layer, alive)
            made = self._unroller.parts(told, *bones, (before, after))
        reads = place[layer.row.sources[0]]
        if made is None or (reads < 0 and any(INPUT in part.takes for part in made[0][1:])):
            # Only the first row can read the image: in all others -1 is the row before.
            called = self.spelled.graph.names.of(layer.prefix)
            raise NotSayableError(at, f"{called} ({layer.row.name}) has widths that no model YAML can say.")
        parts, result = made
        value = {INPUT: reads}
        for part in parts:
            sources = tuple(value[v] for v in part.takes)
            rows.append(replace(part.row, at=len(rows), sources=sources))
            origins.append(Origin(at, part.child or None, part.piece, part.sums))
            value[part.gives] = len(rows) - 1
        return value[result]
