"""Files and folders that Ultralytics exported, which it opens when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ultralytics

from yoloprune.errors import ModelError

CHECKPOINTS = frozenset({".pt", ".pth", ".yaml", ".yml", ""})
"""Suffixes of what `load` opens; an official name may have none."""


def is_export(model: Any) -> bool:
    """Whether a model is given as a file or folder that Ultralytics exported."""
    return isinstance(model, (str, Path)) and (Path(model).suffix not in CHECKPOINTS or Path(model).is_dir())


def load_export(model: Any, task: str) -> ultralytics.YOLO:
    """Name an exported model to Ultralytics, which opens it when it runs.

    Raises:
        ModelError: If it is not there.
    """
    if not Path(model).exists():
        raise ModelError(f"model={model}: there is no such file.")
    return ultralytics.YOLO(str(model), task=task)
