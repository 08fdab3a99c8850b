"""Save a pruned model as an ordinary stock checkpoint; with `loading`, the way in and out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import torch
import ultralytics
from torch import nn
from ultralytics.utils import DEFAULT_CFG_DICT

from yoloprune import builder, rows
from yoloprune.errors import PruneError
from yoloprune.loading import image_size, load, reopen, with_model
from yoloprune.plans import Plan
from yoloprune.provenance import make_provenance, plain, provenance, pruned_widths
from yoloprune.trainers import KEY, YOLO, mark_pruned

__all__ = [
    "YOLO",
    "image_size",
    "load",
    "make_provenance",
    "mark_pruned",
    "provenance",
    "pruned_widths",
    "reopen",
    "save",
    "with_model",
]


def save(
    yolo: ultralytics.YOLO,
    path: str | Path,
    *,
    plan: Plan,
    provenance: Mapping[str, Any],
    native: Mapping[str, Any] | None = None,
) -> Path:
    """Write a pruned model as Ultralytics writes a finished one: half precision, stock classes, plain data.

    Args:
        yolo (YOLO): Holds the cut model; its `model.yaml` is still the parent's. Stays untouched.
        path (str | Path): File to write; it is replaced in one step, so an interrupted run leaves the old one.
        plan (Plan): What was cut from the parent.
        provenance (Mapping): From `make_provenance`.
        native (Mapping | None): A stock YAML of the cut model; written beside the checkpoint as well.

    Returns:
        (Path): The file written.

    Raises:
        PlanError: If the parent's YAML, cut by the plan, does not give this model.
        PruneError: If the file is the one that the model came from, or cannot be written.
    """
    path = Path(path)
    for source in {yolo.ckpt_path, getattr(yolo.model, "pt_path", None)} - {None}:
        if path.exists() and Path(source).exists() and path.samefile(source):
            raise PruneError(
                f"{path} is the file that the model came from and is not overwritten. Choose another name."
            )
    model = deepcopy(yolo.model).float()
    mark_pruned(model, plan, plain(provenance), native)
    stored = (yolo.ckpt or {}).get("train_args") or {}
    arguments = {k: v for k, v in {"task": yolo.task, **stored}.items() if k in DEFAULT_CFG_DICT}
    model.args, model.criterion = dict(arguments), None
    vars(model).pop("pt_path", None)  # the loader sets it; this one names a place on the machine of the parent
    _to_half(model)
    checkpoint = {
        **dict.fromkeys(("best_fitness", "ema", "updates", "optimizer", "scaler", "train_metrics", "train_results")),
        "epoch": -1,
        "model": model,
        "train_args": arguments,
        "date": datetime.now().astimezone().isoformat(),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    # Ultralytics takes a scale from names such as yolo11m-pruned.yaml and adds to the rows what goes with it.
    beside = path.with_suffix(".yaml") if not builder.scale_in(path.name) else path.with_name("pruned.yaml")
    if native is not None:
        said = {k: v for k, v in model.yaml.items() if k not in {KEY, "yaml_file"}}
        if beside.exists() and not _is_ours(beside):
            raise PruneError(f"{beside} is not a file of yoloprune and is not overwritten. Choose another folder.")
        _replace(beside, lambda f: f.write(rows.text(said).encode()))
    elif _is_ours(beside):  # of another model that was saved here before
        beside.unlink()
    _replace(path, lambda f: torch.save(checkpoint, f))
    return path


def _is_ours(file: Path) -> bool:
    """Whether yoloprune wrote a model YAML."""
    return file.is_file() and file.read_text(encoding="utf-8", errors="replace").startswith(rows.HEADER)


def _replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file in one step, so that an interrupted run leaves the old one.

    Raises:
        PruneError: If it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            write(file)
        os.replace(part, path)
    except OSError as e:
        raise PruneError(f"Cannot write {path}: {e.strerror or e}. Choose another folder.") from e
    finally:
        if part.is_file():
            part.unlink()


def half(model: nn.Module) -> nn.Module:
    """A copy with the numbers that a checkpoint of it holds."""
    copy = deepcopy(model).float()
    _to_half(copy)
    return copy


def _to_half(model: nn.Module) -> None:
    limit = torch.finfo(torch.half).max
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.clamp_(-limit, limit)  # a large batch-norm variance would become infinite
    model.half().to(memory_format=torch.contiguous_format)
