"""What is written into `model.yaml`: the record of a pruning, the state of a sparse run, sentences that stop trainings.

`model.yaml` survives EMA, saving, stripping and resuming. A training that knows nothing of a sparse run would bring its
dead channels back to life in silence, and one that knows nothing of a pruning would train the parent. Ultralytics
builds the network to train from `model.yaml`, and a sentence stands where the name of the first module was: it is the
text of the error that stock trainers stop with.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import nn

from yoloprune.backend.model_facts import network

KEY = "yoloprune"
VERSION = 2
"""Of the record; 2 does without numbers that a rebuild from the parent's YAML needed."""
MASKED = 3
"""Of the record of a masked model, of which earlier releases would fill the zeros."""
MASKS = "masks"  # in the record: the `pattern`, and by name of the `layers` how many of its weights are zero at least
RAMP = "ramp"  # in the record of masks whose zeros become more: how far, by what, and in which `layers`
LAYERS = "layers"  # in the record: where the parent's modules are in a model whose blocks became several rows
CLASSES = "classes"  # in the provenance: `names` of the classes that were kept, and how many they were kept `of`
STATE_KEY = "yoloprune_sparse"
MODULE = "module"  # in the state: the name that the sentence replaced

# In the sentences no double quotes (KeyError prints the sentence between them) and no "nn." (Ultralytics 8.3 would look
# it up in torch).
STOP_PRUNED = (
    "This model was pruned by yoloprune. Stock Ultralytics would build the unpruned network and train that, so it "
    "stops here. Install yoloprune and run 'yoloprune finetune model=... data=...', or in Python 'from yoloprune "
    "import YOLO'. Validation, prediction and export work as they are"
)
STOP_OWN = (
    "The network of this checkpoint is not the one that its YAML describes. Stock Ultralytics would build that one and "
    "train it, so it stops here. Install yoloprune and run 'yoloprune finetune model=... data=...', or in Python 'from "
    "yoloprune import YOLO'. Validation, prediction and export work as they are"
)
STOP_MASKED = (
    "This model was masked by yoloprune. Stock Ultralytics would fill its zeros again, so it stops here. Install "
    "yoloprune and run 'yoloprune finetune model=... data=...', or in Python 'from yoloprune import YOLO'. Validation, "
    "prediction and export work as they are"
)
STOP_FOR_GOOD = (
    "This {family} model was pruned by yoloprune. Its trainer would build the unpruned network and train that, so it "
    "stops here. yoloprune has no trainer for pruned {family} models: train the parent first, then prune. "
    "Validation, prediction and export work as they are"
)
STOP_SPARSE = (
    "This model is of a sparse training by yoloprune. Another training would bring its dead channels back to life, so "
    "it stops here. Run 'yoloprune prune model=...' first; an interrupted run goes on with 'yoloprune train-sparse "
    "model=.../last.pt resume'. Validation, prediction and export work as they are"
)
UNTRAINABLE = {"WorldModel": "YOLO-World", "YOLOEModel": "YOLOE"}


OWN: Mapping[str, Any] = {"version": VERSION, "widths": {}, "own": True, "provenance": None}
"""The record of a network that nobody pruned and that its YAML does not describe."""


# The record of a pruning ----------------------------------------------------------------------------------------------
def entry_of(source: Any) -> dict[str, Any] | None:
    """Return the `yoloprune` entry of a model, a `YOLO` object or a model YAML; None if it has none."""
    inner = getattr(source, "model", None)  # older releases do not hand `yaml` on from a model to its YOLO object
    config = source if isinstance(source, Mapping) else getattr(source, "yaml", None) or getattr(inner, "yaml", None)
    return config.get(KEY) if isinstance(config, Mapping) else None


def masks_of(source: Any) -> dict[str, Any] | None:
    """The record of the masks of a model, see `MASKS`; None where it has none."""
    return (entry_of(source) or {}).get(MASKS)


