"""The networks of the campaign that measures the proof: parents, the probe that `prune` makes of each, small plans."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from yoloprune import tracing
from yoloprune.backend import yolo_tracing
from yoloprune.cutting import lively_copy
from yoloprune.importance import criteria
from yoloprune.planning import greedy_selection
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import Example, Probe
from yoloprune.probing.survey import survey_around
from yoloprune.settings.budget import Budget, Limits

PRETRAINED = {
    "yolov5n": "yolov5nu-coco.pt",
    "yolov8n": "yolov8n-coco.pt",
    "yolo11n": "yolo11n-coco.pt",
    "yolo26n": "yolo26n-coco.pt",
    "yolov8n-seg": "yolov8n-seg-coco.pt",
}
YAMLS = (*("yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n"), "yolov8n-seg", "yolo11n-pose")
TORCHVISION = ("resnet50", "mobilenet_v3_small", "shufflenet_v2_x1_0", "squeezenet1_1")
OWN_YAML = "own YAML"
NAMES = (*YAMLS, OWN_YAML, *TORCHVISION)

ROWS = [
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "C2f", [32, True]],
    [-1, 1, "SCDown", [64, 3, 2]],
    [-1, 2, "A2C2f", [64, True, 2, True]],  # area attention, and a loose scale on the residual branch
    [-1, 1, "SPPELAN", [64, 32]],
    [-1, 1, "Conv", [128, 3, 2]],
    [-1, 1, "C2PSA", [128]],
    [-1, 1, "C2fPSA", [128]],
    [-1, 1, "Conv", [256, 3, 2]],
    [-1, 1, "PSA", [256]],
]
HEAD = [
    [-1, 1, "nn.ConvTranspose2d", [64, 2, 2]],
    [[-1, 8], 1, "Concat", [1]],
    [-1, 1, "C3k2", [64, True]],
    [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
    [[-1, 5], 1, "Concat", [1]],
    [-1, 1, "RepNCSPELAN4", [64, 64, 32, 1]],
    [[16, 13, 10], 1, "Detect", ["nc"]],
]


@dataclass(frozen=True)
class Subject:
    """One parent of the campaign.

    Attributes:
        name (str): Of the network.
        weights (str): "pretrained", "fresh", or "settled": fresh with batch-norms as after training.
        model (nn.Module): The parent, in evaluation mode.
        probe (Probe): What its cuts are proved on.
        graph (ChannelGraph): Its trace.
        imgsz (int): Side of the images on which the campaign measures on its own.
    """

    name: str
    weights: str
    model: nn.Module
    probe: Probe
    graph: ChannelGraph
    imgsz: int

    @property
    def title(self) -> str:
        """Network and weights."""
        return f"{self.name}, {self.weights}"

    def plan(self, seed: int) -> Plan:
        """A plan for about two thirds of the channels, by random scores."""
        scores = criteria.importance(self.model, self.graph, "random", seed=seed).channels
        limits = Limits(round_to=1, min_width=1)
        wanted = Budget(ratio=0.3) if self.name in TORCHVISION else Budget(flops=0.65)
        return self.graph.plan(greedy_selection.select(self.graph, scores, wanted, limits))


def subjects(names: tuple[str, ...], data: Path | None, imgsz: int) -> dict[str, Callable[[], Subject]]:
    """Titles, and functions that build the parents: pretrained ones where there are, else fresh and settled.

    Args:
        names (tuple[str, ...]): Of the networks.
        data (Path | None): Folder that holds `weights/`.
        imgsz (int): Image size that the proof of Ultralytics' models is asked for.
    """
    made: dict[str, Callable[[], Subject]] = {}
    for name in names:
        file = data / "weights" / PRETRAINED[name] if data and name in PRETRAINED else None
        if file and file.exists():
            made[f"{name}, pretrained"] = partial(_pretrained, name, file, imgsz)
            continue
        build = partial(_outside, name) if name in TORCHVISION else partial(_built, name, imgsz)
        made |= {f"{name}, {weights}": partial(build, weights) for weights in ("fresh", "settled")}
    return made


def _pretrained(name: str, file: Path, imgsz: int) -> Subject:
    return _of_yolo(name, "pretrained", YOLO(file).model, imgsz)


def _built(name: str, imgsz: int, weights: str) -> Subject:
    torch.manual_seed(seed_of(name))
    if name == OWN_YAML:
        rows: dict[str, Any] = {"nc": 3, "backbone": ROWS, "head": HEAD}
        model = DetectionModel(rows, verbose=False)
    else:
        model = YOLO(f"{name}.yaml").model
    if weights == "settled":
        lively_copy.settle(model, yolo_tracing.example(model, 8))
    return _of_yolo(name, weights, model, imgsz)


def _of_yolo(name: str, weights: str, model: nn.Module, imgsz: int) -> Subject:
    model = model.float().eval()
    probe = yolo_tracing.probe(model, imgsz)
    return Subject(name, weights, model, probe, yolo_tracing.trace_yolo(model, imgsz=imgsz, probe=probe), 320)


def _outside(name: str, weights: str) -> Subject:
    torch.manual_seed(seed_of(name))
    model = getattr(torchvision.models, name)(weights=None).eval()
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    if weights == "settled":
        lively_copy.settle(model, images)
    probe = survey_around(model, (Example.of(images),))
    return Subject(name, weights, model, probe, tracing.trace(model, probe), 224)


def seed_of(*words: object) -> int:
    """A seed that depends on words alone, the same in every process."""
    return zlib.crc32(" ".join(map(str, words)).encode())
