"""Small detectors whose channels are held to what a model YAML can say, for the tests of native plans."""

from __future__ import annotations

import copy
from typing import Any

import torch
import ultralytics
from conftest import noise, settle

from yoloprune.native import candidates, stock_yaml
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.settings.budget import Limits

FINE = Limits(round_to=4, min_width=4, max_ratio=1.0)
BACKBONE: list[list[Any]] = [
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "C2f", [32, True]],
    [-1, 1, "Conv", [64, 3, 2]],
    [-1, 1, "SPPF", [64, 5]],
]
HEAD: list[Any] = [[2, 4], 1, "Detect", ["nc"]]


def model_of(backbone: list[list[Any]], head: list[Any] = HEAD, nc: int = 80) -> torch.nn.Module:
    torch.manual_seed(0)
    kind = ultralytics.nn.tasks.DetectionModel
    model = kind({"nc": nc, "backbone": copy.deepcopy(backbone), "head": [list(head)]}, verbose=False)
    return settle(model, noise(2, 3, 64, 64)).eval()


def restricted(model: torch.nn.Module, limits: Limits = FINE) -> tuple[ChannelGraph, stock_yaml.Stock]:
    found = candidates.Channels(model, Limits(**{**vars(limits), "native": "tied"}), 64)
    assert found.native is not None and found.stock is not None
    return found.native, found.stock
