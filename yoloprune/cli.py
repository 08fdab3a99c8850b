"""The command line: help and errors in one line each, everything else handed to `api` and `demo`."""

from __future__ import annotations

import _thread
import contextlib
import gc
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from textwrap import wrap
from typing import Any

import yaml

from yoloprune import completion
from yoloprune.errors import PruneError, printable, raised_by
from yoloprune.settings.command import Command
from yoloprune.settings.command_line import find_command, merge_tokens, parse
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.request import Request

MODULES = {"val": "validate"}  # of commands, where the name is another
HELP_WORDS = frozenset({"help", "-h", "-help", "--help"})
VERSION_WORDS = frozenset({"version", "-v", "-version", "--version"})
HELP_WIDTH = 110  # characters, where the terminal is not narrower
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
        if not words or HELP_WORDS.intersection(words):
            print(_help([w for w in words if w not in HELP_WORDS and "=" not in w]))
        elif words[0] == "completion":
            print(completion.script(words[1:]))
        elif words[0] == "schema":
            print(json.dumps(import_module("yoloprune.reporting.schema").SCHEMA, indent=2))
        elif words[0] in VERSION_WORDS:
            print(f"yoloprune {_version('yoloprune')} (ultralytics {_version('ultralytics')})")
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
    text = printable(" ".join(str(error).split())) or otherwise or type(error).__name__
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 1] + "…"


# Help -----------------------------------------------------------------------------------------------------------------
def _version(package: str) -> str:
    """Return the installed version of a package without importing it."""
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return "not installed"


def _columns() -> int:
    """Return how many characters a line of the help may have."""
    return max(40, min(HELP_WIDTH, shutil.get_terminal_size((HELP_WIDTH, 24)).columns))


def _indented(text: str) -> list[str]:
    """Return a paragraph of the help in lines."""
    return wrap(text, _columns(), initial_indent="  ", subsequent_indent="  ")


def _help(topic: list[str]) -> str:
    """Return the help of the command that the words name, or of the whole program."""
    if not topic:
        return _overview()
    command = COMMANDS[find_command(merge_tokens(topic))]
    return _command_help(command)


def _overview() -> str:
    """Return the help of the program."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "yoloprune prunes Ultralytics YOLO models.",
            "",
            "Usage: yoloprune COMMAND key=value ...",
            "",
            "Commands",
            *(f"  {c.name:<{width}}  {c.summary}" for c in COMMANDS.values()),
            "",
            "From a trained model to the one that is shipped, in one command",
            "  yoloprune slim model=best.pt data=my.yaml flops=0.5 epochs=50 format=onnx",
            "",
            "The same step by step",
            "  yoloprune sweep model=best.pt data=my.yaml",
            "  yoloprune prune model=best.pt data=my.yaml flops=0.5",
            "  yoloprune finetune model=runs/detect/prune/weights/pruned.pt data=my.yaml epochs=50",
            "  yolo predict model=runs/detect/finetune/weights/best.pt source=image.jpg",
            "",
            "Or from one that is not trained yet",
            "  yoloprune train-sparse model=yolov8n.pt data=my.yaml epochs=50 flops=0.5",
            "  yoloprune prune model=runs/detect/train-sparse/weights/best.pt",
            "",
            *wrap(
                "'yoloprune COMMAND help' lists the options of a command. cfg=recipe.yaml reads keys from a file; the "
                "command line wins over it. Every Ultralytics train and val argument passes through train-sparse, "
                "slim, finetune and val. YOLOPRUNE_DEBUG=1 shows the traceback of an error.",
                _columns(),
            ),
        ]
    )


def _command_help(command: Command) -> str:
    """Return the help of one command: usage, own options with defaults, Ultralytics' keys, examples."""
    if not command.options:
        lines = [f"yoloprune {command.name}: {command.summary}", "", "Examples"]
        return "\n".join([*lines, *(f"  yoloprune {example}" for example in command.examples)])
    names = [f"{o.name}={'' if o.default == () else o.default}" for o in command.options]
    width = max(map(len, names))
    lines = [
        f"yoloprune {command.name}: {command.summary}",
        "",
        f"Usage: yoloprune {' '.join([command.name, *(f'{key}=...' for key in command.required)])} key=value ...",
        "",
        "Options and their defaults",
    ]
    for name, option in zip(names, command.options, strict=True):
        text = f"{option.meaning} [{option.kind.allowed}]"
        start, hang = f"  {name:<{width}}  ", " " * (width + 4)
        lines += wrap(text, _columns(), initial_indent=start, subsequent_indent=hang, break_on_hyphens=False)
    lines += [line for note in command.notes for line in _indented(note)]
    lines += ["", "Ultralytics arguments"]
    if command.host_keys is None:
        mode = "val" if command.name == "val" else "train"
        lines += _indented(f"Every Ultralytics {mode} argument passes through unchanged ('yolo cfg' lists them):")
        lines += _indented("imgsz, batch, device, workers, project, name, seed ...")
        if command.own_defaults:
            said = " ".join(f"{k}={v}" for k, v in command.own_defaults.items())
            lines += _indented(f"Other defaults unless optimizer= is given: {said}")
    else:
        lines += _indented(", ".join(command.host_keys))
    lines += _indented("cfg=recipe.yaml reads keys of both sorts from a file; the command line wins over it.")
    return "\n".join([*lines, "", "Examples", *(f"  yoloprune {example}" for example in command.examples)])
