"""Whether what yoloprune wrote into a `model.yaml` is what it writes; asked where a model is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from torch import nn

from yoloprune.backend import yaml_markers
from yoloprune.backend.model_facts import network
from yoloprune.backend.yaml_markers import CLASSES, KEY, LAYERS, MASKED, MASKS, MODULE, RAMP, STATE_KEY
from yoloprune.errors import ModelError
from yoloprune.planning.plan import Plan
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.sparse_config import SparseConfig


class SparseState(TypedDict):
    """The state of a sparse run, which `sparse` writes and reads; plain data, as safe loading accepts it."""

    config: dict[str, Any]  # a SparseConfig by `asdict`
    met: bool
    progress: float
    steps: int
    reached: dict[str, float]
    held: int
    victims: list[int]
    scores: list[float]
    graph: str  # tells among which channels `victims` and `scores` are positions; absent in files of before


STATE: Mapping[str, tuple[type, ...]] = {
    "met": (bool,),
    "progress": (int, float),
    "steps": (int,),
    "held": (int,),
    "victims": (list,),
    "scores": (list,),
    MODULE: (str,),
}
"""Types in the state of a sparse run as it is found in a file."""


GROWTH: Mapping[str, tuple[type, ...]] = {
    "pattern": (str,),
    "sparsity": (float,),
    "score": (str,),
    "scope": (str,),
    "steps": (int,),
    "start": (int, float),
    "end": (int, float),
    "begin": (int, float),
    "layers": (list,),
    "asked": (dict,),
}
"""Types in the ramp of masks whose zeros become more."""


def require_sound(model: nn.Module, title: str) -> None:
    """Raise ModelError where a record is damaged: everything else takes it for what it should be.

    Args:
        model (nn.Module): An Ultralytics model.
        title (str): What it is called in the message.
    """
    config = getattr(network(model), "yaml", None)
    if not isinstance(config, Mapping):
        return
    checks: dict[str, Callable[[Any], None]] = {KEY: _check_pruning, STATE_KEY: _check_sparse_run}
    for key in checks.keys() & config.keys():
        try:
            checks[key](config[key])
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            told = f"{e} is missing" if isinstance(e, KeyError) else " ".join(str(e).split())
            raise ModelError(
                f"{title}: what yoloprune wrote into its model.yaml under '{key}' is damaged, {told}. Use another copy "
                "of the file, or the model that it was made from."
            ) from e


def require_known(model: nn.Module, title: str) -> None:
    """Raise ModelError where a later yoloprune wrote the record: validation does without, all else reads it.

    Args:
        model (nn.Module): An Ultralytics model.
        title (str): What it is called in the message.
    """
    if (later := yaml_markers.later(network(model))) is not None:
        raise ModelError(f"{title}: {later}")


def require_unmasked(model: nn.Module) -> None:
    """Raise ModelError where a model is masked: what is refitted after a cut would fill its zeros.

    Args:
        model (nn.Module): An Ultralytics model.
    """
    if yaml_markers.masks_of(network(model)) is not None:
        raise ModelError(
            "The model is masked, and what cuts channels would fill its zeros. Prune the model that it was masked "
            "from, then mask what comes of that"
        )


def sparse_config(state: Mapping[str, Any]) -> SparseConfig:
    """What a sparse run was to reach, and how, from its state; raises TypeError or ArgumentError if damaged."""
    saved = dict(state["config"])
    return SparseConfig(budget=Budget(**saved.pop("budget")), limits=Limits(**saved.pop("limits")), **saved)


def _check_pruning(record: Any) -> None:
    _require(record, "the record", dict)
    if _require(record["version"], "version", int) > MASKED:
        return  # of a later yoloprune, see `require_known`
    Plan.from_widths(_require(record["widths"], "widths", dict))
    for name, numbers in _require(record.get("numbers", {}), "numbers", dict).items():  # until version 1
        _require(numbers, f"numbers of {name}", dict)
    _require(_require(record["yaml"], "yaml", dict)["module"], "module", str)
    for name, places in _require(record.get(LAYERS) or {}, LAYERS, dict).items():
        _require(places, f"{LAYERS} of {name}", list)
    if (masks := _require(record.get(MASKS), MASKS, dict, type(None))) is not None:
        _require(masks["pattern"], "pattern", str)
        for name, count in _require(masks["layers"], "layers of the masks", dict).items():
            _require(count, f"zeros of {name}", int)
        if (ramp := _require(masks.get(RAMP), RAMP, dict, type(None))) is not None:
            for key, kinds in GROWTH.items():
                _require(ramp[key], f"{key} of the ramp", *kinds)
    told = _require(record["provenance"], "provenance", dict, type(None)) or {}
    for cut in (told, *_require(told.get("earlier", []), "earlier", list)):
        for part in ("arguments", "versions"):
            _require(_require(cut, "earlier", dict).get(part, {}), part, dict)
        if (classes := cut.get(CLASSES)) is not None:
            _require(_require(classes, CLASSES, dict)["names"], "names of the classes", list)
            _require(classes["of"], "number of the classes", int)
        if (parent := cut.get("parent")) is not None:
            _require(parent, "parent", dict)
            _require(parent["name"], "name of the parent", str)
            _require(parent["sha256"], "sha256 of the parent", str, type(None))


def _check_sparse_run(state: Any) -> None:
    _require(state, "the state", dict)
    _require(state["config"], "config", dict)
    sparse_config(state)
    for name, share in _require(state["reached"], "reached", dict).items():
        _require(share, f"{name} reached", int, float)
    for key, kinds in STATE.items():
        _require(state[key], key, *kinds)


def _require(value: Any, name: str, *kinds: type) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{name} is of type {type(value).__name__}")
    return value
