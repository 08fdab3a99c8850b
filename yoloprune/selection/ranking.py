"""In which order channels go: once for `prune`, once for all points of `sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ultralytics
from torch import Tensor

from yoloprune.backend import calibration_images, console, datasets, model_facts
from yoloprune.importance import criteria, dead_channels
from yoloprune.planning import greedy_selection
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.probing.forward import placed
from yoloprune.selection.prune_job import limits, place
from yoloprune.settings.budget import Budget, Limits


@dataclass(frozen=True)
class Ranking:
    """In which order channels go.

    Attributes:
        scores (np.ndarray): Importance of each channel class, shape (classes,).
        per_cost (bool): Whether scores count per unit of cost saved.
        limits (Limits): What the choice must respect.
    """

    scores: np.ndarray
    per_cost: bool
    limits: Limits

    def select(self, graph: ChannelGraph, wanted: Budget) -> np.ndarray:
        """Mask of the surviving classes under a budget, see `greedy_selection.select`."""
        return greedy_selection.select(graph, self.scores, wanted, self.limits, per_cost=self.per_cost)


def rank(
    parent: ultralytics.YOLO,
    graph: ChannelGraph,
    told: Mapping[str, Any],
    passed: Mapping[str, Any],
    calibrate: list[Tensor] | None,
) -> Ranking:
    """Rank channels as `score=`, `reduce=`, `normalize=` and the limits ask for it.

    Args:
        parent (YOLO): The model before the cut.
        graph (ChannelGraph): Its channels.
        told (Mapping[str, Any]): Settings of the command.
        passed (Mapping[str, Any]): Its Ultralytics arguments, `imgsz` among them.
        calibrate (list[Tensor] | None): From `prune_job.images`.

    Returns:
        (Ranking): For any number of budgets.

    Raises:
        ModelError: If the score is taylor and the model's loss needs more than labels.
    """
    model, batches = parent.model, calibrate
    dead = dead_channels.dead(model, graph)
    how = _criterion(parent, passed, calibrate, dead) if told["score"] == "auto" else told["score"]
    normalize = told["normalize"]
    if normalize == "auto":
        normalize = "cost" if how == "taylor" else "none"
    if how == "taylor":
        model = model_facts.with_loss(parent)
        seed = passed.get("seed") or 0
        batches = calibration_images.labelled(parent, passed["data"], passed["imgsz"], device=place(passed), seed=seed)
    with placed(place(passed), model):
        scores = criteria.score(
            model,
            graph,
            how,
            reduce=told["reduce"],
            normalize=normalize if normalize != "cost" else "none",
            batches=batches,
            seed=passed.get("seed") or 0,
        )
    held = limits(told)
    if told["score"] == "auto":
        scores[dead] = 0.0  # what sparse training took out goes first, whatever its constant does
        if how == "l2":  # sizes of weights say little within a layer, and nothing between layers
            held = replace(held, uniform=True)
    return Ranking(scores, normalize == "cost", held)


def _criterion(
    parent: ultralytics.YOLO, passed: Mapping[str, Any], calibrate: list[Tensor] | None, dead: np.ndarray
) -> str:
    """What `score=auto` stands for: the best that the data at hand allow."""
    if calibrate is not None:
        if model_facts.is_prompted(parent.model):
            return "activation"
        if datasets.has_classes_of(parent, passed["data"]):
            return "taylor"
        differ = datasets.difference(parent, passed["data"])
        console.warn(
            f"prune: the classes of data= are not those of the model, {differ}; so its labels do not tell what the "
            "model needs, and channels are ranked by activation. Better train the model on this data first"
        )
        return "activation"
    if dead.any():
        return "bn"
    warn_of_no_data(parent, passed, "every layer gives the same share, its smallest filters")
    return "l2"


def warn_of_no_data(parent: ultralytics.YOLO, passed: Mapping[str, Any], instead: str) -> None:
    """Say what a cut without data does `instead`, and which data set it could have looked at."""
    known = parent.overrides.get("data") if passed.get("data") is None else None  # Ultralytics keeps it in checkpoints
    console.warn(
        f"prune: without data= {instead}, and nothing is refitted, which costs far more accuracy"
        + (f"; data={known}, which this model was trained on, is not at hand" if known else "")
    )
