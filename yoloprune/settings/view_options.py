"""Own options of commands that look at models and leave them as they are: `val`, `compare` and `plot`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from yoloprune.settings.option import Option
from yoloprune.settings.several_values import several
from yoloprune.settings.value_kinds import MODULES, ValueKind, choice, path_or_model


def _models(value: Any) -> tuple[Any, ...] | dict[str, Any]:
    """Return paths or models, each once, or by the names that a mapping gives them."""
    if not isinstance(value, Mapping):
        return several(ValueKind("a path", path_or_model))(value)
    if not value or not all(re.search(r"\w", str(name)) for name in value):
        raise ValueError(f"{value} holds nothing, or a name that says nothing")
    return {str(name): path_or_model(model) for name, model in value.items()}


MODELS = Option(
    "models",
    None,
    ValueKind(
        "paths of checkpoints and exports separated by commas, each once; in Python a mapping gives them names",
        _models,
        annotation="Mapping[str, ModelSource] | Sequence[ModelSource]",
    ),
    "what is compared; words without an equals sign are taken as models as well",
    "a.pt,b.pt",
)
LAYER = Option("layer", (), MODULES, "layers to draw; not set: all that have what is drawn", "model.2.cv1")
KIND = Option(
    "kind",
    "2d",
    choice("2d", "3d", "gamma"),
    "2d draws how weights are distributed, with mean and spread; 3d each weight by output and input channel and place "
    "in the kernel; gamma the sorted scales of batch-norms, those that go apart",
)
AGAINST = Option(
    "against",
    None,
    ValueKind("the path of a checkpoint", path_or_model, annotation="ModelSource"),
    "checkpoint to compare with, usually the unpruned parent",
    "parent.pt",
)
