"""What the table of options tells about a command as a Python function: its signature, and what its arguments mean."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from textwrap import fill
from typing import Any, TypeVar

from yoloprune.settings.command import Command
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.option import Option

Function = TypeVar("Function", bound=Callable[..., Any])
KEYWORD = inspect.Parameter.KEYWORD_ONLY
REST = "ultralytics_arguments"
WIDTH = 120  # characters


def tell(function: Function, name: str) -> Function:
    """Give a function that takes models and keywords the signature and the argument section of a command."""
    returned = inspect.signature(function).return_annotation
    function.__signature__ = inspect.Signature(parameters(COMMANDS[name]), return_annotation=returned)  # type: ignore[attr-defined]
    first, section, rest = (function.__doc__ or "").partition("    Returns:")
    function.__doc__ = f"{first}{arguments(COMMANDS[name])}\n\n{section}{rest}"
    return function


def parameters(command: Command) -> list[inspect.Parameter]:
    """The model or models, the command's own options by keyword, and Ultralytics' arguments."""
    several, options = _split(command)
    name, kind = ("model", "ModelSource") if several is None else (several.name, several.kind.annotation)
    first = inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
    own = [inspect.Parameter(o.name, _kind(o), default=o.default, annotation=annotation(o)) for o in options]
    return [first, *own, inspect.Parameter(REST, inspect.Parameter.VAR_KEYWORD, annotation="Any")]


def _split(command: Command) -> tuple[Option | None, list[Option]]:
    """The option that holds models, where a command takes several in place of one, and all others."""
    several = command.option("models")
    return several, [o for o in command.options if o is not several]


def _kind(option: Option) -> Any:
    """By keyword, but for the model to compare with."""
    return inspect.Parameter.POSITIONAL_OR_KEYWORD if option.name == "against" else KEYWORD


def annotation(option: Option) -> str:
    """The type of an option as a signature writes it."""
    return option.kind.annotation + (" | None" if option.default is None else "")


def arguments(command: Command) -> str:
    """The argument section of a docstring, from the meanings that help prints."""
    several, options = _split(command)
    told = [("model (ModelSource)", "Checkpoint, model YAML or live `YOLO`, which stays untouched.")]
    if several is not None:
        told = [(f"{several.name} ({several.kind.annotation})", f"{several.kind.allowed.capitalize()}.")]
    for option in options:
        said = option.meaning[0].upper() + option.meaning[1:]
        told.append(
            (f"{option.name} ({annotation(option)})", f"{said} [{option.kind.allowed}]. Default: {option.default!r}.")
        )
    told.append((f"**{REST} (Any)", _rest(command)))
    lines = [fill(f"{name}: {said}", WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 12) for name, said in told]
    return "\n".join(["    Args:", *lines])


def _rest(command: Command) -> str:
    """Which of Ultralytics' arguments a command takes."""
    if command.host_keys is None:
        return f"Every Ultralytics {command.mode} argument, and `cfg`, a recipe file."
    return ", ".join(k for k in (*command.host_keys, "cfg") if k != "model") + "."


def declaration(name: str, returned: str) -> str:
    """A command as a stub file declares it."""
    first, *own, _ = parameters(COMMANDS[name])
    keywords, lines = False, [f"def {name.replace('-', '_')}(", f"    {first.name}: {first.annotation},"]
    for parameter in own:
        if parameter.kind is KEYWORD and not keywords:
            keywords = True
            lines.append("    *,")
        default = repr(parameter.default).replace("'", '"')
        lines.append(f"    {parameter.name}: {parameter.annotation} = {default},")
    return "\n".join([*lines, f"    **{REST}: Any,", f") -> {returned}: ..."])
