"""Importance of channels alone, as most tests of criteria look at it."""

from __future__ import annotations

from typing import Any

import numpy as np

from yoloprune.importance.criteria import importance


def score(*args: Any, **kwargs: Any) -> np.ndarray:
    """What `importance` says of each channel class, shape (classes,)."""
    return importance(*args, **kwargs).channels
