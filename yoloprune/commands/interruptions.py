"""What an interrupted run left, and how it goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune import shell_words
from yoloprune.backend import datasets
from yoloprune.checkpoint import saving
from yoloprune.checkpoint.loading import ModelSource
from yoloprune.errors import ArgumentError, ModelError, WriteError


def tell(error: BaseException, left: str) -> None:
    """Make an interruption, or an error, say what is left and how to go on.

    Who tells last counts: a command that runs others knows better than they do.
    """
    alone = vars(error).setdefault("alone", str(error))
    error.args = (f"{alone} {left[:1].upper()}{left[1:]}" if alone else left,)


@contextlib.contextmanager
def telling(left: Callable[[], str | None]) -> Iterator[None]:
    """Tell what a block left that was interrupted.

    Args:
        left (Callable): What is kept and how to go on, None for nothing.
    """
    try:
        yield
    except KeyboardInterrupt as e:
        if (said := left()) is not None:
            tell(e, said)
        raise


@contextlib.contextmanager
def going_on(yolo: ultralytics.YOLO, command: str) -> Iterator[None]:
    """Say what an interrupted training left and how it goes on; leave nothing of one that had saved nothing."""
    try:
        yield
    except (KeyboardInterrupt, Exception) as e:
        run = getattr(yolo.trainer, "run", None)  # a list of data sets has a trainer that is not ours
        if run is not None:
            run.drop_unused()
        if isinstance(e, (KeyboardInterrupt, WriteError)):
            tell(e, _what_is_left(yolo, command))
        raise


def _what_is_left(yolo: ultralytics.YOLO, command: str) -> str:
    """How a training goes on, or which model it left where it was over already."""
    last, best = (getattr(yolo.trainer, name, None) for name in ("last", "best"))
    if last is None or not Path(last).is_file():
        return "nothing was saved yet; the same command begins anew"
    try:
        goes_on = saving.goes_on(Path(last))
    except ModelError as e:  # what is to be told is why the training ended
        return str(e)
    over = f"the training was over; its model is {best if best and Path(best).is_file() else last}"
    return f"go on with: yoloprune {command} {shell_words.quoted(f'model={last}')} resume" if goes_on else over


def reopened(model: ModelSource, passed: Mapping[str, Any]) -> ultralytics.YOLO:
    """The interrupted run to go on with: `resume=` may name its checkpoint, as in Ultralytics.

    Raises:
        ArgumentError: If the run is finished, or `data=` has other classes, which Ultralytics takes in silence or
            notices after it has written that into the run's args.yaml.
        DataError: If `data=` is not there.
        ModelError: If the file is missing or no checkpoint.
    """
    yolo = saving.reopen(passed["resume"] if isinstance(passed["resume"], (str, Path)) else model)
    if data := passed.get("data"):
        datasets.require(data)
        if datasets.class_count(yolo, data) is not None and not datasets.has_classes_of(yolo, data):
            raise ArgumentError(
                f"resume: data={data} has other classes than this run ({datasets.difference(yolo, data)}). Leave data= "
                "away to go on with the run's own"
            )
    return yolo
