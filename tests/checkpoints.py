"""Small checkpoints built from YAMLs of their own, what the tests of pruned ones ask about them, and fixtures of both.

`conftest` makes it a plugin, so that its fixtures are there for every test; a module that needs others has its own.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import ultralytics
import yaml
from conftest import cutting_plan, settle
from torch import nn

from yoloprune.backend import yolo_tracing
from yoloprune.checkpoint import saving, trainers
from yoloprune.commands.demo_images import NAMES, make_shapes
from yoloprune.cutting import surgery
from yoloprune.planning.plan import Plan

CONFIGS = Path(ultralytics.__file__).parent / "cfg" / "models"

BACKBONE = [
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "Conv", [32, 3, 2]],
    [-1, 1, "C2f", [32, True]],
    [-1, 1, "Conv", [64, 3, 2]],
    [-1, 1, "C2f", [64, True]],
    [-1, 1, "Conv", [256, 3, 2]],
    [-1, 1, "C2PSA", [256]],  # attention with two heads
]
HEADS = {
    "detect": [[4, 6], 1, "Detect", ["nc"]],
    "segment": [[4, 6], 1, "Segment", ["nc", 32, 64]],
    "pose": [[4, 6], 1, "Pose", ["nc", "kpt_shape"]],
    "obb": [[4, 6], 1, "OBB", ["nc", 1]],
    "classify": [-1, 1, "Classify", ["nc"]],
    "semantic": [[4, 6], 1, "SemanticSegment", ["nc"]],
    "depth": [[4, 6], 1, "Depth", [32]],
}
TASKS = [t for t in HEADS if t in trainers.TRAINERS]
TEN_ROWS = {
    "nc": 3,
    "backbone": [
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 1, "C2f", [32, True]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "C2f", [64, True]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 1, "C2f", [32]],
        [-1, 1, "Conv", [32, 3, 2]],
        [[8, 4], 1, "Detect", ["nc"]],
    ],
}
NC = 80  # more classes than the data has: the class branch of the head is wider than a fresh build's for 3 classes
FAST = {"imgsz": 64, "batch": 4, "epochs": 1, "plots": False, "verbose": False, "workers": 0, "seed": 0}
STILL = {"lr0": 0.0, "optimizer": "SGD", "warmup_epochs": 0, "amp": False}  # weights stay what was loaded


def build(file: Path, told: dict[str, Any], task: str | None = None) -> ultralytics.YOLO:
    """A seeded model of a YAML, which is written first."""
    file.write_text(yaml.safe_dump(told))
    torch.manual_seed(0)
    yolo = ultralytics.YOLO(str(file), task=task)
    yolo.ckpt = yolo.ckpt or {}  # without one, older releases cannot save
    return yolo


def narrow(config: str = "v8/yolov8.yaml", **change: Any) -> dict[str, Any]:
    """A shipped YAML for three classes, an eighth as wide."""
    told = yaml.safe_load((CONFIGS / config).read_text())
    told.pop("scales", None)
    return {**told, "nc": 3, "depth_multiple": 0.33, "width_multiple": 0.125, **change}


def untrained(folder: Path, told: dict[str, Any], imgsz: int) -> Path:
    """A checkpoint of a YAML as after no training at all, for images of this size."""
    yolo = build(folder / "tiny.yaml", told)
    yolo.ckpt = {"train_args": {"task": "detect", "imgsz": imgsz}}
    yolo.save(folder / "tiny.pt")
    return folder / "tiny.pt"


def network(folder: Path, task: str = "detect") -> ultralytics.YOLO:
    """A small model built from a YAML of its own, with class names and settled batch-norms."""
    told = {"nc": NC, "kpt_shape": [2, 3], "backbone": BACKBONE, "head": [HEADS[task]]}
    yolo = build(folder / f"small-{task}.yaml", told, task)
    settle(yolo.model)
    yolo.model.names = {i: NAMES[i] if i < len(NAMES) else f"other {i}" for i in range(NC)}
    return yolo


def plan_of(model: nn.Module, seed: int = 0) -> Plan:
    """A random plan."""
    graph = yolo_tracing.trace_yolo(model)
    return cutting_plan(graph, seed)


def cut(yolo: ultralytics.YOLO, plan: Plan) -> saving.YOLO:
    """A cut copy."""
    return saving.with_model(yolo, surgery.cut(copy.deepcopy(yolo.model), plan))


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors outside the head."""
    return {k: tuple(v.shape) for k, v in body(model).items()}


def body(model: nn.Module) -> dict[str, torch.Tensor]:
    """All tensors outside the head."""
    head = f"model.{len(model.model) - 1}."
    return {k: v.float() for k, v in model.state_dict().items() if not k.startswith(head)}


def run_of(tmp_path: Path, **more: Any) -> dict[str, Any]:
    """Arguments of a short training in a folder of the test's own."""
    return {**FAST, "project": str(tmp_path / "runs"), **more}


def stub(task: str, nc: int = NC, names: dict[int, str] | None = None, **args: Any) -> Any:
    """A trainer without data set, enough to build a model."""
    trainer = object.__new__(trainers.TRAINERS[task])
    names = names or {i: NAMES[i] if i < len(NAMES) else f"other {i}" for i in range(nc)}
    trainer.data = {"nc": nc, "channels": 3, "names": names, "kpt_shape": [2, 3]}
    trainer.args = types.SimpleNamespace(**{"pretrained": True, "dropout": 0.0, "cls_remap": True, **args})
    trainer.resume = False
    return trainer


class Stopped(Exception):
    """Stands for a crash."""


def crash(trainer: Any) -> None:
    """After the first epoch."""
    if trainer.epoch == 0:
        raise Stopped


def run_python(script: str, *args: object, **environment: str) -> str:
    """What a script says in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks on busy cores: waiting for a second thread costs ten times what it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("handoff")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return make_shapes(folder / "shapes", train=4, val=4, imgsz=64)


@pytest.fixture(scope="module")
def parent(folder: Path) -> Path:
    """A checkpoint as Ultralytics saves it."""
    path = folder / "parent.pt"
    network(folder).save(str(path))
    return path


@pytest.fixture(scope="module")
def pruned(folder: Path, parent: Path) -> Path:
    """The parent after a random plan, with provenance."""
    yolo = saving.load(parent)
    plan = plan_of(yolo.model)
    facts = saving.make_provenance(parent, {"flops": 0.5, "data": "/home/someone/my.yaml"})
    return saving.save(cut(yolo, plan), folder / "out" / "pruned.pt", plan=plan, provenance=facts)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of ten rows that has what a YOLOv8 is made of, saved as a checkpoint."""
    return untrained(tmp_path_factory.mktemp("tiny"), TEN_ROWS, 64)
