"""What the installed Ultralytics can do, where releases that are supported differ."""

from __future__ import annotations

import inspect

import pytest
from ultralytics.engine.model import Model
from ultralytics.nn import tasks

from yoloprune.settings import keys

DISTILS = "distill_model" in keys.host_defaults()
LOADS_RESTRICTED = hasattr(tasks, "SAFE_LOAD")
TRAINS_ON_SEVERAL = "(list, tuple)" in inspect.getsource(Model.train)  # data= of several data sets

needs_distillation = pytest.mark.skipif(not DISTILS, reason="this Ultralytics does not distil")
needs_class_rows = pytest.mark.skipif(
    not hasattr(tasks.BaseModel, "_remap_cls_by_names"), reason="this Ultralytics builds class layers anew"
)
CARRIES = "in_channels != src" in inspect.getsource(tasks.BaseModel.load)
"""Whether loading weights takes over a class branch of another width than the YAML builds."""

needs_carrying = pytest.mark.skipif(not CARRIES, reason="this Ultralytics builds the class branch as its YAML says")
