"""Official checkpoints by their names, found or downloaded by Ultralytics because the user named them."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path

from yoloprune.backend import compat, console
from yoloprune.errors import ModelError, first_line


def official_name(name: str) -> str | None:
    """File of the official checkpoint that a bare name stands for ("yolov8n", "yolo11s.pt"), None for any other."""
    file = name if name.endswith(".pt") else f"{name}.pt"
    return file if Path(file).name == file and file in compat.GITHUB_ASSETS_NAMES else None


def fetch(name: str) -> str:
    """Let Ultralytics find an official checkpoint among its weights, or download it, because the user named it.

    Returns:
        (str): Where it is.

    Raises:
        ModelError: If it cannot be fetched.
    """
    console.log("model: ", f"{name} is not here; Ultralytics looks among its weights or downloads it")
    try:
        return str(compat.attempt_download_asset(name))
    except (OSError, RuntimeError, HTTPException) as e:  # the first is the base of most that libraries below raise
        reason = first_line(e)
        raise ModelError(f"{name} is not here and could not be downloaded: {reason}") from e
