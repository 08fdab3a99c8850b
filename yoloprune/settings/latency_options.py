"""Own options of `latency`, which has networks timed on another machine."""

from __future__ import annotations

import re
from typing import Any

from yoloprune import shell_words
from yoloprune.settings.option import Option
from yoloprune.settings.own_options import KEEP, LAYERS, MAX_RATIO, MIN_WIDTH, ROUND_TO, THREADS
from yoloprune.settings.value_kinds import ValueKind, place
from yoloprune.settings.view_options import AGAINST


def _target(value: Any) -> str:
    """Return a text that comes apart into words."""
    text = place(value)
    shell_words.split(text)  # raises ValueError where a quote is open
    return text


def _command(value: Any) -> str:
    """Return a text that says where the file of a network goes."""
    text = place(value)
    if "{model}" not in text:
        raise ValueError(f"{value} does not say where the network goes")
    return text


def _pattern(value: Any) -> str:
    """Return a regular expression with one group, or the word for the time of the whole command."""
    text = place(value)
    try:
        groups = re.compile(text).groups
    except re.error as e:
        raise ValueError(f"{value} is no regular expression") from e
    if text != "wall" and groups != 1:
        raise ValueError(f"{value} has no group, or several")
    return text


TARGET = Option(
    "target",
    None,
    ValueKind("a command to which a command line is added", _target, annotation="str"),
    "the device, reached by a command: the folder is sent there, measured there and the table fetched; not set: the "
    "folder is yours to carry",
    "ssh pi@host",
)
PYTHON = Option(
    "python",
    "python3",
    ValueKind("the path of a Python of 3.8 or later", place, annotation="str"),
    "what runs the script on target=, where the package of the runtime is installed",
)
CMD = Option(
    "cmd",
    None,
    ValueKind("a command with {model} in it", _command, annotation="str"),
    "runs one network on the device in place of the runtime's Python package, and prints its time; {model} stands for "
    "the exported file, as it is called in the folder",
    "./time.sh {model}",
)
PATTERN = Option(
    "pattern",
    None,
    ValueKind("a regular expression with one group, or wall", _pattern, annotation="str"),
    "finds the milliseconds in what cmd= prints; wall is the time of the whole command; not set: as trtexec, "
    "benchmark_app, benchmark_model and benchncnn print it, or the last number before ms",
    "took ([0-9.]+) ms",
)
LATENCY_OPTIONS = (AGAINST, TARGET, PYTHON, CMD, PATTERN, THREADS, ROUND_TO, MIN_WIDTH, MAX_RATIO, LAYERS, KEEP)
