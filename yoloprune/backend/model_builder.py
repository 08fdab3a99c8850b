"""Ultralytics' model builder: classes by name, rows and whole models from YAML."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from threading import get_ident
from typing import Any

import torch
from torch import nn

from yoloprune.backend import compat, model_facts
from yoloprune.cutting.width_attributes import corrected_numbers
from yoloprune.probing.operations import without_work
from yoloprune.torch_internals import filled, is_out_of_memory, undrawn, with_children

TAKES_OVER = "8.4.175"
"""First release of Ultralytics whose loading takes over a class branch of another width than a YAML builds."""

STAMPS = frozenset({"i", "f", "np"})  # what Ultralytics writes on every layer: index, sources, parameters


def numbers(module: nn.Module) -> dict[str, Any]:
    """Numbers, and lists of them, that a module keeps about its widths; empty where a cut has none to correct."""

    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def listed(value: Any) -> bool:
        return isinstance(value, (list, tuple)) and len(value) > 0 and all(map(number, value))

    if not corrected_numbers(module):
        return {}
    return {k: v for k, v in vars(module).items() if k not in STAMPS and (number(v) or listed(v))}


def layer_class(name: str) -> type[nn.Module]:
    """Class that a row of a model YAML names.

    Raises:
        LookupError: If there is none.
    """
    home: Any = compat.tasks
    prefix, _, key = name.rpartition(".")
    if prefix:  # as Ultralytics' parser reads it
        home = {"nn": nn}.get(prefix)
        if prefix == "torchvision.ops":
            import torchvision  # late: it takes as long to import as torch itself

            home = torchvision.ops
    if not hasattr(home, key):
        raise LookupError(name)
    found: type[nn.Module] = getattr(home, key)
    return found


def is_layer(name: str, kind: type[nn.Module]) -> bool:
    """Whether a row of this name is of a class."""
    try:
        return layer_class(name) is kind
    except LookupError:
        return False


def takes_repeats(name: str) -> bool:
    """Whether a class is constructed with the number of repeats as its third argument."""
    found = list(inspect.signature(layer_class(name).__init__).parameters.values())[1:]
    return len(found) > 2 and found[2].name == "n"


def build(kind: type[nn.Module], config: Mapping[str, Any], inputs: int, *, blank: bool = False) -> nn.Module:
    """Build a model from its YAML without printing.

    Args:
        kind (type): Model class.
        config (Mapping): Model YAML.
        inputs (int): Input channels.
        blank (bool): Whether it is compared and never used: then its weights are what the memory held, unless it takes
            over others, and its strides are told by shapes; to draw and to run takes most of the time.

    Returns:
        (nn.Module): With fresh weights.
    """
    level = compat.LOGGER.level
    compat.LOGGER.setLevel("ERROR")
    try:
        with _blank() if blank else nullcontext(), _activation_kept():
            return kind(cfg=deepcopy(dict(config)), ch=inputs, nc=config.get("nc"), verbose=False)
    finally:
        compat.LOGGER.setLevel(level)


def _activation_kept() -> AbstractContextManager[None]:
    """Put back what `activation:` of a YAML changes for the whole process: in earlier releases any build leaves it so,
    in later ones a row that fails.
    """
    return compat.replaced({"Conv.default_act": compat.Conv.default_act})


@contextmanager
def _blank() -> Iterator[None]:
    """Networks are built without drawing weights, and run for their strides without the work, where they take zeros as
    well; those of other threads as always.
    """
    forward, builder = compat.BaseModel.forward, get_ident()

    def shaped(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if get_ident() == builder:
            try:
                with without_work():
                    return forward(self, *args, **kwargs)
            except Exception as e:  # whatever a layer may raise that looks at its values
                if is_out_of_memory(e):
                    raise
        return forward(self, *args, **kwargs)

    with undrawn(), compat.replaced({"BaseModel.forward": shaped}):
        yield


def rebuild(model: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """What stock training makes of a model whose YAML is `config`: a fresh build that takes over the weights.

    It may also take over the class branch as it is, whose width depends on the classes it was first trained for.
    """
    fresh = build(type(model), config, model_facts.channels(model), blank=True)
    model_facts.network(fresh).load(deepcopy(model).cpu(), verbose=False)
    return fresh


def loaded(model: nn.Module, built: nn.Module, weights: nn.Module) -> nn.Module:
    """What loading the weights of a head makes of another one for the same inputs; its numbers mean nothing.

    Args:
        model (nn.Module): An Ultralytics network of the class that loads, stays untouched.
        built (nn.Module): The head that its YAML builds, stays untouched.
        weights (nn.Module): The head that the weights are of, stays untouched.
    """
    shells = []
    for head in (built, weights):
        last: Any = filled(deepcopy(head))
        if (stride := getattr(last, "stride", None)) is not None:
            last.stride = torch.ones(len(stride))  # by which biases are set anew
        shells.append(with_children(model, model=nn.Sequential(last)))
    fresh: Any = shells[0]
    fresh.load(shells[1], verbose=False)
    made: nn.Module = fresh.model[-1]
    return made


def scale_in(name: str) -> str:
    """The scale that Ultralytics reads from the name of a model YAML, empty where there is none."""
    scale: str = compat.guess_model_scale(name)
    return scale


class RefusedError(Exception):
    """The constructor of a layer does not take its arguments."""


def parse(config: dict[str, Any], inputs: int) -> nn.Sequential:
    """Let Ultralytics build the rows of a model YAML, without weights that mean anything.

    Raises:
        RefusedError: If a layer's constructor refuses. What fails around the constructors keeps its own error.
    """
    return parse_rows(config, inputs)[0]


def parse_rows(config: dict[str, Any], inputs: int) -> tuple[nn.Sequential, list[int]]:
    """The same, and the layers whose output later ones read."""
    try:
        with _activation_kept():
            built: tuple[nn.Sequential, list[int]] = compat.parse_model(config, inputs, verbose=False)
    except Exception as e:  # constructors assert, divide by zero, or raise whatever they like
        if is_out_of_memory(e) or not by_constructor(e):
            raise
        raise RefusedError(str(e)) from e
    return built


def by_constructor(error: Exception) -> bool:
    """Whether an error came out of a layer's constructor, or says that one was given what it has no parameter for."""
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    if "parse_model" not in names:
        return False  # whoever calls the parser has changed, or the parser itself
    inside = "__init__" in names[names.index("parse_model") :]
    return inside or (isinstance(error, TypeError) and "__init__()" in str(error))