def kept_classes(yolo: Any) -> list[str] | None:
    """Names of a model's classes where others were cut from it; None where none were, or a training changed them.

    Args:
        yolo (YOLO): The model.
    """
    told = (entry_of(yolo) or {}).get("provenance") or {}
    names = getattr(yolo.model, "names", {})
    now = list(names.values() if isinstance(names, Mapping) else names)
    cuts = (told, *reversed(told.get("earlier", [])))
    last = next((cut[CLASSES]["names"] for cut in cuts if cut.get(CLASSES)), None)
    # Earlier releases recorded names as if they were paths: shelf for Cabinet/shelf
    return now if last in (now, [last_part(name) if isinstance(name, str) else name for name in now]) else None


def last_part(path: str) -> str:
    """What stands behind the last slash of a path, of any system."""
    return path.replace("\\", "/").rpartition("/")[2]


def later(source: Any) -> str | None:
    """Why a record cannot be read, in words, where a later yoloprune wrote it; None where it can, or is none."""
    version = (entry_of(source) or {}).get("version", 0)
    return (
        f"This model was pruned by a later yoloprune (format {version}). Upgrade yoloprune."
        if version > MASKED
        else None
    )


def true_yaml(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a model YAML that builds the parent: without our entry, the names we replaced put back."""
    config = opened(config)
    if entry := config.pop(KEY, None):
        config["backbone"][0][2] = entry["yaml"]["module"]
        if "yaml_file" in entry["yaml"]:
            config["yaml_file"] = str(Path(config["yaml_file"]).with_name(entry["yaml"]["yaml_file"]))
    return config


def untrainable(model: nn.Module) -> str | None:
    """The family of a model that no trainer keeps the widths of, subclasses included; None for all others."""
    return next((UNTRAINABLE[c.__name__] for c in type(model).__mro__ if c.__name__ in UNTRAINABLE), None)


def mark(model: nn.Module, entry: Mapping[str, Any]) -> None:
    """Write an entry into `model.yaml`, and the sentence that stops stock training unless nothing was cut or masked.

    Args:
        model (nn.Module): An Ultralytics model that has the entry's widths.
        entry (Mapping): `version`, `widths` and `provenance`; `yaml`, what must be put back, is filled in.
    """
    config = true_yaml(network(model).yaml)
    replaced, how = {"module": config["backbone"][0][2]}, ""
    if entry.get("own"):
        config["backbone"][0][2] = STOP_OWN
    if entry.get(MASKS):
        config["backbone"][0][2] = STOP_MASKED
    if entry["widths"]:
        family = untrainable(model)
        config["backbone"][0][2] = STOP_FOR_GOOD.format(family=family) if family else STOP_PRUNED
        how = (
            f" (which cannot train {family}: train first, then prune)" if family else " (train with yoloprune finetune)"
        )
    if "yaml_file" in config and (entry["widths"] or entry.get("native")):
        # YOLO-World's and YOLOE's trainers, which take any model, build from the file of this name instead, native or
        # not; summaries begin with it.
        file = Path(config["yaml_file"])
        replaced["yaml_file"] = file.name
        config["yaml_file"] = str(file.with_name(f"{file.stem} pruned by yoloprune{how}.yaml"))
    config[KEY] = {**deepcopy(dict(entry)), "yaml": replaced}
    network(model).yaml = config


# The state of a sparse run --------------------------------------------------------------------------------------------
def sealed(config: Mapping[str, Any], state: Mapping[str, object]) -> dict[str, Any]:
    """A copy of a model YAML that holds the state of a run and stops other trainings.

    Args:
        config (Mapping[str, Any]): A model YAML, sealed before or not.
        state (Mapping[str, object]): Plain data.
    """
    config = opened(config)
    replaced = config["backbone"][0][2]
    config["backbone"][0][2] = STOP_SPARSE
    config[STATE_KEY] = {**state, MODULE: replaced}
    return config


def opened(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a model YAML that builds again; the state stays."""
    copy = deepcopy(dict(config))
    if replaced := copy.get(STATE_KEY, {}).pop(MODULE, None):
        copy["backbone"][0][2] = replaced
    return copy


def cleared(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a model YAML without any trace of a sparse run."""
    config = opened(config)
    config.pop(STATE_KEY, None)
    return config
