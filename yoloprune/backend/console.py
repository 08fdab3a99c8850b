"""Messages in the way of Ultralytics; called through the module, so that tests can replace them."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from yoloprune.backend import compat
from yoloprune.errors import COLOURS, printable

BARS = "is_noninteractive_console"
"""What Ultralytics' bars ask before they draw over themselves."""


def is_main_process() -> bool:
    """Whether this process logs and saves."""
    return compat.RANK in {-1, 0}


def is_coloured() -> bool:
    """Whether colours are seen: on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def title(text: str) -> str:
    """The beginning of a line or a bar, coloured as Ultralytics does it where colours are seen."""
    coloured: str = compat.colorstr(text) if is_coloured() else text
    return coloured


def log(prefix: str, message: str) -> None:
    """Log as Ultralytics does."""
    compat.LOGGER.info(f"{title(prefix)}{printable(message)}")


def conclude(prefix: str, message: str) -> None:
    """Log what a command ends with, which `verbose=False` leaves; see `hushed`."""
    level = compat.LOGGER.level
    if len(_hushed) == 1:
        compat.LOGGER.setLevel(_hushed[0])
    try:
        log(prefix, message)
    finally:
        compat.LOGGER.setLevel(level)


def warn(message: str) -> None:
    """Warn as Ultralytics does."""
    compat.LOGGER.warning(printable(message))


@contextlib.contextmanager
def terminal_kept() -> Iterator[None]:
    """While active, nothing that Ultralytics shows gives orders to a terminal: it prints the names of classes raw.

    Where colours are not seen they go as well, and without a terminal bars are not drawn over themselves.
    """
    terminal, coloured = sys.stdout.isatty(), is_coloured()

    def shown(text: str) -> str:
        parts = COLOURS.split(text.replace("YOLOprune", "yoloprune"))  # Ultralytics writes every "yolo" of a name so
        return "".join((part if coloured else "") if i % 2 else printable(part) for i, part in enumerate(parts))

    def plain(record: logging.LogRecord) -> bool:
        record.msg, record.args = shown(record.getMessage()), None
        return True

    def describe(bar: Any, text: str | None) -> None:
        vars(bar)["desc"] = shown(text or "")

    def leave(bar: Any, _: bool) -> None:  # else the line is erased, by an order to the terminal
        vars(bar)["leave"] = True

    bars = {} if terminal or not compat.has(BARS) else {BARS: lambda: True}
    compat.LOGGER.addFilter(plain)
    compat.TQDM.desc = property(lambda bar: vars(bar).get("desc", ""), describe)  # an attribute of each bar
    if not terminal:
        compat.TQDM.leave = property(lambda bar: True, leave)
    try:
        with compat.replaced(bars):
            yield
    finally:
        del compat.TQDM.desc
        if not terminal:
            del compat.TQDM.leave
        compat.LOGGER.removeFilter(plain)


_hushed: list[int] = []
"""The levels of logging before each `hushed` that is active, the outermost first."""


@contextlib.contextmanager
def hushed(asked: bool = True) -> Iterator[None]:
    """While active, only warnings and what a command ends with are seen: no other message and no bar.

    Inside another one, as of a command that runs others, what those end with is not seen either.

    Args:
        asked (bool): Whether to do so.
    """
    if not asked:
        yield
        return
    _hushed.append(compat.LOGGER.level)
    compat.LOGGER.setLevel(max(logging.WARNING, compat.LOGGER.level))
    if len(_hushed) == 1:  # bars that are given disable=False ask for no level
        compat.TQDM.disable = property(lambda bar: True, lambda bar, given: vars(bar).update(disable=given))
    try:
        yield
    finally:
        if len(_hushed) == 1:
            del compat.TQDM.disable
        compat.LOGGER.setLevel(_hushed.pop())


def is_hushed() -> bool:
    """Whether `hushed` is active."""
    return bool(_hushed)


Run = TypeVar("Run", bound=Callable[..., Any])


def heard_as_asked(run: Run) -> Run:
    """Let a command, which takes a request, obey `verbose=False`."""

    @functools.wraps(run)
    def heard(request: Any, *args: Any, **kwargs: Any) -> Any:
        with hushed(request.passed.get("verbose") is False):
            return run(request, *args, **kwargs)

    return cast("Run", heard)


@contextlib.contextmanager
def told_as(said: Callable[[str], str]) -> Iterator[None]:
    """While active, all that is logged is said otherwise, also what Ultralytics says.

    Args:
        said (Callable): From a message to what is shown of it.
    """

    def change(record: logging.LogRecord) -> bool:
        record.msg, record.args = said(record.getMessage()), None
        return True

    compat.LOGGER.addFilter(change)
    try:
        yield
    finally:
        compat.LOGGER.removeFilter(change)


@contextlib.contextmanager
def speaking_as(command: str) -> Iterator[None]:
    """While active, what the pieces of `prune` say is said by a command that tries cuts with them."""
    with told_as(lambda said: re.sub(r"^((?:\x1b\[[0-9;]*m)*)prune: ", rf"\g<1>{command}: ", said)):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While active, nobody says anything: Ultralytics, warnings of libraries, and programs that write to the terminal.

    For foreign work whose outcome is all that counts; what goes wrong is in the exception.
    """
    level = compat.LOGGER.level
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        compat.LOGGER.setLevel(logging.CRITICAL + 1)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
        # What Python prints goes elsewhere as well: a Windows console cannot be written to through such a stream.
        with open(os.devnull, "w", encoding="utf-8") as null, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
                yield
    finally:
        with contextlib.suppress(OSError):  # what somebody wrote who had the streams before
            sys.stdout.flush()
            sys.stderr.flush()
        for stream, before in zip((1, 2), kept, strict=True):
            os.dup2(before, stream)
            os.close(before)
        os.close(nowhere)
        compat.LOGGER.setLevel(level)
