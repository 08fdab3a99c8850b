"""Keys that a command takes, its own and Ultralytics', with the types that Ultralytics' defaults show."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from yoloprune.errors import ArgumentError, PruneError
from yoloprune.settings.command import Command
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.host_ranges import check_range, is_number, plain_value

# Ultralytics accepts these although its default.yaml does not list them: superseded spellings, extras
SUPERSEDED = ("half", "int8", "end2end", "boxes", "hide_labels", "hide_conf", "line_thickness", "label_smoothing")
UNLISTED_HOST_KEYS = frozenset(
    {*SUPERSEDED, "save_hybrid", "crop_fraction", "keras", "save_dir", "augmentations", "trainer"}
)
BARE_FLAGS = frozenset({"half", "int8", "end2end", "nms"})  # boolean although no default says so
VERBATIM = frozenset({"name", "project"})  # a run called 7.10 is not the number 7.1
PLACES = frozenset({"model", "data"})  # no numbers either, but data= may be False, or a list
FORMER = {"multi_scale": {False: 0.0, True: 0.5}}
"""What switches of older releases, as their args.yaml holds them, are where they are numbers now."""

ALSO_ALLOWED: dict[str, tuple[type, ...]] = {  # beyond the type of the default; their content is Ultralytics' to judge
    "imgsz": (list, tuple),
    "batch": (float,),
    "fraction": (list, tuple),
    "scale": (list, tuple),
    **dict.fromkeys(("cache", "pretrained", "resume", "amp", "compile"), (str, os.PathLike, type(None))),
}


_PAIRS = (("ratio", "sparsity"), ("layers", "layer"), ("max_drop", "within"))
TWINS = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
"""What is called otherwise by other commands: a share that goes, layers, points that may be lost."""

TRAININGS = frozenset({"train-sparse", "finetune"})
"""Commands whose trainer, Ultralytics' own, says itself what it makes of an `imgsz=` of two sides."""

CUTS = frozenset({"slim", "prune", "sweep", "mask"})
"""Commands behind which there are, or may soon be, several models to choose from."""

AUTO = "auto"
"""What `imgsz=` may be where a command chooses the side."""


def host_defaults() -> dict[str, Any]:
    """Return Ultralytics' default arguments, read from its file because importing Ultralytics takes seconds."""
    return dict(_read_host_defaults())


@cache
def _read_host_defaults() -> dict[str, Any]:
    """Return the content of Ultralytics' default.yaml."""
    spec = find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise PruneError("ultralytics is not installed, run: pip install ultralytics")
    defaults: dict[str, Any] = yaml.safe_load(
        (Path(spec.origin).parent / "cfg" / "default.yaml").read_text(encoding="utf-8")
    )
    return defaults


def smart_value(text: str) -> Any:
    """Return the Python value that a text stands for, as Ultralytics reads its command line.

    Args:
        text (str): 'true', 'None', '3', '0.5', '[0, 1]' or any other text.

    Returns:
        (Any): Boolean, None, number, list or tuple; the text itself when it is none of these.
    """
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def host_keys(command: Command) -> dict[str, Any]:
    """Return the Ultralytics keys that the command accepts, with their defaults."""
    if command.host_keys is None:
        return {**dict.fromkeys(UNLISTED_HOST_KEYS), **_read_host_defaults()}
    return {k: _read_host_defaults().get(k) for k in ((*command.host_keys, "cfg") if command.host_keys else ())}


def knows(command: Command, key: str) -> bool:
    """Return whether the command takes this key."""
    return command.option(key) is not None or key in host_keys(command)


