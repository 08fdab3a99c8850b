"""Which channels of an Ultralytics model may go: all that the trace allows, or those that a model YAML can say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from yoloprune.backend import console, records, yolo_tracing
from yoloprune.cutting import trial_cut
from yoloprune.errors import BudgetError, ModelError, PlanError
from yoloprune.native.described import Described
from yoloprune.native.stock_yaml import NotSayableError, Stock
from yoloprune.planning import greedy_selection, steps
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import Probe
from yoloprune.settings.budget import Budget, Limits
from yoloprune.torch_internals import one_thread


@dataclass(frozen=True, repr=False)
class Choice:
    """Which channels stay.

    Attributes:
        graph (ChannelGraph): What was chosen from.
        alive (np.ndarray): Mask of the surviving channel classes, shape (classes,).
        probe (Probe): What the graph was traced on, and a cut is proved on.
        described (Described | None): The model YAML that says these widths, None where they are free.
    """

    graph: ChannelGraph
    alive: np.ndarray
    probe: Probe
    described: Described | None = None

    @property
    def yaml(self) -> dict[str, Any] | None:
        """The model YAML that says these widths, None where they are free."""
        return None if self.described is None else self.described.yaml

    def __repr__(self) -> str:
        kept = ", ".join(f"{kind} {share:.1%}" for kind, share in self.kept().items())
        return f"Choice: {'free' if self.described is None else 'native'} widths, which keep of the parent {kept}"

    @property
    def plan(self) -> Plan:
        """What to cut."""
        return self.graph.plan(self.alive)

    @property
    def widths(self) -> np.ndarray:
        """How many channels each group keeps, shape (groups,)."""
        return self.graph.widths(self.alive)

    def freed(self) -> Choice:
        """The same with free widths: what rows would add up stays apart."""
        apart = tuple(replace(branch, twice=()) for branch in self.graph.branches)
        return replace(self, graph=replace(self.graph, branches=apart), described=None)

    def kept(self) -> dict[str, float]:
        """Shares that stay of FLOPs, parameters and the channels that the trace lets go; 1 of what there is none of."""
        cost, widths = Cost(self.graph), self.widths.astype(float)
        return {kind: cost.share(kind, widths) for kind in ("flops", "params", "channels")}


class Channels:
    """The channels of one model under limits.

    Attributes:
        probe (Probe): What the model is traced on, and a cut of it proved.
        graph (ChannelGraph): All that the trace allows.
        native (ChannelGraph | None): The same classes, held to what a YAML can say; None with `native=False`, or where
            that is not possible.
        stock (Stock | None): What describes a choice from `native`.
    """

    @one_thread()
    def __init__(self, model: nn.Module, limits: Limits, imgsz: int) -> None:
        """Trace.

        Args:
            model (nn.Module): An Ultralytics model.
            limits (Limits): What choices must respect.
            imgsz (int): Image size for which FLOPs are counted.

        Raises:
            ModelError: If the model cannot be traced, or its layers are not those of its YAML and native widths are
                asked for; or if it is masked, because a repair of the cut would fill its zeros.
        """
        records.require_unmasked(model)
        self.probe = yolo_tracing.probe(model, imgsz)
        self.graph = yolo_tracing.trace_yolo(model, imgsz=imgsz, keep=limits.keep, probe=self.probe)
        if held := trial_cut.told(self.graph):
            console.warn(held)
        if limits.depth:
            self.graph = yolo_tracing.with_branches(model, self.graph, limits.keep, self.probe)
        self.graph = steps.with_ceilings(self.graph, yolo_tracing.layer_shares(model, limits.layers))
        self.native: ChannelGraph | None = None
        self.stock: Stock | None = None
        self._limits, self._imgsz, self._insists = limits, imgsz, limits.native is True
        if limits.native is False:
            return
        try:
            self.stock = Stock(model, self.graph)
            self.native = self.stock.restrict(limits)
        except ModelError as e:
            if self._insists:
                raise
            warn_of_free_widths(e)

    def require_reach(self, budget: Budget) -> None:
        """Raise BudgetError where a budget is out of the reach of any ranking, or met as the model is.

        Where native widths are not insisted on, free ones do what they cannot.
        """
        graph = self.native if self._insists and self.native is not None else self.graph
        alike, free = np.ones(graph.n_classes), np.zeros(len(graph.branches))
        if greedy_selection.select(graph, alike, budget, self._limits, branches=free).all() and not budget.empty:
            raise self.met(budget)

    def met(self, budget: Budget | str) -> BudgetError:
        """What to raise where a budget is met as the model is."""
        cost = Cost(self.graph)
        has = ", ".join(f"{cost.parent(kind):,.0f} {kind}" for kind in ("flops", "params"))
        return BudgetError(
            f"The model already meets {budget}, so there is nothing to cut: at imgsz {self._imgsz} it has {has}."
        )

    def choose(self, select: Callable[[ChannelGraph], np.ndarray]) -> Choice:
        """Choose with native widths, and with free ones where those cannot do it and were not asked for.

        Args:
            select (Callable): From a graph to the mask of the surviving classes, shape (classes,).

        Returns:
            (Choice): Free widths have no YAML.

        Raises:
            BudgetError: If neither reaches the budget, or native widths do not that were asked for.
            PlanError: If a YAML cannot say the choice although it was asked for.
        """
        if self.native is None or self.stock is None:
            return Choice(self.graph, select(self.graph), self.probe)
        try:
            while True:
                alive = select(self.native)
                try:
                    return Choice(self.native, alive, self.probe, self.stock.describe(alive))
                except NotSayableError as e:  # that block alone is chosen again, in the one row that it has
                    if not self.stock.tie(e.layer):
                        raise
                    self.native = self.stock.restrict(self._limits)
        except (BudgetError, PlanError) as e:
            if self._insists:
                raise
            free = Choice(self.graph, select(self.graph), self.probe)  # raises where the budget is out of any reach
            warn_of_free_widths(e)
            return free


def warn_of_free_widths(reason: Exception) -> None:
    """Say that widths are free where native ones were not asked for, and why."""
    console.warn(f"native: free widths, which stock Ultralytics cannot train: {reason}")
