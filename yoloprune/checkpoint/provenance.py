"""Where a pruned model comes from: plain data in `model.yaml`, kept by fine-tuning, stripping and resuming."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from datetime import datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from yoloprune.backend import run_folders
from yoloprune.backend.yaml_markers import CLASSES, entry_of, last_part
from yoloprune.errors import ArgumentError


def make_provenance(parent: str | Path | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a model was made from and how, in plain data and without any path of this machine.

    Args:
        parent (str | Path | None): The parent's file; None for a live object.
        arguments (Mapping): What the user asked for; of paths only the file name is kept.

    Returns:
        (dict): `parent` (`name` and `sha256`, or None), `arguments`, `versions` and `date`.
    """
    file = Path(parent) if parent is not None else None
    digest = sha256(file.read_bytes()).hexdigest() if file is not None and file.is_file() else None
    return {
        "parent": None if file is None else {"name": file.name, "sha256": digest},
        "arguments": {k: plain(v, str if k == CLASSES else last_part) for k, v in arguments.items()},
        "versions": versions(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """What runs, by package."""
    return {name: _version(name) for name in ("yoloprune", "ultralytics", "torch")}


def provenance(model: Any) -> dict[str, Any] | None:
    """Return how a model was pruned, None if yoloprune did not; `earlier` lists the prunings before, oldest first.

    Args:
        model (YOLO | nn.Module): Any model; fine-tuning, stripping and resuming keep the answer.
    """
    entry = entry_of(model)
    return None if entry is None else deepcopy(entry["provenance"])


def parent_file(pruned: Any, wanted: str = "distill=parent", instead: str = "distill_model") -> Path:
    """Find the parent's checkpoint among those that a pruned model was made from, step by step.

    Args:
        pruned (YOLO): The pruned model; where it was loaded from tells where to look.
        wanted (str): What asks for it, for errors.
        instead (str): Key that names another file.

    Returns:
        (Path): A file whose content is the parent's.

    Raises:
        ArgumentError: If there is none, or the model was not pruned by yoloprune.
    """
    told = provenance(pruned)
    if told is None:
        raise ArgumentError(f"{wanted}: this model was not pruned by yoloprune. Give {instead}=teacher.pt.")
    if pruned.ckpt_path:
        for file in _made_from(Path(pruned.ckpt_path)):
            if make_provenance(file, {})["parent"] == told["parent"]:
                return file
    if told["parent"] is None:
        raise ArgumentError(f"{wanted}: this model was pruned from a live object. Give {instead}=teacher.pt.")
    name, digest = told["parent"]["name"], str(told["parent"]["sha256"])[:12]
    raise ArgumentError(
        f"{wanted}: the parent {name} (sha256 {digest}…) is not where it was when this model was pruned, or was "
        f"changed. Give {instead}=path/to/{name}."
    )


def _made_from(file: Path) -> Iterator[Path]:
    """The checkpoints that a run began with, and theirs, as the args.yaml of each run names them, nearest first."""
    seen = {Path()}  # a resumed run names itself
    while True:
        args = file.resolve().parent.parent / run_folders.ARGS
        try:
            file = Path(str(run_folders.read_yaml(args).get("model") or ""))
        except ArgumentError:  # none there, or somebody else's of that name
            return
        if file in seen or not file.is_file():
            return
        seen.add(file)
        yield file


def pruned_widths(model: Any) -> dict[str, dict[str, Any]] | None:
    """Return the widths that differ from what the model's YAML builds, as `Plan.widths` does; None if not pruned.

    Args:
        model (YOLO | nn.Module): Any model.
    """
    entry = entry_of(model)
    return None if entry is None else deepcopy(entry["widths"])


def plain(value: Any, told: Callable[[str], str] = str) -> Any:
    """Plain data that a restricted loader accepts.

    Args:
        value (Any): Anything.
        told (Callable): What becomes of text, which may be a path or a name with slashes in it; of paths that are no
            text the file name is kept.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v, told) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v, told) for v in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if hasattr(value, "item"):  # a NumPy number or a tensor of one
        return value.item()
    if isinstance(value, os.PathLike):
        return last_part(str(value))
    return told(value) if isinstance(value, str) else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
