"""From `key=value`, recipe files and Python keywords to one checked request; imports neither torch nor Ultralytics."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from yoloprune.errors import ArgumentError, PruneError
from yoloprune.settings import options
from yoloprune.settings.options import COMMANDS, Command
from yoloprune.settings.value_kinds import parse_amount

__all__ = [
    "Request",
    "host_defaults",
    "load_recipe",
    "parse",
    "parse_amount",
    "request",
    "smart_value",
]

# Ultralytics accepts these although its default.yaml does not list them: superseded spellings, and two extras
SUPERSEDED = ("half", "int8", "end2end", "boxes", "hide_labels", "hide_conf", "line_thickness", "label_smoothing")
UNLISTED_HOST_KEYS = frozenset({*SUPERSEDED, "save_hybrid", "crop_fraction", "keras", "save_dir", "augmentations"})
BARE_FLAGS = frozenset({"half", "int8", "end2end", "nms"})  # boolean although no default says so
VERBATIM = frozenset({"name", "project"})  # a run called 7.10 is not the number 7.1
ALSO_ALLOWED: dict[str, tuple[type, ...]] = {  # beyond the type of the default; their content is Ultralytics' to judge
    "imgsz": (list, tuple),
    "batch": (float,),
    "fraction": (list, tuple),
    "scale": (list, tuple),
    **dict.fromkeys(("cache", "pretrained", "resume", "amp", "compile"), (str, os.PathLike, type(None))),
}


@dataclass(frozen=True)
class Request:
    """A checked command.

    Attributes:
        command (str): Name of the command, e.g. 'train-sparse'.
        settings (dict[str, Any]): All own keys of the command, defaults filled in.
        passed (dict[str, Any]): The Ultralytics keys that were given, `model` among them, and those for which the
            command has a default of its own.
    """

    command: str
    settings: dict[str, Any] = field(default_factory=dict)
    passed: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        """Return what was given as model, or None."""
        return self.passed.get("model")

    def kwargs(self) -> dict[str, Any]:
        """Return settings and passed keys as flat keyword arguments, without the model."""
        return {k: v for k, v in {**self.settings, **self.passed}.items() if k != "model"}


@cache
def _read_host_defaults() -> dict[str, Any]:
    """Return the content of Ultralytics' default.yaml."""
    spec = find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise PruneError("ultralytics is not installed, run: pip install ultralytics")
    return yaml.safe_load((Path(spec.origin).parent / "cfg" / "default.yaml").read_text(encoding="utf-8"))


def host_defaults() -> dict[str, Any]:
    """Return Ultralytics' default arguments, read from its file because importing Ultralytics takes seconds."""
    return dict(_read_host_defaults())


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


# Keys and values ------------------------------------------------------------------------------------------------------
def _host_keys(command: Command) -> dict[str, Any]:
    """Return the Ultralytics keys that the command accepts, with their defaults."""
    if command.host is None:
        return {**dict.fromkeys(UNLISTED_HOST_KEYS), **_read_host_defaults()}
    return {k: _read_host_defaults().get(k) for k in ((*command.host, "cfg") if command.host else ())}


def _knows(command: Command, key: str) -> bool:
    """Return whether the command takes this key."""
    return command.option(key) is not None or key in _host_keys(command)


def _unknown_key(key: str, commands: Sequence[Command]) -> ArgumentError:
    """Return the error for a key that none of the commands takes, with the nearest right spellings."""
    hints = {k: k if v is None else f"{k}={v}" for c in commands for k, v in _host_keys(c).items()}
    hints.update({o.name: o.hint for c in commands for o in c.options})
    of = f" of {commands[0].name}" if len(commands) == 1 else ""
    message = f"'{key}' is not a valid argument{of}."
    if others := [c.name for c in COMMANDS.values() if c not in commands and _knows(c, key)]:
        return ArgumentError(f"{message} It belongs to {', '.join(others)}.")
    if Path(key).suffix in {".pt", ".yaml", ".yml"} and of:
        return ArgumentError(f"{message} Did you mean '{'model' if key.endswith('.pt') else 'data'}={key}'?")
    if near := get_close_matches(key, hints):
        return ArgumentError(f"{message} Similar arguments are i.e. {[hints[k] for k in near]}.")
    return ArgumentError(f"{message} See 'yoloprune help{' ' + commands[0].name if of else ''}'.")


