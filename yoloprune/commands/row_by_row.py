"""A run whose table grows row by row, and which the same command goes on with where it was interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune import csv_rows, files
from yoloprune.backend import console, model_facts, run_folders
from yoloprune.commands import interruptions
from yoloprune.errors import ArgumentError
from yoloprune.reporting import run_report

LOCK, WEIGHTS = ".running", ".weights"
"""What a run holds as long as it lives, and, until it is over, what tells its model from others of that name."""

FREE = frozenset({"project", "name", "exist_ok", "verbose", "save_dir", "within", "ray"})
"""What the same command may have otherwise and still go on: none of it changes a row."""


@contextlib.contextmanager
def opened(
    command: str, parent: ultralytics.YOLO, told: Mapping[str, Any], passed: Mapping[str, Any], table: str
) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """The folder of a run, and the rows that are there already: of the same one that was interrupted, else a new one.

    Args:
        command (str): Its name.
        parent (YOLO): The model that rows are of; another one of its name begins anew.
        told (Mapping[str, Any]): All that was asked for, `mode` and `model` among it, as args.yaml holds it.
        passed (Mapping[str, Any]): Ultralytics' arguments, of which `project`, `name` and `exist_ok` count.
        table (str): Name of the CSV.

    Yields:
        (tuple[Path, list[dict[str, Any]]]): The folder, and rows without one that was torn.

    Raises:
        ArgumentError: If that folder is one of a run that goes on.
    """
    weights = model_facts.digest(parent.model)
    folder, handle = _interrupted(command, parent.task, told, passed, table, weights=weights)
    run = None if folder is None else run_folders.Run(folder, made=True)
    if run is not None:
        console.log(f"{command}: ", f"goes on with {folder}")
    with run or run_folders.new_run(parent.task, command, passed) as folder:
        if run is None:
            handle = files.taken(folder / LOCK)
            if handle is None:
                raise ArgumentError(f"{folder} is the folder of a run that goes on. Give another name=")
            for name in (table, *run_report.NAMES):  # of a run before, with exist_ok
                (folder / name).unlink(missing_ok=True)
            run_folders.write_yaml(folder / run_folders.ARGS, {**told, "save_dir": str(folder)})
            files.write_at_once(folder / WEIGHTS, lambda file: file.write(weights.encode()))
        try:
            with interruptions.telling(lambda: _left(folder / table)):
                yield folder, csv_rows.whole_rows(folder / table)
        finally:
            files.let_go(folder / LOCK, handle)
            if (folder / run_report.JSON).is_file() or not (folder / table).is_file():
                (folder / WEIGHTS).unlink(missing_ok=True)


def _left(table: Path) -> str | None:
    """What an interrupted run keeps, None where nothing was done yet."""
    return f"the same command goes on where it was; {table} keeps what is done" if table.is_file() else None


def _interrupted(
    command: str, task: str, told: Mapping[str, Any], passed: Mapping[str, Any], table: str, *, weights: str
) -> tuple[Path | None, Any]:
    """The folder of the same run that is not over, taken for this process."""

    def of(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in arguments.items() if k not in FREE}

    for folder in run_folders.earlier_runs(task, command, passed):
        args, known = folder / run_folders.ARGS, folder / WEIGHTS
        if of(run_folders.read_yaml(args)) != of(told):
            continue
        if (folder / run_report.JSON).is_file() or not (folder / table).is_file():
            continue
        if known.is_file() and known.read_text(encoding="utf-8") != weights:
            continue
        model = None if known.is_file() else told.get("model")  # of a release that kept no weights
        if run_folders.changed_since(args, model, told.get("data")):
            continue
        handle = files.taken(folder / LOCK)
        if handle is not None:
            return folder, handle
    return None, None
