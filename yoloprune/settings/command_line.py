"""From words to keys, and to a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yoloprune import shell_words
from yoloprune.errors import ArgumentError
from yoloprune.settings import keys
from yoloprune.settings.checking import request
from yoloprune.settings.command import Command
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.request import Request
from yoloprune.settings.several_values import listed
from yoloprune.settings.value_kinds import UNKNOWN, as_typed


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
    models: list[str] = []
    seen_command = False
    for token in tokens:
        token = token.removeprefix("--").removesuffix(",")
        if not seen_command and spelled(token) == name:
            seen_command = True
            continue
        key, equals, text = (part.strip() for part in token.partition("="))
        value: str | bool = text
        if spec.option("models") and not keys.knows(spec, key) and (not equals or Path(token).exists()):
            models.append(token)
            continue
        if not equals:
            value = _bare_word(key, spec)
        elif not value:
            raise ArgumentError(f"'{key}=' is missing a value")
        if key in given:
            raise ArgumentError(f"{key}={value}: '{key}' is given twice. Received: {key}={given[key]} before")
        given[key] = None if key in keys.VERBATIM and str(value).lower() == "none" else value
    if models:
        given["models"] = [*listed(given.get("models", ())), *models]
    return request(name, given)


def spelled(word: str) -> str:
    """Return a word as the name of a command is written."""
    return word.lstrip("-").replace("_", "-")


def find_command(tokens: Sequence[str]) -> str:
    """Return the name of the command among the tokens; raises ArgumentError when there is none."""
    names = [spelled(t) for t in tokens if "=" not in t]
    known = next((n for n in names if n in COMMANDS), None)
    if known is None:
        raise ArgumentError(
            keys.unknown_command(names[0]) if names else f"no command given. Known: {', '.join(COMMANDS)}."
        )
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
            open_bracket = _opens_list(last) and last.count("[") > last.count("]")
            open_pair = last.endswith("=") and "=" not in token
            if open_bracket or open_pair or token.startswith("="):
                merged[-1] = last + token
                continue
        merged.append(token)
    for token in merged:
        if _opens_list(token) and token.count("[") != token.count("]"):
            raise ArgumentError(f"'{token}' has an unmatched '[' or ']' bracket")
    return merged


def _opens_list(token: str) -> bool:
    """Whether brackets in a token are those of a list; in the middle of a value they may be part of a file's name."""
    key, equals, value = token.partition("=")
    return (value if equals else key).lstrip().startswith("[")


def _bare_word(key: str, spec: Command) -> bool:
    """Return True for the name of a boolean key; raises ArgumentError for any other word."""
    if not keys.knows(spec, key):
        raise keys.unknown_key(key, [spec])
    option = spec.option(key)
    default = option.default if option else keys.host_keys(spec)[key]
    if isinstance(default, bool) or key in keys.BARE_FLAGS:
        return True
    hint = option.hint if option else f"{key}={'...' if default is None else default}"
    raise ArgumentError(f"'{key}' is an argument of {spec.name} but is missing an '=' sign, e.g. {hint}")


def written(request: Request) -> str:
    """A request as one would type it, without what is the default anyway; `parse` reads it back.

    Of a live model it is the file that it came from; without one nobody can type it, see `is_whole`.
    """
    told = {"model": request.model, **request.host, **changed(request)}
    models = told.pop("models", None) or ()  # as words: a comma may be part of a file's name
    models = [as_typed(m) for m in (models.values() if isinstance(models, Mapping) else models)]
    return " ".join(["yoloprune", request.command, *map(shell_words.quoted, [*models, *pairs(told)])])


def is_whole(words: str) -> bool:
    """Whether a written command can be typed as it is: all that it was given was text, or came from a file."""
    return all(word.rpartition("=")[2] != UNKNOWN for word in shell_words.split(words))


def taken(command: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Those keys of another command that this one takes as well."""
    return {k: v for k, v in told.items() if keys.knows(COMMANDS[command], k)}


def changed(request: Request) -> dict[str, Any]:
    """The command's own keys whose values are not the defaults."""
    own = {o.name: o.default for o in COMMANDS[request.command].options}
    return {k: v for k, v in request.settings.items() if v != own[k]}


def pairs(told: Mapping[str, Any]) -> list[str]:
    """Keys and values as one would type them; those that are None are left out, and empty ones, which cannot be."""
    typed = {k: as_typed(v) for k, v in told.items() if v is not None}
    return [f"{k}={text}" for k, text in typed.items() if text]
