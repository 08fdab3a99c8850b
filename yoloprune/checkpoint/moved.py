"""Checkpoints whose run folder gets another name: what they say of it is written anew."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from yoloprune import files
from yoloprune.backend import compat, run_folders


def settle(folder: Path, final: Path) -> None:
    """Make everything in a run's folder that names it name the folder that it is renamed to.

    Args:
        folder (Path): Where the run was.
        final (Path): What it will be called.
    """
    data_sets = [folder / name / "data.yaml" for name in run_folders.DATA_SETS]
    for file in (folder / run_folders.ARGS, *data_sets):
        if file.is_file():
            run_folders.write_yaml(file, _renamed(run_folders.read_yaml(file), folder, final))
    for file in sorted((folder / "weights").glob("*.pt")):
        content: dict[str, Any] = compat.torch_safe_load(str(file))[0]
        told = content.get("train_args") or {}
        if (renamed := _renamed(told, folder, final)) != told:
            content["train_args"] = renamed
            files.write_at_once(file, partial(torch.save, content))


def _renamed(told: dict[str, Any], folder: Path, final: Path) -> dict[str, Any]:
    """Values with the final name in the place of the other."""
    found = {k: v.replace(str(folder), str(final)) if isinstance(v, str) else v for k, v in told.items()}
    if found.get("name") == folder.name:
        found["name"] = final.name
    return found
