"""A time per image as it is asked for: a fraction of what it takes now, milliseconds, or images per second."""

from __future__ import annotations

from typing import Any

from yoloprune.settings.option import Option
from yoloprune.settings.value_kinds import ValueKind, place
from yoloprune.settings.written_numbers import absolute_meant, to_number


def _latency(value: Any) -> float | str:
    """Return a fraction, or milliseconds or images per second as text with the unit."""
    text = value.strip().lower() if isinstance(value, str) else ""
    unit = next((u for u in ("ms", "fps") if text.endswith(u)), "")
    parsed = to_number(text.removesuffix(unit) if text else value)
    if parsed <= 0 or (parsed >= 1 and not unit):
        raise ValueError(f"{value} is neither a fraction nor a time")
    return f"{parsed:g}{unit}" if unit else parsed


def milliseconds(latency: float | str, now: float) -> float:
    """Return a wanted time in milliseconds.

    Args:
        latency (float | str): A fraction of the time that it takes now, or a time or rate such as "12ms" and "30fps".
        now (float): Milliseconds that it takes now.
    """
    if not isinstance(latency, str):
        return latency * now
    return 1e3 / float(latency.removesuffix("fps")) if latency.endswith("fps") else float(latency.removesuffix("ms"))


LATENCY = ValueKind(
    "a fraction of the time that an image takes now (0.6), or milliseconds or a rate with the unit (12ms, 30fps)",
    _latency,
    meant=absolute_meant("ms"),
    annotation="float | str",
)

TIMES = Option(
    "times",
    None,
    ValueKind("the path of a table", place, annotation="str | Path"),
    "a table that 'yoloprune latency' had measured on another device, by which latency= is met there: predicted, for "
    "nothing is measured here",
    "times.csv",
)
