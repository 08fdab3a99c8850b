"""What values an option takes: amounts, shares, choices, module names; from text or Python to their final types."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from yoloprune.errors import ArgumentError
from yoloprune.settings.written_numbers import absolute_meant, fraction_meant, points_meant, to_number

UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
SMALLEST_ABSOLUTE = 1e3  # below it a plain number could be a mistyped fraction (1.5) or a percentage (50)
AMOUNT_ALLOWED = "a fraction between 0 and 1, or an absolute value with a unit (4.2G)"


@dataclass(frozen=True)
class ValueKind:
    """What values an option takes.

    Attributes:
        allowed (str): Completes the sentence "must be ...".
        convert (Callable[[Any], Any]): Returns the value in its final type; raises ValueError or TypeError otherwise.
        names (tuple[str, ...]): The possible values where they can be listed.
        meant (Callable[[Any], str]): What to add to the message for a value that is not allowed, perhaps nothing.
        annotation (str): The type of what is given, as a signature writes it.
    """

    allowed: str
    convert: Callable[[Any], Any]
    names: tuple[str, ...] = ()
    meant: Callable[[Any], str] = lambda _: ""
    annotation: str = "float"


def parse_amount(value: str | float) -> float:
    """Return a kept amount as a number: a fraction below 1, or an absolute count.

    Args:
        value (str | float): A fraction such as 0.5, a text with a unit such as '4.2G' or '500K' (K, M, G, T, and B for
            billions, in either case), or a plain count of at least 1000.

    Returns:
        (float): The fraction in (0, 1), or the absolute count (>= 1000).

    Raises:
        ArgumentError: If it is neither.

    Examples:
        >>> parse_amount("4.2G")
        4200000000.0
    """
    try:
        text = value.strip() if isinstance(value, str) else ""
        unit = UNITS.get(text[-1:].upper())
        parsed = to_number(text[:-1]) * unit if unit else to_number(value)
    except (TypeError, ValueError, OverflowError):
        parsed = math.nan
    if not (0 < parsed < 1 and not unit) and not SMALLEST_ABSOLUTE <= parsed < math.inf:
        raise ArgumentError(f"must be {AMOUNT_ALLOWED}. Received: {value}")
    return parsed


UNKNOWN = "..."
"""Stands in what is to be typed for a value that nobody can type."""


def as_typed(value: Any) -> str:
    """A value as one would type it behind its key; of a live model the file that it came from, where there is one."""
    if isinstance(value, tuple):
        return ",".join("=".join(map(as_typed, v)) if isinstance(v, tuple) else as_typed(v) for v in value)
    if not isinstance(value, (str, int, float, list, dict, PurePath)):
        value = getattr(value, "ckpt_path", None) or UNKNOWN
    return str(value)


def write_amount(value: float) -> str:
    """Return a fraction or an absolute count as one would type it: 0.5, 4.2G."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= size:
            return f"{value / size:.5g}{unit}"
    return f"{value:g}"


def number(allowed: str, holds: Callable[[float], bool], meant: Callable[[Any], str] = lambda _: "") -> ValueKind:
    """Return the kind of numbers for which `holds` is true; for `meant` see `ValueKind`."""

    def convert(value: Any) -> float:
        parsed = to_number(value)
        if not holds(parsed):
            raise ValueError(allowed)
        return parsed

    return ValueKind(allowed, convert, meant=meant)


def integer(at_least: int) -> ValueKind:
    """Return the kind of integers from `at_least` upward."""

    def convert(value: Any) -> int:
        parsed = to_number(value)
        if parsed != int(parsed) or parsed < at_least:
            raise ValueError(f"{value} is no integer in range")
        return int(parsed)

    return ValueKind(f"an integer of at least {at_least}", convert, annotation="int")


def choice(*names: str) -> ValueKind:
    """Return the kind of one word out of `names`; None stands for the word 'none' where that is one of them."""

    def convert(value: Any) -> str:
        word = str(value).strip().lower()
        if word not in names:
            raise ValueError(f"{value} is not among {names}")
        return word

    allowed = f"one of {', '.join(names)}" if len(names) > 1 else f"{names[0]} (or None)"
    literal = ", ".join(f'"{name}"' for name in names)
    return ValueKind(allowed, convert, names, annotation=f"Literal[{literal}]")


