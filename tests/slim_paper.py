"""Stages of a `slim` that write one file, or die."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from yoloprune.commands.slim_stages import Done


def writes(text: str = "it", **told: Any) -> Callable[[Path], Done]:
    """A stage that writes one file."""

    def work(part: Path) -> Done:
        (part / "weights").mkdir(parents=True, exist_ok=True)
        file = part / "weights" / "model.txt"
        file.write_text(text)
        return Done(file, {"mAP50-95": 0.5}, **told)

    return work


def killed(part: Path) -> Done:
    """A stage that dies in the middle."""
    (part / "weights").mkdir(parents=True)
    (part / "weights" / "last.pt").write_text("half")
    raise KeyboardInterrupt
