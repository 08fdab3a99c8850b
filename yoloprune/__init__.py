"""Prune Ultralytics YOLO models: sparse training, exact channel cuts, stock checkpoints out.

Everything is imported when it is first used, so that `yoloprune help` answers at once.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from yoloprune.former_places import FormerPlaces

if TYPE_CHECKING:  # what editors and type checkers see
    from yoloprune.api import compare as compare
    from yoloprune.api import finetune as finetune
    from yoloprune.api import info as info
    from yoloprune.api import latency as latency
    from yoloprune.api import mask as mask
    from yoloprune.api import plot as plot
    from yoloprune.api import prune as prune
    from yoloprune.api import sensitivity as sensitivity
    from yoloprune.api import slim as slim
    from yoloprune.api import sweep as sweep
    from yoloprune.api import trace as trace
    from yoloprune.api import train_sparse as train_sparse
    from yoloprune.api import val as val
    from yoloprune.checkpoint.saving import YOLO as YOLO
    from yoloprune.checkpoint.saving import load as load
    from yoloprune.checkpoint.saving import save as save
    from yoloprune.commands.module_repair import rebuild as rebuild
    from yoloprune.commands.prune_module import PruneResult as PruneResult
    from yoloprune.commands.prune_module import prune_module as prune_module
    from yoloprune.errors import PruneError as PruneError
    from yoloprune.planning.plan import Plan as Plan
    from yoloprune.settings.budget import Budget as Budget
    from yoloprune.settings.budget import Limits as Limits
    from yoloprune.settings.sparse_config import SparseConfig as SparseConfig
    from yoloprune.sparse.callback import SparseTraining as SparseTraining

__version__ = "0.1.0"

_HOME = {
    "slim": "api",
    "train_sparse": "api",
    "prune": "api",
    "sweep": "api",
    "sensitivity": "api",
    "mask": "api",
    "finetune": "api",
    "val": "api",
    "compare": "api",
    "info": "api",
    "latency": "api",
    "plot": "api",
    "prune_module": "commands.prune_module",
    "PruneResult": "commands.prune_module",
    "rebuild": "commands.module_repair",
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


if not TYPE_CHECKING:  # whose readers would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(import_module(f"yoloprune.{_HOME[name]}"), name)
        if not name.startswith("_") and (moved := import_module("yoloprune.former_places").find(name)) is not None:
            return moved
        raise AttributeError(f"module 'yoloprune' has no attribute '{name}'")
