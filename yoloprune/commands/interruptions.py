"""What an interrupted training left, and how it goes on."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune.backend import console
from yoloprune.checkpoint import saving
from yoloprune.checkpoint.loading import ModelSource
from yoloprune.errors import ModelError, WriteError


@contextlib.contextmanager
def going_on(yolo: ultralytics.YOLO, command: str) -> Iterator[None]:
    """Say what an interrupted training left and how it goes on; leave nothing of one that failed before it began."""
    try:
        yield
    except Exception as e:
        run = getattr(yolo.trainer, "run", None)  # a list of data sets has a trainer that is not ours
        if run is not None:
            run.drop_unused()
        if isinstance(e, WriteError):
            _tell_what_is_left(yolo, command)
        raise
    except KeyboardInterrupt:
        _tell_what_is_left(yolo, command)
        raise


def _tell_what_is_left(yolo: ultralytics.YOLO, command: str) -> None:
    """Say how a training goes on, or which model it left where it was over already."""
    last, best = (getattr(yolo.trainer, name, None) for name in ("last", "best"))
    if last is None or not Path(last).is_file():
        left = "nothing was saved yet"
    else:
        try:
            goes_on = saving.goes_on(Path(last))
            over = f"the training was over; its model is {best if best and Path(best).is_file() else last}"
            left = f"go on with: yoloprune {command} {shlex.quote(f'model={last}')} resume" if goes_on else over
        except ModelError as e:  # what is to be told is why the training ended
            left = str(e)
    console.log(f"{command}: ", left)


def resumed(model: ModelSource, passed: Mapping[str, Any]) -> ModelSource:
    """The checkpoint to go on with: `resume=` may name it, as in Ultralytics."""
    return passed["resume"] if isinstance(passed["resume"], (str, Path)) else model
