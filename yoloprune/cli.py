"""The command line: help and errors in one line each, everything else handed to `api` and `demo`."""

from __future__ import annotations

import _thread
import contextlib
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any

import yaml

from yoloprune import completion, help_text
from yoloprune.errors import COLOURS, PruneError, printable, raised_by
from yoloprune.settings.command_line import find_command, merge_tokens, parse, spelled
from yoloprune.settings.request import Request

MODULES = {"val": "validate"}  # of commands, where the name is another
HELP_WORDS = frozenset({"help", "-h", "-help", "--help"})
VERSION_WORDS = frozenset({"version", "-v", "-version", "--version"})
AGAIN = 0.05  # seconds until an interrupt that was lost comes once more
NOTHING_LEFT = "nothing was written, and the same command begins anew"
LONGEST_MESSAGE = 600  # characters; Ultralytics appends whole manuals to some messages
# What Ultralytics, or a library that it calls, raises for an argument that only it can judge
WRONG_ARGUMENT = (SyntaxError, TypeError, ValueError, AssertionError, NotImplementedError, ImportError, yaml.YAMLError)


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv (list[str] | None): The words after `yoloprune`; those of this process when None.

    Returns:
        (int): Exit status: 0 done, 2 wrong argument, 1 any other expected failure, 130 interrupted.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if argv is None and not getattr(sys.flags, "safe_path", False) and not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())  # where users have the modules of their own layers, and 'python -m' finds them
    try:
        if (name := _named(words)) in ANSWERS:
            print(ANSWERS[name]([w for w in words if "=" not in w and spelled(w) != name]))
        else:
            with _no_interrupt_lost():
                _dispatch(parse(words))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has read enough, as 'head' does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it flushes at the end
        return 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
    except KeyboardInterrupt as interrupt:
        print(f"\nyoloprune: interrupted; {_one_line(interrupt, NOTHING_LEFT)}", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("YOLOPRUNE_DEBUG") == "1" or not _is_expected(error):
            raise
        remedy = ". A smaller imgsz= or batch= needs less memory" if _is_out_of_memory(error) else ""
        print(f"yoloprune: error: {_one_line(error)}{remedy}", file=sys.stderr)
        return error.exit_code if isinstance(error, PruneError) else 1
    return 0


def _named(words: list[str]) -> str:
    """Return the name of the command, also where it is asked for in the way of other programs."""
    if not words or HELP_WORDS.intersection(words):
        return "help"
    return "version" if words[0] in VERSION_WORDS else find_command(merge_tokens(words))


def _dispatch(request: Request) -> None:
    """Call the function that does what is asked."""
    # Late, and by name: importing torch takes seconds, which help and wrong arguments should not cost
    command = _imported(f"yoloprune.commands.{MODULES.get(request.command, request.command.replace('-', '_'))}")
    with import_module("yoloprune.backend.console").terminal_kept():
        command.run(request)


def _imported(name: str) -> Any:
    """A module.

    What comes with torch stays as long as the process: the garbage collector need not go through these hundred
    thousands of objects again and again, which takes a tenth of a pruning.
    """
    if "torch" in sys.modules:
        return import_module(name)
    gc.disable()
    try:
        return import_module(name)
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """Bring a KeyboardInterrupt once more that Python raised where nothing can be raised, and therefore ignored.

    Callbacks of weak references and finalizers are such places, and imports are full of them.
    """
    told = sys.unraisablehook
    again: list[threading.Timer] = []

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            told(unraisable)
            return
        again.append(threading.Timer(AGAIN, _thread.interrupt_main))  # at once it would be raised, and lost, right here
        again[-1].daemon = True
        again[-1].start()

    sys.unraisablehook = hook
    try:
        yield
        if any(timer.is_alive() for timer in again):
            raise KeyboardInterrupt  # the command was over first
    finally:
        for timer in again:
            timer.cancel()
        sys.unraisablehook = told


# Errors ---------------------------------------------------------------------------------------------------------------
def _is_expected(error: Exception) -> bool:
    """Return whether the user can do something about it; anything else is a bug and keeps its traceback."""
    if isinstance(error, (PruneError, OSError)) or _is_out_of_memory(error):
        return True
    if isinstance(error, RuntimeError) and str(error).startswith("Dataset '"):
        return True
    return isinstance(error, WRONG_ARGUMENT) and raised_by(error) == "ultralytics"


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out, of whichever device."""
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    return bool(import_module("yoloprune.torch_internals").is_out_of_memory(error))


def _one_line(error: BaseException, otherwise: str = "") -> str:
    """Return the message without line breaks, and not endless; of an error that says nothing its type."""
    text = printable(" ".join(COLOURS.sub("", str(error)).split())) or otherwise or type(error).__name__
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 1] + "…"


# Answers --------------------------------------------------------------------------------------------------------------
def _version(package: str) -> str:
    """Return the installed version of a package without importing it."""
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return "not installed"


def _help(words: list[str]) -> str:
    """Return the help of the command that the words name, or of the whole program."""
    return help_text.of([word for word in words if word not in HELP_WORDS])


def _versions(_: list[str]) -> str:
    """Return the versions of yoloprune and of what it stands on."""
    return f"yoloprune {_version('yoloprune')} (ultralytics {_version('ultralytics')})"


def _schema(_: list[str]) -> str:
    """Return what the keys of report.json mean."""
    return json.dumps(import_module("yoloprune.reporting.schema").SCHEMA, indent=2)


ANSWERS = {"help": _help, "completion": completion.script, "schema": _schema, "version": _versions}
"""What the command line answers by itself, from the words beside the command."""