def unknown_key(key: str, commands: Sequence[Command]) -> ArgumentError:
    """Return the error for a key that none of the commands takes, with the nearest right spellings."""
    hints = {k: k if v is None else f"{k}={v}" for c in commands for k, v in host_keys(c).items()}
    hints.update({o.name: o.hint for c in commands for o in c.options})
    of = f" of {commands[0].name}" if len(commands) == 1 else ""
    message = f"'{key}' is not a valid argument{of}."
    for c in commands:
        if (twin := c.option(TWINS.get(key, ""))) is not None:
            return ArgumentError(f"{message} Here it is {twin.name}=, e.g. {twin.hint}: {twin.meaning}.")
    if others := [c.name for c in COMMANDS.values() if c not in commands and knows(c, key)]:
        return ArgumentError(f"{message} It belongs to {', '.join(others)}.")
    if Path(key).suffix in {".pt", ".yaml", ".yml"} and of:
        return ArgumentError(f"{message} Did you mean '{'model' if key.endswith('.pt') else 'data'}={key}'?")
    if near := get_close_matches(key, hints):
        return ArgumentError(f"{message} Similar arguments are {', '.join(hints[k] for k in near)}.")
    return ArgumentError(f"{message} See 'yoloprune help{' ' + commands[0].name if of else ''}'.")


def unknown_command(word: str) -> str:
    """Return the message for a word that is no command."""
    if word in {"predict", "export", "track", "benchmark"}:
        return f"'{word}' is not a command. Pruned models are stock models: use 'yolo {word}'."
    near = [name for name in COMMANDS if word and (name.startswith(word) or word.startswith(name))]
    near = near or get_close_matches(word, COMMANDS, n=1)
    return f"'{word}' is not a command. " + (f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(COMMANDS)}.")


def check_keys(given: Mapping[str, Any], command: Command) -> dict[str, Any]:
    """Return the values of one source in their final types; raises on a key that the command does not take."""
    checked: dict[str, Any] = {}
    for key, value in given.items():
        option = command.option(key)
        if option is not None:
            checked[key] = option.check(value)
        elif key == "imgsz" and key in host_keys(command):
            checked[key] = _check_side(value, command)
        elif key in host_keys(command):
            checked[key] = check_host_value(key, value)
        else:
            raise unknown_key(key, [command])
    return checked


def _check_side(value: Any, command: Command) -> Any:
    """Return the side of the images, `auto` where the command chooses it; of two only a training makes something."""
    if isinstance(value, str) and value.strip().lower() == AUTO:
        if command.chooses_side:
            return AUTO
        takers = ", ".join(c.name for c in COMMANDS.values() if c.chooses_side)
        raise ArgumentError(f"imgsz={value}: {command.name} takes a number (e.g. imgsz=640); auto is for {takers}")
    given = smart_value(value) if isinstance(value, str) else plain_value(value)
    if isinstance(given, (list, tuple)) and given and command.name not in TRAININGS:
        if given.count(given[0]) < len(given):
            several = "one run each" + (", then 'yoloprune compare' of the models" if command.name in CUTS else "")
            raise ArgumentError(f"imgsz={value}: {command.name} takes one imgsz. For several: {several}")
        given = given[0]
    check_range("imgsz", given, ", or auto" if command.chooses_side else "")
    return check_host_value("imgsz", given)


def check_host_value(key: str, value: Any) -> Any:
    """Return an Ultralytics value whose type fits the type of its default; for its range see `host_ranges`."""
    default, typed = _read_host_defaults().get(key), value
    value = smart_value(value) if isinstance(value, str) and key not in VERBATIM else plain_value(value)
    value = str(typed) if key in PLACES and is_number(value) else value
    if not isinstance(default, bool):
        value = FORMER.get(key, {}).get(value, value) if isinstance(value, bool) else value
        check_range(key, value)
    default = False if key in BARE_FLAGS and value is not None else default
    if default is None or isinstance(default, str) or isinstance(value, ALSO_ALLOWED.get(key, ())):
        return value
    if isinstance(default, bool):
        fits, allowed = isinstance(value, bool), "True or False"
    elif isinstance(default, int):
        fits, allowed = is_number(value) and float(value).is_integer(), "an integer"
    else:
        fits, allowed = is_number(value), "a number"
    if not fits:
        raise ArgumentError(f"{key}={value}: must be {allowed} (e.g. {key}={default}). Received: {value}")
    return int(value) if type(default) is int else value
