"""Ultralytics' model builder: classes by name, rows and whole models from YAML. With `host`, the only file that
touches names of Ultralytics which are not public API.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import Conv
from ultralytics.utils import LOGGER

from yoloprune.backend import model_facts
from yoloprune.cutting.width_attributes import has_width_attributes

STAMPS = frozenset({"i", "f", "np"})  # what Ultralytics writes on every layer: index, sources, parameters


def numbers(module: nn.Module) -> dict[str, Any]:
    """Numbers, and lists of them, that a module keeps about its widths; empty where a cut has none to correct."""

    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def listed(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(number, value))

    if not has_width_attributes(module):
        return {}
    return {k: v for k, v in vars(module).items() if k not in STAMPS and (number(v) or listed(v))}


def layer_class(name: str) -> type[nn.Module]:
    """Class that a row of a model YAML names.

    Raises:
        AttributeError: If there is none.
    """
    return getattr(nn, name[3:]) if name.startswith("nn.") else getattr(tasks, name)


def build(kind: type[nn.Module], config: Mapping[str, Any], inputs: int) -> nn.Module:
    """Build a model from its YAML without printing: it is compared, never used.

    Args:
        kind (type): Model class.
        config (Mapping): Model YAML.
        inputs (int): Input channels.

    Returns:
        (nn.Module): With fresh weights.
    """
    level = LOGGER.level
    LOGGER.setLevel("ERROR")
    try:
        return kind(cfg=deepcopy(dict(config)), ch=inputs, nc=config.get("nc"), verbose=False)
    finally:
        LOGGER.setLevel(level)


def rebuild(model: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """What stock training makes of a model whose YAML is `config`: a fresh build that takes over the weights.

    It may also take over the class branch as it is, whose width depends on the classes it was first trained for.
    """
    fresh = build(type(model), config, model_facts.channels(model))
    fresh.load(deepcopy(model).cpu(), verbose=False)
    return fresh


def scale_in(name: str) -> str:
    """The scale that Ultralytics reads from the name of a model YAML, empty where there is none."""
    return tasks.guess_model_scale(name)


def parse(config: dict[str, Any], inputs: int) -> nn.Sequential:
    """Let Ultralytics build the rows of a model YAML, without weights that mean anything."""
    activation = Conv.default_act  # `activation:` changes it for the whole process, and a row that fails leaves it so
    try:
        return tasks.parse_model(config, inputs, verbose=False)[0]
    finally:
        Conv.default_act = activation