def _check_host_value(key: str, value: Any) -> Any:
    """Return an Ultralytics value whose type fits the type of its default; ranges are left to Ultralytics."""
    default = _read_host_defaults().get(key)
    if isinstance(value, str) and key not in VERBATIM:
        value = smart_value(value)
    if default is None or isinstance(default, str) or isinstance(value, ALSO_ALLOWED.get(key, ())):
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, bool):
        fits, allowed = isinstance(value, bool), "True or False"
    elif isinstance(default, int):
        fits, allowed = is_number and float(value).is_integer(), "an integer"
    else:
        fits, allowed = is_number, "a number"
    if not fits:
        raise ArgumentError(f"{key}={value}: must be {allowed} (i.e. {key}={default}). Received: {value}")
    return value


def _check_keys(given: Mapping[str, Any], command: Command) -> dict[str, Any]:
    """Return the values of one source in their final types; raises on a key that the command does not take."""
    checked: dict[str, Any] = {}
    for key, value in given.items():
        option = command.option(key)
        if option is not None:
            checked[key] = option.check(value)
        elif key in _host_keys(command):
            checked[key] = _check_host_value(key, value)
        else:
            raise _unknown_key(key, [command])
    return checked


# Recipes --------------------------------------------------------------------------------------------------------------
def load_recipe(path: str | Path, command: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a recipe: a YAML mapping of keys, with optional mappings under the names of commands.

    Args:
        path (str | Path): The file; a plain Ultralytics configuration is a recipe as well.
        command (str): Name of the command that will use it.

    Returns:
        general (dict[str, Any]): Checked top-level values that this command takes; others are left out.
        section (dict[str, Any]): Checked values from the command's own mapping, which override the general ones.

    Raises:
        ArgumentError: If the file cannot be read, or a key or value in it is wrong.
    """
    path = Path(path)
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = get_close_matches(path.name, siblings, n=1)
        raise ArgumentError(
            f"cfg={path}: no such file." + (f" Did you mean '{path.with_name(near[0])}'?" if near else "")
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader) or {}  # a safe loader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArgumentError(f"cfg={path}: not a readable YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ArgumentError(f"cfg={path}: must hold key: value pairs. Received: {type(content).__name__}")

    if {"mode", "save_dir"} <= set(content):
        content = _without_its_run(content)
    # `val` is a command and an Ultralytics switch: a mapping is the section, anything else the switch
    sections = {str(k).replace("_", "-"): v for k, v in content.items() if isinstance(v, dict)}
    general = {str(k): v for k, v in content.items() if not isinstance(v, dict)}
    try:
        if len(sections) + len(general) < len(content):
            raise ArgumentError("a command is given twice, once with '-' and once with '_'")
        for name in sections:
            if name not in COMMANDS:
                raise ArgumentError(_unknown_command(name).replace("a command", "a command or argument"))
        for key in general:
            if not any(_knows(c, key) for c in COMMANDS.values()):
                raise _unknown_key(key, list(COMMANDS.values()))
        for name, section in sections.items():
            for key in section:
                if not _knows(COMMANDS[name], str(key)):
                    raise _unknown_key(str(key), [COMMANDS[name]])
        known = {k: v for k, v in general.items() if _knows(COMMANDS[command], k)}
        layers = [_given(known), _given(sections.get(command, {}))]
        if any("cfg" in layer for layer in layers):
            raise ArgumentError("a recipe cannot name another recipe by 'cfg'")
        return _check_keys(layers[0], COMMANDS[command]), _check_keys(layers[1], COMMANDS[command])
    except ArgumentError as error:
        raise ArgumentError(f"{path}: {error}") from None


class _OnceLoader(yaml.SafeLoader):
    """YAML's safe loader, for which a key that is given twice is an error and not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Check the keys as they are written, before anchors are merged in."""
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"'{twice}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _without_its_run(content: Mapping[str, Any]) -> dict[str, Any]:
    """The args.yaml of a run without what ties it to that run's folder: done again, it gets a folder of its own.

    A resumed run names its own last.pt as the model; what it began with has to be given.
    """
    tied = {"save_dir", "exist_ok", "resume", *(["model"] if content.get("resume") else [])}
    return {k: v for k, v in content.items() if k not in tied}


def _given(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a recipe that say something: an empty one keeps its default where that is 'not set'."""
    own = {o.name for c in COMMANDS.values() for o in c.options}
    silent = {k for k in layer if k in own or _read_host_defaults().get(k) is None}
    return {str(k): v for k, v in layer.items() if v is not None or k not in silent}


# Requests -------------------------------------------------------------------------------------------------------------
def request(command: str, given: Mapping[str, Any]) -> Request:
    """Check keys and values and fill in the defaults.

    Args:
        command (str): Name of the command.
        given (Mapping[str, Any]): Own and Ultralytics keys with texts or Python values; `cfg` names a recipe, which
            they override. The settings and passed keys of an earlier request come back unchanged.

    Returns:
        (Request): What to do.

    Raises:
        ArgumentError: If a key or value is wrong, or a required one is missing.
    """
    spec = COMMANDS[command]
    given = dict(given)
    cfg = given.pop("cfg", None)
    direct = _check_keys(given, spec)
    layers = [direct] if cfg in (None, "") else [*load_recipe(cfg, command), direct]

    values: dict[str, Any] = {}
    for layer in layers:
        one_of = {o.name for o in options.EXCLUSIVE.get(command, ())}
        if any(layer.get(name) is not None for name in one_of):
            # one budget only: a nearer source that names another replaces, it does not contradict
            values = {k: v for k, v in values.items() if k not in one_of}
        values.update(layer)
    settings = {o.name: values.pop(o.name, o.default) for o in spec.options}
    if not values.get("model") and isinstance(values.get("resume"), (str, Path)):
        values["model"] = str(values["resume"])  # as `yolo train resume=last.pt`
    if values.get("optimizer") is None and not values.get("resume"):  # a resumed run brings its own
        values = {**spec.own_defaults, **values}
    _check_together(spec, settings, values)
    return Request(command, settings, values)


def _check_together(spec: Command, settings: dict[str, Any], passed: dict[str, Any]) -> None:
    """Check what single values cannot show, and fill in the budget of sparse training."""
    resume = bool(passed.get("resume"))
    for key in spec.required:
        if not passed.get(key) and not (key == "data" and resume):
            example = {"model": "yolov8n.pt", "data": "coco8.yaml"}[key]
            raise ArgumentError(f"{spec.name} needs '{key}', i.e. {key}={example}")
    _check_project(passed.get("project"))
    if (seed := passed.get("seed")) is not None and seed < 0:
        raise ArgumentError(f"seed={seed}: must be 0 or more. Received: {seed}")
    if spec.name == "train-sparse" and isinstance(passed.get("data"), (list, tuple)):
        raise ArgumentError(f"data={passed['data']}: train-sparse takes one data set. Received: {len(passed['data'])}")
    if spec.name in options.EXCLUSIVE:
        names = [o.name for o in options.EXCLUSIVE[spec.name]]
        given = [name for name in names if settings[name] is not None]
        if len(given) > 1:
            raise ArgumentError(f"{spec.name} takes exactly one of {', '.join(names)}. Received: {', '.join(given)}")
        if not given and not resume:  # a resumed run brings its own
            settings.update(options.DEFAULT_BUDGET[spec.name])
    if spec.name == "train-sparse":
        options.check_ramp(settings["ramp_start"], settings["ramp_end"])
    if spec.name == "prune" and settings["latency"] is not None and settings["flops"] is not None:
        raise ArgumentError(f"latency={settings['latency']}: must not be combined with flops, by which it is met")
    if spec.name == "finetune" and settings["distill"] and passed.get("distill_model"):
        raise ArgumentError("distill=parent: must not be combined with distill_model=, which names another teacher")


def _check_project(project: Any) -> None:
    """Raise where no run folder can be made, before hours of work; where a relative one lies is Ultralytics' to say."""
    if not project or not Path(project).is_absolute():
        return
    home = next(p for p in (Path(project), *Path(project).parents) if p.exists())
    if not home.is_dir():
        raise ArgumentError(f"project={project}: {home} is a file, so no folder can be made there")
    if not os.access(home, os.W_OK):
        raise ArgumentError(f"project={project}: {home} may not be written to. Choose another folder")


# The command line -----------------------------------------------------------------------------------------------------
def _unknown_command(word: str) -> str:
    """Return the message for a word that is no command."""
    if word in {"predict", "export", "track", "benchmark"}:
        return f"'{word}' is not a command. Pruned models are stock models: use 'yolo {word}'."
    near = get_close_matches(word, COMMANDS, n=1, cutoff=0.5)
    return f"'{word}' is not a command. " + (f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(COMMANDS)}.")


def find_command(tokens: Sequence[str]) -> str:
    """Return the name of the command among the tokens; raises ArgumentError when there is none."""
    names = [t.lstrip("-").replace("_", "-") for t in tokens if "=" not in t]
    known = next((n for n in names if n in COMMANDS), None)
    if known is None:
        raise ArgumentError(_unknown_command(names[0]) if names else f"no command given. Known: {', '.join(COMMANDS)}.")
    return known


def merge_tokens(argv: Sequence[str]) -> list[str]:
    """Return the tokens with `key = value` and `[0, 1]` each joined into one, as the `yolo` command does.

    Args:
        argv (Sequence[str]): What the shell passed.

    Returns:
        (list[str]): Tokens that are words or `key=value`.

    Raises:
        ArgumentError: If a bracket is not closed.
    """
    merged: list[str] = []
    for token in argv:
        if merged:
            last = merged[-1]
            open_bracket = last.count("[") > last.count("]")
            open_pair = last.endswith("=") and "=" not in token
            if open_bracket or open_pair or token.startswith("="):
                merged[-1] = last + token
                continue
        merged.append(token)
    for token in merged:
        if token.count("[") != token.count("]"):
            raise ArgumentError(f"'{token}' has an unmatched '[' or ']' bracket")
    return merged


def parse(argv: Sequence[str]) -> Request:
    """Turn a command line into a request.

    Args:
        argv (Sequence[str]): The words after `yoloprune`: a command, `key=value` pairs, and bare boolean keys.

    Returns:
        (Request): What to do.

    Raises:
        ArgumentError: If the command, a key or a value is wrong; the message is one line.
    """
    tokens = merge_tokens(argv)
    name = find_command(tokens)
    spec = COMMANDS[name]
    given: dict[str, Any] = {}
    seen_command = False
    for token in tokens:
        token = token.removeprefix("--").removesuffix(",")
        if not seen_command and token.replace("_", "-") == name:
            seen_command = True
            continue
        key, equals, value = (part.strip() for part in token.partition("="))
        if not equals:
            value = _bare_word(key, spec)
        elif not value:
            raise ArgumentError(f"'{key}=' is missing a value")
        if key in given:
            raise ArgumentError(f"{key}={value}: '{key}' is given twice. Received: {key}={given[key]} before")
        given[key] = None if key in VERBATIM and str(value).lower() == "none" else value
    return request(name, given)


def _bare_word(key: str, spec: Command) -> bool:
    """Return True for the name of a boolean key; raises ArgumentError for any other word."""
    if not _knows(spec, key):
        raise _unknown_key(key, [spec])
    option = spec.option(key)
    default = option.default if option else _host_keys(spec)[key]
    if isinstance(default, bool) or key in BARE_FLAGS:
        return True
    hint = option.hint if option else f"{key}={'...' if default is None else default}"
    raise ArgumentError(f"'{key}' is an argument of {spec.name} but is missing an '=' sign, i.e. try '{hint}'")
