"""Earlier runs of the same `slim`: what of them lies in a folder, and which one the command goes on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from yoloprune import files
from yoloprune.backend import run_folders
from yoloprune.commands.following import UNFINISHED
from yoloprune.errors import ArgumentError
from yoloprune.reporting import run_report
from yoloprune.runtimes.deployment import EXPORT_KEYS
from yoloprune.settings.slim_request import SlimRequest

FACTS, LOCK = "slim.json", ".running"
DATA, WEIGHTS = "data_sha256", "weights_sha256"
"""Of the first stage: what tells the description of the data, and a live model, from others."""

FREE = frozenset({"project", "name", "exist_ok", "verbose", "save_dir"})
"""What the same command may have otherwise and still go on."""


def digest(file: Path) -> str | None:
    """What tells a file from another of its name, None where there is none."""
    return sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def holds_work(folder: Path) -> bool:
    """Whether a run holds more than the figures of its parent, and labels."""
    stages = [f for f in folder.glob("*-*") if (f / FACTS).is_file() and not f.name.endswith(("-parent", "-labels"))]
    return bool(stages) or any(folder.glob(f"*{UNFINISHED}/weights/last.pt"))


def changed_since(folder: Path, told: Mapping[str, Any]) -> list[str]:
    """What a run reads that was written anew since its parent was looked at; checkpoints are told by content instead.

    Args:
        folder (Path): Of the run, whose args.yaml is written again wherever it goes on.
        told (Mapping[str, Any]): What was asked for, as args.yaml holds it.
    """
    first = next(folder.glob(f"*-parent/{FACTS}"), None)  # by its name: in a copy of a run times mean nothing
    rows = told["model"] if str(told.get("model")).endswith((".yaml", ".yml")) else None
    changed = run_folders.changed_since(first or folder / run_folders.ARGS, rows, told.get("data"))
    known = json.loads(first.read_text(encoding="utf-8"))["more"].get(DATA) if first else None
    return [file for file in changed if known is None or digest(Path(file)) != known]  # the same may be written anew


def interrupted(request: SlimRequest, task: str, told: Mapping[str, Any]) -> tuple[Path | None, Any]:
    """A run to go on with, taken for this process; raises ArgumentError where one was asked for otherwise."""
    other: tuple[Path, list[str]] | None = None
    for folder in run_folders.earlier_runs(task, "slim", request.passed):
        before = run_folders.read_yaml(folder / run_folders.ARGS)
        if before.get("mode") != "slim" or (folder / run_report.JSON).is_file() or not holds_work(folder):
            continue
        if any(before.get(key) != told.get(key) for key in ("model", "data", "images")):
            continue
        free = FREE | _of_the_export(folder, before, told) | _of_the_machine(before, told)
        changed = sorted(k for k in {*before, *told} - free if before.get(k) != told.get(k))
        differences = [f"{k}={before.get(k)} and not {told.get(k)}" for k in changed]
        differences += [f"{file} as it was before it was written anew" for file in changed_since(folder, told)]
        handle = files.taken(folder / LOCK)
        if handle is None:
            continue  # it is running
        if not differences:
            return folder.resolve(), handle
        files.let_go(folder / LOCK, handle)
        other = other or (folder, differences)
    if other is not None:
        folder, differences = other
        raise ArgumentError(
            f"{folder} is an interrupted run of this model and data with {', '.join(differences)}. Give what it has to "
            "go on with it, or another name= to begin anew"
        )
    return None, None


def _of_the_export(folder: Path, before: Mapping[str, Any], told: Mapping[str, Any]) -> frozenset[str]:
    """What says how the model is exported, which may change until that is done: an export may be what failed."""
    timed, exported = before.get("latency"), any((f / FACTS).is_file() for f in folder.glob("*-export"))
    of_trainings = {k for one in (before, told) if not one.get("format") for k in EXPORT_KEYS if k in one}
    return frozenset() if timed or exported or of_trainings else frozenset({"format", "threads", *EXPORT_KEYS})


def _of_the_machine(before: Mapping[str, Any], told: Mapping[str, Any]) -> frozenset[str]:
    """Where it is worked, on however many GPUs, which may change unless a time was met there."""
    timed = before.get("latency") or told.get("latency")
    return frozenset() if timed else frozenset({"device", "workers"})
