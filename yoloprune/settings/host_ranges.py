"""Ranges of Ultralytics' arguments that Ultralytics itself does not look at before it starts, or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from yoloprune.errors import ArgumentError

LARGEST_SIDE = 32768  # pixels; OpenCV reads images of up to this side squared
LARGEST_SEED = 2**32 - 2**16  # NumPy takes seeds below 2**32, and Ultralytics adds the number of the process


@dataclass(frozen=True)
class HostRange:
    """What values an argument of Ultralytics may have.

    Attributes:
        allowed (str): Completes the sentence "must be ...".
        holds (Callable[[float], bool]): Whether a number is one of them.
        whole (bool): Whether it has to be an integer.
    """

    allowed: str
    holds: Callable[[float], bool]
    whole: bool = True

    def takes(self, value: Any) -> bool:
        """Whether a value is allowed."""
        return is_number(value) and self.holds(value) and (not self.whole or float(value).is_integer())


RANGES: Mapping[str, HostRange] = {
    "imgsz": HostRange(
        f"an integer from 1 to {LARGEST_SIDE} (e.g. imgsz=640)",
        lambda x: 1 <= x <= LARGEST_SIDE,
    ),
    "batch": HostRange(
        "an integer of at least 1, a fraction below 1, or -1 (e.g. batch=16)",
        lambda x: x == -1 or 0 < x < 1 or (x >= 1 and float(x).is_integer()),
        whole=False,
    ),
    "workers": HostRange("an integer of at least 0 (e.g. workers=8)", lambda x: x >= 0),
    "time": HostRange("a number of hours above 0 (e.g. time=1.5)", lambda x: x > 0, whole=False),
    "seed": HostRange(f"an integer from 0 to {LARGEST_SEED} (e.g. seed=0)", lambda x: 0 <= x <= LARGEST_SEED),
    "close_mosaic": HostRange("an integer of at least 0 (e.g. close_mosaic=10)", lambda x: x >= 0),
    "multi_scale": HostRange("a fraction from 0 to below 1 (e.g. multi_scale=0.25)", lambda x: 0 <= x < 1, whole=False),
    "warmup_epochs": HostRange("a number of at least 0 (e.g. warmup_epochs=3)", lambda x: x >= 0, whole=False),
}


def is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number; a boolean is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_range(key: str, value: Any, other: str = "") -> None:
    """Raise ArgumentError for a number that is not finite, or a value out of its range; None stands for the default.

    Args:
        key (str): Name of the argument.
        value (Any): A number, or a list of them.
        other (str): What the message says to be allowed besides.
    """
    listed = list(value) if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(v, float) and not math.isfinite(v) for v in listed):
        raise ArgumentError(f"{key}={value}: must be finite. Received: {value}")
    if value is None or (known := RANGES.get(key)) is None:
        return
    if not 1 <= len(listed) <= 2 or not all(known.takes(v) for v in listed):
        raise ArgumentError(f"{key}={value}: must be {known.allowed}{other}. Received: {value}")


def plain_value(value: Any) -> Any:
    """NumPy's numbers and arrays, and tensors, as Python's own; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return type(value)(plain_value(v) for v in value) if type(value) in (list, tuple) else value
    return value.tolist() if callable(getattr(value, "tolist", None)) else value
