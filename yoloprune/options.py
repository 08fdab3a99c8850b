"""The commands and their own options as one table: defaults, what is allowed, what it means."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from yoloprune.errors import ArgumentError

UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
SMALLEST_ABSOLUTE = 1e3  # below it a plain number could be a mistyped fraction (1.5) or a percentage (50)
AMOUNT_ALLOWED = "a fraction between 0 and 1, or an absolute value with a unit (4.2G)"


@dataclass(frozen=True)
class Kind:
    """What values an option takes.

    Attributes:
        allowed (str): Completes the sentence "must be ...".
        convert (Callable[[Any], Any]): Returns the value in its final type; raises ValueError or TypeError otherwise.
        names (tuple[str, ...]): The possible values where they can be listed.
    """

    allowed: str
    convert: Callable[[Any], Any]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One own key of a command.

    Attributes:
        name (str): The key.
        default (Any): Value when the key is not given; None means "not set".
        kind (Kind): What values it takes.
        meaning (str): One line for the help.
        example (Any): Shown in hints when the default says nothing.
    """

    name: str
    default: Any
    kind: Kind
    meaning: str
    example: Any = None

    @property
    def hint(self) -> str:
        """Return `key=value` as one would type it."""
        return f"{self.name}={self.example if self.default in (None, ()) else self.default}"

    def check(self, value: Any) -> Any:
        """Return the value in its final type.

        Args:
            value (Any): Text from the command line, or a YAML or Python value.

        Returns:
            (Any): The converted value; checking it again returns the same.

        Raises:
            ArgumentError: If the value is not allowed.
        """
        if self.default is None and (value is None or (isinstance(value, str) and value.strip().lower() == "none")):
            return None
        try:
            return self.kind.convert(value)
        except (TypeError, ValueError, OverflowError):
            nearest = get_close_matches(str(value).lower(), self.kind.names, n=1)
            allowed = self.kind.allowed + (f" (nearest: {nearest[0]})" if nearest else "")
            raise ArgumentError(f"{self.name}={value}: must be {allowed}. Received: {value}") from None


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    Attributes:
        name (str): The word on the command line.
        summary (str): One line for the help.
        options (tuple[Option, ...]): Own keys.
        host (tuple[str, ...] | None): Ultralytics keys that are accepted; None accepts all of them.
        required (tuple[str, ...]): Ultralytics keys that must be given.
        examples (tuple[str, ...]): Command lines without the leading `yoloprune`.
        notes (tuple[str, ...]): Further lines for the help.
    """

    name: str
    summary: str
    options: tuple[Option, ...] = ()
    host: tuple[str, ...] | None = ()
    required: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def option(self, name: str) -> Option | None:
        """Return the own option of that name, or None."""
        return next((o for o in self.options if o.name == name), None)


# Conversions ----------------------------------------------------------------------------------------------------------
def to_number(value: Any) -> float:
    """Return a finite float from a number or its text; raises ValueError or TypeError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{type(value).__name__} is not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not finite")
    return number


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
        number = to_number(text[:-1]) * unit if unit else to_number(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (0 < number < 1 and not unit) and not SMALLEST_ABSOLUTE <= number < math.inf:
        raise ArgumentError(f"must be {AMOUNT_ALLOWED}. Received: {value}")
    return number


def _number(allowed: str, holds: Callable[[float], bool]) -> Kind:
    """Return the kind of numbers for which `holds` is true."""

    def convert(value: Any) -> float:
        number = to_number(value)
        if not holds(number):
            raise ValueError(allowed)
        return number

    return Kind(allowed, convert)


def _integer(at_least: int) -> Kind:
    """Return the kind of integers from `at_least` upward."""

    def convert(value: Any) -> int:
        number = to_number(value)
        if number != int(number) or number < at_least:
            raise ValueError(f"{value} is no integer in range")
        return int(number)

    return Kind(f"an integer of at least {at_least}", convert)


def _choice(*names: str) -> Kind:
    """Return the kind of one word out of `names`; None stands for the word 'none' where that is one of them."""

    def convert(value: Any) -> str:
        word = str(value).strip().lower()
        if word not in names:
            raise ValueError(f"{value} is not among {names}")
        return word

    return Kind(f"one of {', '.join(names)}" if len(names) > 1 else f"{names[0]} (or None)", convert, names)


def _flag(value: Any) -> bool:
    """Return a boolean from itself or its name; 0 and 1 are refused, as Ultralytics refuses them."""
    word = str(value).strip().lower()
    if word not in {"true", "false"}:
        raise ValueError(f"{value} is no boolean")
    return word == "true"


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
    if any(not re.fullmatch(r"[\w.*?!\[\]-]+", n) for n in names):
        raise ValueError(f"{value} holds something that is no module name")
    return names


def _several(kind: Kind) -> Callable[[Any], tuple[Any, ...]]:
    """Return the conversion of a comma-separated text, a sequence or a single value into values of a kind."""

    def convert(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            value = value.strip().strip("[]()").split(",")
        values = tuple(kind.convert(v) for v in (value if isinstance(value, (list, tuple)) else [value]))
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{value} holds nothing, or something twice")
        return values

    return convert


def _path_or_model(value: Any) -> Any:
    """Return a path as text; a live model object passes unchanged."""
    if isinstance(value, (str, os.PathLike)) and (text := os.fspath(value)).strip():
        return text
    if not hasattr(value, "predict"):
        raise ValueError(f"{value} is neither a path nor a model")
    return value


AMOUNT = Kind(AMOUNT_ALLOWED, parse_amount)
SHARE = _number("a fraction between 0 and 1 (both excluded)", lambda x: 0 < x < 1)
FLAG = Kind("True or False", _flag, ("true", "false"))
MODULES = Kind("dotted module names or shell patterns separated by commas, or backbone, neck", _module_names)

# The table ------------------------------------------------------------------------------------------------------------
FLOPS = Option("flops", None, AMOUNT, "FLOPs that are kept", 0.5)
PARAMS = Option("params", None, AMOUNT, "parameters that are kept", 0.5)
RATIO = Option("ratio", None, SHARE, "share of the prunable channels that is removed", 0.5)
SPARSITY = Option("sparsity", None, SHARE, "share of the prunable channel classes that is driven to zero", 0.5)
BUDGETS = (FLOPS, PARAMS, SPARSITY)  # of sparse training

ROUND_TO = Option("round_to", 8, _integer(1), "kept widths are multiples of this, because odd widths are slow")
MIN_WIDTH = Option("min_width", 8, _integer(1), "no layer gets narrower than this")
MAX_RATIO = Option(
    "max_ratio",
    0.8,
    _number("a fraction above 0 and at most 1", lambda x: 0 < x <= 1),
    "at most this share of a group of layers is removed",
)
KEEP = Option("keep", (), MODULES, "modules left as they are", "model.2.*")
UNIFORM = Option("uniform", False, FLAG, "every group of layers gives the same share, instead of one global ranking")
NATIVE = Option(
    "native",
    False,
    FLAG,
    "only widths that a stock model YAML can say: stock Ultralytics then trains the pruned model, yoloprune not needed",
)
SELECTION = (ROUND_TO, MIN_WIDTH, MAX_RATIO, KEEP, NATIVE)
DEMO_FLOPS = Option("flops", 0.5, AMOUNT, FLOPS.meaning)

MEASURED = frozenset({"taylor", "activation"})  # scores that look at data
_SCORES = _choice("auto", "bn", "l1", "l2", "lamp", "fpgm", "taylor", "activation", "random")
CUT_OPTIONS = (
    Option(
        "score",
        "auto",
        _SCORES,
        "importance of a channel; bn is |gamma| of its batch-norm, taylor how much the loss on labels hangs on it, "
        "activation its mean |value| (both need data=), the others look at filters; auto is taylor with data=, without "
        "it bn where sparse training left dead channels and l2 elsewhere",
    ),
    Option("reduce", "mean", _choice("mean", "max", "sum", "l2"), "how the scores of coupled channels become one"),
    Option(
        "normalize",
        "auto",
        _choice("auto", "none", "mean", "max", "cost"),
        "scores are divided by this of their group, or by the cost that a channel saves; auto is cost with "
        "score=taylor, whose unit is the loss, and none otherwise",
    ),
    UNIFORM,
    *SELECTION,
    Option(
        "recover",
        "auto",
        _choice("auto", "none", "fold", "bn", "lsq"),
        "fold moves what cut channels contributed into biases; bn then measures batch-norm statistics anew, lsq refits "
        "weights by least squares instead (both need data=); auto is lsq with data= and fold without",
    ),
)
PRUNE_OPTIONS = (FLOPS, PARAMS, RATIO, *CUT_OPTIONS)
SWEPT = tuple(
    Option(o.name, None, Kind(f"{o.kind.allowed}; several separated by commas", _several(o.kind)), o.meaning, "0.7,0.5")
    for o in (FLOPS, PARAMS, RATIO)
)
EXCLUSIVE = {"train-sparse": BUDGETS, "sweep": SWEPT}  # of these options a command takes exactly one
DEFAULT_BUDGET = {  # when none is given
    "train-sparse": {"flops": 0.5},
    "sweep": {"flops": (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)},
}
SWEEP_OPTIONS = (
    *SWEPT,
    Option("within", 3.0, _number("a number of at least 0", lambda x: x >= 0), "points of mAP50-95 that may be lost"),
    *CUT_OPTIONS,
)
SPARSE_OPTIONS = (
    *BUDGETS,
    Option(
        "penalty",
        "select",
        _choice("select", "prox", "group", "l1"),
        "select fades the least useful channels; prox (each gamma), group (coupled gammas together) and l1 push on all",
    ),
    Option(
        "penalty_weight",
        None,
        _number("a number above 0", lambda x: x > 0),
        "strength of prox, group and l1; None steers prox and group to the budget, and is 0.01 for l1",
        1e-4,
    ),
    Option(
        "score",
        "taylor",
        _choice("taylor", "gamma", "gamma-mean"),
        "what select ranks by: how much the loss hangs on a channel, |gamma|, or |gamma| over the mean of its layer",
    ),
    Option("normalize", "cost", _choice("none", "cost"), "cost ranks by score per FLOP (or parameter) saved"),
    Option(
        "ramp_start",
        0.1,
        _number("a fraction from 0 to below 1", lambda x: 0 <= x < 1),
        "share of the run after which the first channels fade",
    ),
    Option(
        "ramp_end",
        0.6,
        _number("a fraction above 0 and at most 1", lambda x: 0 < x <= 1),
        "share of the run after which the budget is met; the rest recovers",
    ),
    Option("fade", 0.6, SHARE, "factor per optimizer step on the gammas that go"),
    *SELECTION,
)
DISTILL = Option(
    "distill",
    None,
    _choice("parent"),
    "who teaches through Ultralytics' distillation: the unpruned parent, or nobody",
    "parent",
)
AGAINST = Option(
    "against",
    None,
    Kind("the path of a checkpoint", _path_or_model),
    "checkpoint to compare with, usually the unpruned parent",
    "parent.pt",
)

_RUN = ("project", "name", "exist_ok", "seed")
_COMMANDS = (
    Command(
        "train-sparse",
        "train with Ultralytics while the least useful channels fade to exactly zero",
        SPARSE_OPTIONS,
        host=None,
        required=("model", "data"),
        examples=(
            "train-sparse model=yolov8n.pt data=my.yaml epochs=50 flops=0.5",
            "train-sparse model=yolo11s.pt data=my.yaml epochs=100 params=2.0M imgsz=320 nbs=16",
            "train-sparse model=runs/detect/train-sparse/weights/last.pt resume",
        ),
        notes=("Exactly one of flops, params and sparsity; flops=0.5 when none is given.",),
    ),
    Command(
        "prune",
        "cut channels out; the smaller checkpoint is a stock Ultralytics model",
        PRUNE_OPTIONS,
        host=("model", "data", "imgsz", "batch", "device", *_RUN, "verbose"),
        required=("model",),
        examples=(
            "prune model=runs/detect/train-sparse/weights/last.pt",
            "prune model=best.pt flops=0.5 keep=backbone",
            "prune model=best.pt params=2.0M score=lamp data=my.yaml",
        ),
        notes=("Without a budget exactly the dead channels go; all budgets that are given hold.",),
    ),
    Command(
        "sweep",
        "show where accuracy falls off: cut and repair at several budgets, evaluate each, no training",
        SWEEP_OPTIONS,
        host=("model", "data", "split", "imgsz", "batch", "device", "workers", *_RUN, "verbose"),
        required=("model", "data"),
        examples=(
            "sweep model=best.pt data=my.yaml",
            "sweep model=best.pt data=my.yaml flops=0.9,0.7,0.5 score=taylor imgsz=320",
        ),
        notes=(
            "Exactly one of flops, params and ratio; flops=0.9,0.8,...,0.3 when none is given.",
            "sweep.csv grows row by row, so an interrupted sweep keeps those it has.",
        ),
    ),
    Command(
        "finetune",
        "train a pruned model with Ultralytics; its widths stay",
        (DISTILL,),
        host=None,
        required=("model", "data"),
        examples=(
            "finetune model=pruned.pt data=my.yaml epochs=50",
            "finetune model=pruned.pt data=my.yaml epochs=50 distill=parent",
        ),
    ),
    Command(
        "val",
        "validate with Ultralytics, side by side with the parent when against= is given",
        (AGAINST,),
        host=None,
        required=("model",),
        examples=("val model=pruned.pt data=my.yaml against=parent.pt", "val model=pruned.pt data=my.yaml imgsz=320"),
    ),
    Command(
        "info",
        "show groups, widths, and what is frozen and why",
        (KEEP,),
        host=("model", "imgsz", "verbose"),
        required=("model",),
        examples=("info model=yolov8n.pt", "info model=yolo11n.yaml keep=neck"),
    ),
    Command(
        "demo",
        "run the whole line on a data set drawn by code; no download, no GPU",
        (DEMO_FLOPS,),
        host=(*_RUN, "device"),
        examples=("demo", "demo flops=0.4 device=cpu project=runs/demo"),
    ),
    Command("help", "show this, or the options of a command", examples=("help", "help prune")),
    Command("version", "show the versions", examples=("version",)),
)
COMMANDS: dict[str, Command] = {command.name: command for command in _COMMANDS}
