"""Whether a cut can meet its budget, asked before a training that comes first."""

from __future__ import annotations

from typing import Any

import numpy as np
import ultralytics

from yoloprune.backend import datasets
from yoloprune.checkpoint import rebuild, saving
from yoloprune.native import candidates
from yoloprune.planning import greedy_selection
from yoloprune.settings.slim_request import SlimRequest


def require(yolo: ultralytics.YOLO, request: SlimRequest, data: Any, imgsz: int) -> None:
    """Raise BudgetError where no ranking meets the budget in one round; times and several rounds are found out later.

    Args:
        yolo (YOLO): The model before it is trained.
        request (SlimRequest): The budget, and what a cut must respect.
        data (str | Path): The data set, whose classes the network will have.
        imgsz (int): Image size for which FLOPs are counted.
    """
    if request.budget.empty or request.latency is not None or request.rounds > 1:
        return
    nc = 1 if request.passed.get("single_cls") else datasets.class_count(yolo, data)
    network = rebuild.network(yolo, nc, request.passed.get("pretrained", True))
    with saving.told_who_wrote(yolo):
        found = candidates.Channels(network, request.limits, imgsz)
    alike = np.ones(found.graph.n_classes)
    found.choose(lambda graph: greedy_selection.select(graph, alike, request.budget, request.limits))