def _flag(value: Any) -> bool:
    """Return a boolean from itself or its name; 0 and 1 are refused, as Ultralytics refuses them."""
    word = str(value).strip().lower()
    if word not in {"true", "false"}:
        raise ValueError(f"{value} is no boolean")
    return word == "true"


def _flag_or(other: str) -> ValueKind:
    """A boolean, or one word more."""

    def convert(value: Any) -> bool | str:
        word = str(value).strip().lower()
        return other if word == other else _flag(value)

    allowed = f"True, False or {other}"
    return ValueKind(allowed, convert, ("true", "false", other), annotation=f'bool | Literal["{other}"]')


def _module_names(value: Any) -> tuple[str, ...]:
    """Return dotted names or shell patterns from a comma-separated text or a sequence."""
    if value is None:
        return ()
    if isinstance(value, str):
        text = value.strip()
        # `[a,b]` is a list as Ultralytics writes it; `[ab].cv1` and `model.[0-3]` are patterns and stay whole
        text = text[1:-1] if text.startswith("[") and text.endswith("]") and text.count("[") == 1 else text
        value = [] if text.lower() in {"", "none"} else [part.strip(" '\"") for part in text.strip(", ").split(",")]
    names = tuple(str(v) for v in value)
    if any(not re.fullmatch(r"[\w.:*?!\[\]-]+", n) for n in names):
        raise ValueError(f"{value} holds something that is no module name")
    return names


def unwrapped(text: str) -> str:
    """A text without the brackets of a list; one that stands at one end alone is part of a name or a pattern."""
    text = text.strip()
    return text[1:-1] if text[:1] + text[-1:] in {"[]", "()", "{}"} else text


def _layer_shares(value: Any) -> tuple[tuple[str, float], ...]:
    """Pairs of a name or pattern and a share, from `a=0.9,b=0.7`, a mapping, or pairs."""
    if value is None:
        return ()
    if isinstance(value, str):
        text = unwrapped(value).strip(", ")
        value = [] if text.lower() in {"", "none"} else [part.rpartition("=")[::2] for part in text.split(",")]
    pairs: list[tuple[Any, Any]] = list(value.items() if isinstance(value, Mapping) else value)
    found = []
    for name, share in pairs:
        if len(names := _module_names(name)) != 1 or not 0 <= to_number(share) <= 1:
            raise ValueError(f"{value} holds no name, or no share")
        found.append((names[0], to_number(share)))
    return tuple(found)


def path_or_model(value: Any) -> Any:
    """Return a path as text; a live model object passes unchanged."""
    if isinstance(value, (str, os.PathLike)) and (text := os.fspath(value)).strip():
        return text
    if not hasattr(value, "predict"):
        raise ValueError(f"{value} is neither a path nor a model")
    return value


def place(value: Any) -> str:
    """Return a path as text."""
    text = os.fspath(value)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("an empty path")
    return text


POINTS = number("a number above 0", lambda x: x > 0, points_meant)
POINTS_OR_NONE = number("a number of at least 0", lambda x: x >= 0, points_meant)
PLACE = ValueKind("a folder, an image, a video, or a text file that lists some", place, annotation="str | Path")
OPERATIONS = ValueKind(AMOUNT_ALLOWED, parse_amount, meant=absolute_meant("G"), annotation="float | str")
WEIGHTS = ValueKind(AMOUNT_ALLOWED, parse_amount, meant=absolute_meant("M"), annotation="float | str")
SHARE = number("a fraction above 0 and below 1", lambda x: 0 < x < 1, fraction_meant)
NATIVE_ROWS, BRANCHES = _flag_or("tied"), _flag_or("only")
FLAG = ValueKind("True or False", _flag, ("true", "false"), annotation="bool")
LAYER_SHARES = ValueKind(
    "names or patterns with a share from 0 to 1 each, as model.2.*=0.3,model.4=0.5",
    _layer_shares,
    annotation="str | Mapping[str, float] | Sequence[tuple[str, float]]",
)
MODULES = ValueKind(
    "dotted module names or shell patterns separated by commas, or backbone, neck",
    _module_names,
    annotation="str | Sequence[str]",
)
