"""What can go wrong, one class per kind; every message is a single line that says what failed and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move the cursor, rename a window, turn the writing around, and halves of such; not \\n and \\t."""

COLOURS = re.compile("(\x1b\\[[0-9;]*[mK])")
"""What Ultralytics itself sends to a terminal: colours, and the end of a line erased."""


def printable(text: str) -> str:
    """A text as a terminal may show it: names in a stranger's file are written by a stranger."""
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def raised_in(error: BaseException) -> str:
    """Which module of yoloprune or ultralytics is nearest to a failure, empty for none; others do not count."""
    nearest, traceback = "", error.__traceback__
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in {"yoloprune", "ultralytics"}:
            nearest = module
        traceback = traceback.tb_next
    return nearest


def raised_by(error: BaseException) -> str:
    """Which of yoloprune and ultralytics is nearest to a failure, empty for neither."""
    return raised_in(error).partition(".")[0]


def first_line(error: BaseException) -> str:
    """First line of what an error says, its class where it says nothing: for messages, which are a line each."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class PruneError(ValueError):
    """Base of every error that yoloprune raises on purpose.

    Attributes:
        exit_code (int): Exit status of the command line when this error ends it.
    """

    exit_code: int = 1


class ArgumentError(PruneError):
    """A key that does not exist, or a value that its key does not allow; found before anything starts."""

    exit_code = 2


class ModelError(PruneError):
    """The model cannot be used: file missing, not a YOLO checkpoint, or fused (no batch-norm left)."""


class BudgetError(PruneError):
    """The budget is out of reach under the limits that hold (widths, frozen layers, share per group)."""


class PlanError(PruneError):
    """The plan does not fit the model: another architecture, other widths, or indices out of range."""


class VerifyError(PruneError):
    """The cut model does not compute what its masked parent computes; nothing is saved."""


class UndecidedError(VerifyError):
    """The cut model differs from its masked parent in float32, and does not run in float64, which could tell why."""


class DataError(PruneError):
    """The data set is missing or empty, or the demo folder holds files that yoloprune did not write."""


class UnlabelledError(DataError):
    """No training image has a label that Ultralytics accepts."""


class DeviceLinkError(PruneError):
    """Another machine cannot be reached, or what was asked of it failed there."""


class WriteError(PruneError):
    """A file cannot be written: the disk is full, or the folder is somebody else's. What was there before stays.

    Attributes:
        path (Path): The file.
        reason (str): What the operating system says.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Cannot write {path}: {reason}. Make room, or choose another project= folder.")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[WriteError], tuple[Path, str]]:
        """From its parts: an error of another process is built anew in this one."""
        return type(self), (self.path, self.reason)
