"""Whether a cut can be made as it is asked for and meet its budget, asked before anything that takes long."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ultralytics

from yoloprune.backend import datasets, host_arguments
from yoloprune.checkpoint import rebuild, saving
from yoloprune.native import candidates
from yoloprune.settings.slim_request import SlimRequest


def require(yolo: ultralytics.YOLO, request: SlimRequest, data: Any, imgsz: int, *, rebuilt: bool) -> None:
    """Look at the network before the first stage.

    Args:
        yolo (YOLO): The model before it is trained.
        request (SlimRequest): The budget, and what a cut must respect.
        data (str | Path): The data set, whose classes the network will have.
        imgsz (int): Image size for which FLOPs are counted.
        rebuilt (bool): Whether it is trained for these classes before it is cut.

    Raises:
        ArgumentError: If `keep=`, `layers=` or `freeze=` name a layer that is not there.
        BudgetError: If no ranking meets the budget in one round; times and several rounds are found out later.
    """
    host_arguments.frozen_layers(yolo.model, request.passed.get("freeze"))
    network = yolo.model
    if rebuilt:
        nc = 1 if request.passed.get("single_cls") else datasets.class_count(yolo, data)
        network = rebuild.network(yolo, nc, request.passed.get("pretrained", True))
    insists = request.limits.native is True  # else free widths are what is left, and all others are found later
    with saving.told_who_wrote(yolo):
        found = candidates.Channels(network, replace(request.limits, native=insists), imgsz)
    if request.budget.empty or request.latency is not None or request.rounds > 1 or request.max_drop is not None:
        return
    found.require_reach(request.budget)
