"""Prune Ultralytics YOLO models: sparse training, exact channel cuts, stock checkpoints out.

Everything is imported when it is first used, so that `yoloprune help` answers at once.
"""

import sys
from importlib import import_module
from typing import Any

from yoloprune.former_places import FormerPlaces

__version__ = "0.1.0"

_HOME = {
    "train_sparse": "api",
    "prune": "api",
    "sweep": "api",
    "finetune": "api",
    "val": "api",
    "info": "api",
    "prune_module": "commands.prune_module",
    "trace": "api",
    "load": "checkpoint.saving",
    "save": "checkpoint.saving",
    "YOLO": "checkpoint.saving",
    "SparseTraining": "sparse.callback",
    "SparseConfig": "settings.sparse_config",
    "Budget": "settings.budget",
    "Limits": "settings.budget",
    "Plan": "planning.plan",
    "PruneError": "errors",
}
__all__ = ["__version__", *_HOME]
sys.meta_path.append(FormerPlaces())


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"yoloprune.{_HOME[name]}"), name)
    if not name.startswith("_") and (moved := import_module("yoloprune.former_places").find(name)) is not None:
        return moved
    raise AttributeError(f"module 'yoloprune' has no attribute '{name}'")
