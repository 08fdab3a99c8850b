"""Save a pruned model as an ordinary stock checkpoint; with `loading`, the way in and out."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import ultralytics
from torch import nn

from yoloprune import files
from yoloprune.backend import compat, model_builder
from yoloprune.backend.yaml_markers import KEY
from yoloprune.checkpoint.loading import at_side, goes_on, image_size, load, reopen, told_who_wrote, with_model
from yoloprune.checkpoint.models import YOLO
from yoloprune.checkpoint.provenance import make_provenance, plain, provenance, pruned_widths
from yoloprune.checkpoint.rebuild import mark_masked, mark_pruned
from yoloprune.errors import PruneError
from yoloprune.native import yaml_rows
from yoloprune.planning.plan import Plan

__all__ = [
    "YOLO",
    "Checkpoint",
    "at_side",
    "goes_on",
    "image_size",
    "load",
    "make_provenance",
    "mark_pruned",
    "pack",
    "pack_masked",
    "provenance",
    "pruned_widths",
    "reopen",
    "save",
    "told_who_wrote",
    "with_model",
]


@dataclass(frozen=True)
class Checkpoint:
    """A pruned model that is ready to be written.

    Attributes:
        content (dict[str, Any]): What Ultralytics' loader reads.
        yaml (dict[str, Any] | None): A stock YAML of the model, which goes into a file of its own.
        sources (frozenset[str]): Files that the model came from.
    """

    content: dict[str, Any]
    yaml: dict[str, Any] | None
    sources: frozenset[str]

    def require_room(self, path: Path) -> None:
        """Raise PruneError if a file would be overwritten that is not this model's to overwrite."""
        for source in self.sources:
            if path.exists() and Path(source).exists() and path.samefile(source):
                raise PruneError(
                    f"{path} is the file that the model came from and is not overwritten. Choose another name."
                )
        beside = _beside(path)
        if self.yaml is not None and beside.exists() and not _is_ours(beside):
            raise PruneError(f"{beside} is not a file of yoloprune and is not overwritten. Choose another folder.")

    def write(self, path: Path) -> None:
        """Write the checkpoint, and the YAML beside it."""
        if (said := self.yaml) is not None:
            files.write_at_once(_beside(path), lambda f: f.write(yaml_rows.text(said).encode()))
        files.write_at_once(path, lambda f: torch.save(self.content, f))

    def tidy(self, path: Path) -> None:
        """Remove the YAML of another model that was saved in this place before."""
        if self.yaml is None and _is_ours(beside := _beside(path)):
            beside.unlink()


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
        native (Mapping | None): A stock YAML of the cut model; written together with the checkpoint, beside it.

    Returns:
        (Path): The file written.

    Raises:
        PlanError: If the parent's YAML, cut by the plan, does not give this model.
        PruneError: If the file is the one that the model came from, or cannot be written.
    """
    path = Path(path)
    checkpoint = pack(yolo, plan=plan, provenance=provenance, native=native)
    checkpoint.require_room(path)
    with files.staged(path.parent) as part:
        checkpoint.write(part / path.name)
    checkpoint.tidy(path)
    return path


def pack(
    yolo: ultralytics.YOLO,
    *,
    plan: Plan,
    provenance: Mapping[str, Any],
    native: Mapping[str, Any] | None = None,
    layers: Mapping[str, list[str]] | None = None,
) -> Checkpoint:
    """Do all of `save` but the writing; raises PlanError as it does. `layers` tells where the parent's modules went."""
    model = deepcopy(yolo.model).float()
    mark_pruned(model, plan, plain(provenance), native, layers)
    said = None if native is None else {k: v for k, v in model.yaml.items() if k not in {KEY, "yaml_file"}}
    return _packed(yolo, model, said)


def pack_masked(
    yolo: ultralytics.YOLO, *, pattern: str, layers: Mapping[str, int], provenance: Mapping[str, Any]
) -> Checkpoint:
    """The checkpoint of a masked model, see `rebuild.mark_masked`."""
    model = deepcopy(yolo.model).float()
    mark_masked(model, pattern, layers, plain(provenance))
    return _packed(yolo, model, None)


def _packed(yolo: ultralytics.YOLO, model: Any, said: dict[str, Any] | None) -> Checkpoint:
    """A marked model as Ultralytics' loader reads it; `said` is the YAML that goes beside it."""
    stored = (yolo.ckpt or {}).get("train_args") or {}
    arguments = {k: v for k, v in {**stored, "task": yolo.task}.items() if k in compat.DEFAULT_CFG_DICT}
    model.args, model.criterion = dict(arguments), None
    vars(model).pop("pt_path", None)  # the loader sets it; this one names a place on the machine of the parent
    _to_half(model)
    content = {
        **dict.fromkeys(("best_fitness", "ema", "updates", "optimizer", "scaler", "train_metrics", "train_results")),
        "epoch": -1,
        "model": model,
        "train_args": arguments,
        "date": datetime.now().astimezone().isoformat(),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    sources = {yolo.ckpt_path, getattr(yolo.model, "pt_path", None)} - {None}
    return Checkpoint(content, said, frozenset(map(str, sources)))


def _beside(path: Path) -> Path:
    """Where the YAML of a checkpoint lies.

    Ultralytics takes a scale from names such as yolo11m-pruned.yaml and adds to the rows what goes with it.
    """
    return path.with_name("pruned.yaml") if model_builder.scale_in(path.name) else path.with_suffix(".yaml")


def _is_ours(file: Path) -> bool:
    """Whether yoloprune wrote a model YAML."""
    return file.is_file() and file.read_text(encoding="utf-8", errors="replace").startswith(yaml_rows.HEADER)


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
