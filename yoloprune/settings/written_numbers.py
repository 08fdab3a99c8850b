"""Numbers as they are written, and what somebody meant who wrote one in another unit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any


def to_number(value: Any) -> float:
    """Return a finite float from a number or its text; raises ValueError or TypeError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{type(value).__name__} is not a number")
    parsed = float(value)
    if not math.isfinite(parsed):
        raise ValueError(f"{value} is not finite")
    return parsed


def fraction_meant(value: Any) -> str:
    """Return a question where somebody wrote percent, "50%" or 50, and a hint where it is the whole."""
    try:
        percent = to_number(value.strip().removesuffix("%") if isinstance(value, str) else value)
    except (TypeError, ValueError):
        return ""
    marked = isinstance(value, str) and value.strip().endswith("%")
    if percent == (100 if marked else 1):
        return ". That is the whole: give less, e.g. 0.5"
    return f". Did you mean {percent / 100:g}?" if (0 if marked else 5) <= percent < 100 else ""


def absolute_meant(unit: str) -> Callable[[Any], str]:
    """Return what to add to the message for an amount: how the absolute value is written that was perhaps meant.

    Args:
        unit (str): What such values have behind them, e.g. "M" of parameters.
    """
    long = re.compile(rf"([\d.]+)\s*({unit}|[KMGBT])[A-Za-z]*", re.IGNORECASE)  # 4.2GFLOPs, "2 million"

    def meant(value: Any) -> str:
        text = str(value).strip()
        asked = fraction_meant(value)
        try:
            if (found := long.fullmatch(text)) and not text.endswith("%"):
                return f". Did you mean {to_number(found[1]):g}{found[2].upper() if len(unit) == 1 else unit}?"
            if not 1 < (number := to_number(text)) < 1000:
                return asked
        except ValueError:
            return asked
        return f"{asked[:-1]} or {number:g}{unit}?" if asked.endswith("?") else f". Did you mean {number:g}{unit}?"

    return meant


def points_meant(value: Any) -> str:
    """Return a question where somebody wrote points of mAP, hundredths already, as "2%"."""
    text = str(value).strip()
    try:
        return f". It counts in points: did you mean {to_number(text[:-1]):g}?" if text.endswith("%") else ""
    except ValueError:
        return ""


def by_one_of(meant_by: Callable[[Any], str]) -> Callable[[Any], str]:
    """Return what to add to the message for several values: what is added for the first that is wrong."""

    def meant(value: Any) -> str:
        values = value.strip().strip("[]()").split(",") if isinstance(value, str) else value
        return next((m for v in (values if isinstance(values, (list, tuple)) else [values]) if (m := meant_by(v))), "")

    return meant
