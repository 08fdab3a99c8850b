"""Options that take several values, separated by commas or as a list, and each of them once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from yoloprune.settings.value_kinds import ValueKind, as_typed, unwrapped
from yoloprune.settings.written_numbers import by_one_of


class GivenTwiceError(ValueError):
    """A value that is there twice, which is the text of the error."""


def listed(value: Any) -> Sequence[Any]:
    """Return what a comma-separated text, a sequence or a single value holds."""
    if isinstance(value, str):
        return [part.strip(" '\"") for part in unwrapped(value).split(",")]
    return value if isinstance(value, (list, tuple)) else [value]


def several(kind: ValueKind) -> Callable[[Any], tuple[Any, ...]]:
    """Return the conversion of a comma-separated text, a sequence or a single value into values of a kind."""

    def convert(value: Any) -> tuple[Any, ...]:
        given = listed(value)
        values = tuple(kind.convert(v) for v in given)
        if not values:
            raise ValueError(f"{value} holds nothing")
        for i, known in enumerate(values):
            if known in values[:i]:
                raise GivenTwiceError(as_typed(given[i]))
        return values

    return convert


def by_commas(kind: ValueKind) -> ValueKind:
    """The kind of several values of a kind."""
    return ValueKind(
        f"{kind.allowed}; several separated by commas",
        several(kind),
        meant=by_one_of(kind.meant),
        annotation=f"{kind.annotation} | Sequence[{kind.annotation}]",
    )


def _class_name(value: Any) -> str | int:
    """Return a name, or a number from itself or its text, which is never a name: so does `yolo predict` read it."""
    text = str(value).strip(" '\"")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not text:
        raise TypeError(f"{value} is neither a name nor a number")
    return int(text) if text.isdecimal() else text


CLASS_NAMES = ValueKind(
    "names or numbers of classes separated by commas, each once, as person,dog or 0,16",
    several(ValueKind("a name or number", _class_name)),
    annotation="str | int | Sequence[str | int]",
)
