"""Prune Ultralytics YOLO models: sparse training, exact channel cuts, stock checkpoints out.

Everything is imported when it is first used, so that `yoloprune help` answers at once.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "train_sparse": "api",
    "prune": "api",
    "sweep": "api",
    "finetune": "api",
    "val": "api",
    "info": "api",
    "prune_module": "any_network",
    "trace": "api",
    "load": "handoff",
    "save": "handoff",
    "YOLO": "handoff",
    "SparseTraining": "sparsity",
    "SparseConfig": "sparse_config",
    "Budget": "limits",
    "Limits": "limits",
    "Plan": "plans",
    "PruneError": "errors",
}
__all__ = ["__version__", *_HOME]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'yoloprune' has no attribute '{name}'")
    return getattr(import_module(f"yoloprune.{_HOME[name]}"), name)
