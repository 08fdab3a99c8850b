"""In which order channels go: once for `prune`, once for all points of `sweep`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ultralytics
from torch import Tensor

from yoloprune.backend import calibration_images, console, datasets, model_facts, progress_bar
from yoloprune.errors import UnlabelledError
from yoloprune.importance import criteria, dead_channels
from yoloprune.planning import greedy_selection, steps
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.time_model import TimedCost, TimeModel
from yoloprune.probing.forward import placed
from yoloprune.selection.calibration import Calibration, labelled
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.requests import Criterion

FEW = 5
"""Images per class below which labels tell less of what a network needs than its outputs do."""


@dataclass(frozen=True)
class Ranking:
    """In which order channels go.

    Attributes:
        scores (np.ndarray): Importance of each channel class, shape (classes,).
        branches (Mapping[str, float]): Importance of each branch, by name.
        per_cost (bool): Whether scores count per unit of cost saved.
        limits (Limits): What the choice must respect.
        criterion (str): The word of `score=` that they are by.
    """

    scores: np.ndarray
    branches: Mapping[str, float]
    per_cost: bool
    limits: Limits
    criterion: str = ""

    def select(self, graph: ChannelGraph, wanted: Budget, times: TimeModel | None = None) -> np.ndarray:
        """Mask of the surviving classes under a budget, see `greedy_selection.select`; of time where that is known."""
        cost = None if times is None else TimedCost(graph, times)
        return greedy_selection.select(
            graph, self.scores, wanted, self.limits, cost, per_cost=self.per_cost, branches=self.of(graph)
        )

    def lost(self, graph: ChannelGraph, alive: np.ndarray) -> float:
        """Importance of what a choice takes, see `steps.Worth.lost`."""
        known = np.nan_to_num(self.scores, posinf=0.0)  # not of channels that no criterion looks at
        return steps.Worth(known, self.of(graph)).lost(graph, alive)

    def of(self, graph: ChannelGraph) -> np.ndarray:
        """Importance of the branches of a graph that may have lost some."""
        return np.array([self.branches[branch.name] for branch in graph.branches])


def rank(
    parent: ultralytics.YOLO,
    graph: ChannelGraph,
    criterion: Criterion,
    limits: Limits,
    sight: Calibration,
) -> Ranking:
    """Rank channels.

    Args:
        parent (YOLO): The model before the cut.
        graph (ChannelGraph): Its channels.
        criterion (Criterion): `score=`, `reduce=` and `normalize=`.
        limits (Limits): What choices must respect.
        sight (Calibration): What scores look at.

    Returns:
        (Ranking): For any number of budgets.

    Raises:
        ModelError: If the score is taylor and the model's loss needs more than labels.
    """
    if model_facts.is_untrained(parent.model):
        console.warn(
            "prune: the weights are untrained: which channels go is chance, and what is refitted fits noise. Train the "
            "model first, or give a checkpoint"
        )
    dead = dead_channels.dead(parent.model, graph)
    how = _best(parent, sight, dead) if criterion.score == "auto" else criterion.score
    try:
        return _by(how, parent, graph, criterion, limits, sight, dead)
    except UnlabelledError as e:
        if criterion.score != "auto":
            raise
        console.warn(f"prune: {str(e).partition(', and ')[0]}; channels are ranked by score=output, which needs none")
        return _by("output", parent, graph, criterion, limits, sight, dead)


def _by(
    how: str,
    parent: ultralytics.YOLO,
    graph: ChannelGraph,
    criterion: Criterion,
    limits: Limits,
    sight: Calibration,
    dead: np.ndarray,
) -> Ranking:
    """Rank channels by one criterion, see `rank`."""
    kind = criteria.CRITERIA.get(how)  # None is random
    normalize = criterion.normalize
    if normalize == "auto":
        normalize = "cost" if kind is not None and kind.per_cost else "none"
    images = sight.images or []
    with progress_bar.Wait(len(images), "ranking channels") as wait:
        batches: Iterable[Tensor] | Iterable[dict[str, Any]] | None = wait.over(images) if images else None
        scored = parent.model
        if kind is not None and kind.needs == "labels" and sight.data is not None:
            scored, batches = model_facts.with_loss(parent), labelled(parent, sight)
        with placed(sight.device, scored):
            found = criteria.importance(
                scored,
                graph,
                how,
                reduce=criterion.reduce,
                normalize=normalize if normalize != "cost" else "none",
                batches=batches,
                seed=sight.seed,
            )
    scores = found.channels
    if criterion.score == "auto":
        scores[dead] = 0.0  # what sparse training took out goes first, whatever its constant does
        if how == "l2":  # sizes of weights say little within a layer, and nothing between layers
            limits = replace(limits, uniform=True)
    branches = dict(zip((branch.name for branch in graph.branches), found.branches.tolist(), strict=True))
    return Ranking(scores, branches, normalize == "cost", limits, how)


def _best(parent: ultralytics.YOLO, sight: Calibration, dead: np.ndarray) -> str:
    """What `score=auto` stands for: the best that the data at hand allow."""
    if sight.data is not None:
        if model_facts.is_prompted(parent.model):
            return "output"
        if datasets.has_classes_of(parent, sight.data):
            few = FEW * len(parent.model.names) > calibration_images.DRAWN
            return "output" if few and parent.task == "detect" else "taylor"  # measured for boxes only
        differ = datasets.difference(parent, sight.data)
        console.warn(
            f"prune: the classes of data= are not those of the model, {differ}; channels are ranked by what it finds in"
            " these images, which may not be what you need. Better train the model on this data first"
        )
        return "output"
    if sight.images is not None:
        return "output"
    return "bn" if dead.any() else "l2"  # untrained


def warn_of_no_data(parent: ultralytics.YOLO, sight: Calibration) -> None:
    """Say what a cut without data looks at, and which data set it could have looked at."""
    known = parent.overrides.get("data") if not sight.declined else None  # Ultralytics keeps it in checkpoints
    console.warn(
        "prune: without data= what is ranked and refitted is what the model makes of drawn images, which costs accuracy"
        + (f"; data={known}, which this model was trained on, is not at hand" if known else "")
    )
