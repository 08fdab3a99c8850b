"""Whether a cut can be made as it is asked for and meet its budget, asked before anything that takes long."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ultralytics

from yoloprune.backend import datasets, host_arguments
from yoloprune.checkpoint import rebuild, saving
from yoloprune.native import candidates
from yoloprune.planning.cost import Cost
from yoloprune.settings import command_line
from yoloprune.settings.slim_request import SlimRequest

TIGHT = 0.999  # a cut to more than this share of what is there would take nothing


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
        BudgetError: If there is nothing to cut, or no ranking meets the budget in one round; how far several go, and
            times, are found out later.
    """
    host_arguments.frozen_layers(yolo.model, request.passed.get("freeze"))
    network = yolo.model
    if rebuilt:
        nc = 1 if request.passed.get("single_cls") else datasets.class_count(yolo, data)
        network = rebuild.network(yolo, nc, request.passed.get("pretrained", True))
    insists = request.limits.native is True  # else free widths are what is left, and all others are found later
    with saving.told_who_wrote(yolo):
        found = candidates.Channels(network, replace(request.limits, native=insists), imgsz)
    if request.rounds > 1 or request.max_drop is not None:
        wanted = fractions(request.budgets, Cost(found.graph))
        if wanted and all((1 - share if kind == "ratio" else share) >= TIGHT for kind, share in wanted.items()):
            raise found.met(" ".join([str(request.budget), *command_line.pairs({"latency": request.latency})]).strip())
    elif not request.budget.empty and request.latency is None:
        found.require_reach(request.budget)


def fractions(budgets: Mapping[str, Any], cost: Cost) -> dict[str, float]:
    """Budgets by the keys of `prune` as fractions of what a network has; a time is one already."""
    return {k: v / cost.parent(k) if k in {"flops", "params"} and v >= 1 else v for k, v in budgets.items()}
