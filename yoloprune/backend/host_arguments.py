"""Ultralytics' arguments, judged before anything is loaded or made: by Ultralytics, and what it does not judge."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from torch import nn

from yoloprune.backend import compat, evaluation, moved_layers
from yoloprune.backend.model_facts import network
from yoloprune.errors import ArgumentError, raised_by
from yoloprune.settings.checking import QUANTIZED


def require(arguments: Mapping[str, Any]) -> None:
    """Let Ultralytics judge its arguments, which it otherwise does when models are loaded and images looked at.

    Args:
        arguments (Mapping[str, Any]): What a command passes on.

    Raises:
        ArgumentError: If it does not take one, or `device=` is not there.
    """
    level = compat.LOGGER.level
    compat.LOGGER.setLevel(logging.ERROR)  # what it says of superseded spellings it says again
    try:
        compat.get_cfg(overrides={k: v for k, v in arguments.items() if k != "trainer"})  # which `train` takes itself
        _require_optimizer(arguments.get("optimizer"))
    except ArgumentError:
        raise
    except (SyntaxError, TypeError, ValueError, AssertionError) as e:
        if raised_by(e) != "ultralytics":
            raise
        raise ArgumentError(str(e)) from None
    finally:
        compat.LOGGER.setLevel(level)
    evaluation.device(arguments.get("device"))


def require_openable(arguments: Mapping[str, Any]) -> None:
    """Raise ArgumentError where Ultralytics could not open the checkpoints of a run, which it reads by paths without
    quotes: at the end of a training it would look for one beside the folder.

    Args:
        arguments (Mapping[str, Any]): `project`, `name` and `save_dir` count, and of a resumed run none.
    """
    if arguments.get("resume"):
        return
    told = {k: arguments[k] for k in ("project", "name") if arguments.get(k) is not None}
    told = {"task": "detect", "mode": "train", "name": ".", "exist_ok": True, **told}
    folder = os.path.abspath(arguments.get("save_dir") or compat.get_save_dir(compat.get_cfg(overrides=told)))
    if "'" in folder:
        raise ArgumentError(
            f"project={folder}: Ultralytics opens no checkpoint whose path has a quote in it. Choose another folder"
        )


def _require_optimizer(name: Any) -> None:
    """Let Ultralytics judge the name of an optimizer, which it otherwise does when a training is set up."""
    if name in (None, "auto"):
        return
    try:
        compat.BaseTrainer.build_optimizer(None, nn.Linear(1, 1), name=name)
    except NotImplementedError as e:
        known = sorted(re.findall("'(\\w+)'", str(e).partition("{")[2]))
        raise ArgumentError(f"optimizer={name}: must be one of {', '.join(known)}. Received: {name}") from None
    except (AttributeError, TypeError, ValueError, RuntimeError):  # a release that asks the trainer more; it will say
        return


def require_quantizers(arguments: Mapping[str, Any]) -> None:
    """Raise ArgumentError where a training with quantizers is asked for and what Ultralytics does it by is missing.

    Ultralytics says so, or installs it, when the training has begun.
    """
    asked = str(arguments.get("quantize")).lower() in QUANTIZED or bool(arguments.get("int8"))
    if asked and "quantize" in compat.DEFAULT_CFG_DICT and find_spec("modelopt") is None:
        raise ArgumentError(
            f"quantize={arguments.get('quantize', 8)}: needs a package that is not installed, by which Ultralytics "
            "trains with quantizers. Run: pip install nvidia-modelopt huggingface_hub"
        )


def frozen_layers(model: nn.Module, freeze: Any) -> int | list[int | str] | None:
    """`freeze=` as Ultralytics shall read it: the first layers, or these, or modules by name.

    Ultralytics passes over a value of another type, and over what names no layer.

    Args:
        model (nn.Module): An Ultralytics model; where blocks of its parent became several rows, the parent's are meant.
        freeze (Any): What was given.

    Raises:
        ArgumentError: If it names a layer that is not there, or all of them.
    """
    if freeze is None:
        return None
    table = moved_layers.table_of(model)
    count = len(network(model).model)
    number = type(freeze) is int
    listed = list(range(freeze)) if number else list(freeze) if isinstance(freeze, (list, tuple)) else []
    layers = moved_layers.frozen_layers(listed, table)
    inside = [[n for n, _ in model.named_parameters() if f"model.{layer}." in n] for layer in layers]
    there = [
        bool(found) or (type(layer) is int and 0 <= layer < count) for layer, found in zip(layers, inside, strict=True)
    ]
    count = moved_layers.count(table) or count  # as they are numbered by whoever reads this
    if not all(there) or (not listed and freeze not in (0, [], ())):
        raise ArgumentError(
            f"freeze={freeze}: must be how many of the first layers are frozen, fewer than the {count} of this model, "
            f"or a list of layers from 0 to {count - 1} or of modules such as '0.conv'. Received: {freeze}"
        )
    if len({name for found in inside for name in found}) == len(list(model.parameters())):
        raise ArgumentError(f"freeze={freeze}: all layers would be frozen, and nothing trained. Freeze fewer")
    return freeze if number and layers == listed else layers


def held_still(model: nn.Module, freeze: Any) -> set[str]:
    """Names of the parameters that Ultralytics does not train under a `freeze=` that `frozen_layers` returned."""
    layers = range(freeze) if isinstance(freeze, int) else freeze or ()
    return {name for name, _ in model.named_parameters() if any(f"model.{layer}." in name for layer in layers)}
