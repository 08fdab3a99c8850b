"""The commands' own options: defaults, what is allowed, what they mean."""

from __future__ import annotations

from typing import Any

from yoloprune.errors import ArgumentError
from yoloprune.settings.option import Option
from yoloprune.settings.several_values import CLASS_NAMES, by_commas
from yoloprune.settings.value_kinds import (
    BRANCHES,
    FLAG,
    LAYER_SHARES,
    MODULES,
    NATIVE_ROWS,
    OPERATIONS,
    PLACE,
    SHARE,
    WEIGHTS,
    choice,
    integer,
    number,
)
from yoloprune.settings.wanted_time import LATENCY, TIMES

FLOPS = Option("flops", None, OPERATIONS, "FLOPs that are kept", 0.5)
PARAMS = Option("params", None, WEIGHTS, "parameters that are kept", 0.5)
RATIO = Option("ratio", None, SHARE, "share of the prunable channels that is removed", 0.5)
SPARSITY = Option("sparsity", None, SHARE, "share of the prunable channel classes that is driven to zero", 0.5)
BUDGETS = (FLOPS, PARAMS, SPARSITY)  # of sparse training

ROUND_TO = Option("round_to", 8, integer(1), "kept widths are multiples of this, because odd widths are slow")
MIN_WIDTH = Option("min_width", 8, integer(1), "no layer gets narrower than this")
MAX_RATIO = Option(
    "max_ratio",
    0.8,
    number("a fraction above 0 and at most 1", lambda x: 0 < x <= 1),
    "at most this share of a group of layers is removed",
)
LAYERS = Option(
    "layers",
    (),
    LAYER_SHARES,
    "at most this share of the layers that match is removed, instead of max_ratio; of several names the last counts",
    "model.2.*=0.3,model.4=0.5",
)
KEEP = Option("keep", (), MODULES, "modules whose outputs all stay", "model.2.*")
UNIFORM = Option("uniform", False, FLAG, "every group of layers gives the same share, instead of one global ranking")
DEPTH = Option(
    "depth",
    False,
    BRANCHES,
    "whole residual branches, such as the bottlenecks of a C2f with a shortcut, may go as well as channels; only: "
    "nothing but these",
    True,
)
NATIVE = Option(
    "native",
    None,
    NATIVE_ROWS,
    "only widths that a stock model YAML can say, so that stock Ultralytics trains the pruned model as well; not set: "
    "where that is possible. Some blocks become several rows for that; tied keeps each in one, which ties its widths",
    True,
)
SELECTION = (ROUND_TO, MIN_WIDTH, MAX_RATIO, LAYERS, KEEP, NATIVE)
DEMO_FLOPS = Option("flops", 0.5, OPERATIONS, FLOPS.meaning)

_SCORES = choice("auto", "bn", "l1", "l2", "lamp", "fpgm", "taylor", "output", "activation", "random")
CRITERION = (
    Option(
        "score",
        "auto",
        _SCORES,
        "importance of a channel; bn is |gamma| of its batch-norm, taylor how much the loss on labels hangs on it, "
        "output how much the raw outputs do, without labels, activation its mean |value| (all three look at images); "
        "the others look at filters; auto is taylor with data=, but output for detectors of more than 25 classes and "
        "where data= has other classes than the model; without labels output, on images= or on drawn ones",
    ),
    Option("reduce", "mean", choice("mean", "max", "sum", "l2"), "how the scores of coupled channels become one"),
    Option(
        "normalize",
        "auto",
        choice("auto", "none", "mean", "max", "cost"),
        "scores are divided by this of their group, or by the cost that a channel saves; auto is cost with "
        "score=taylor and output, which compare between layers, and none otherwise",
    ),
)
CLASSES = Option(
    "classes",
    None,
    CLASS_NAMES,
    "only these classes stay in the model, by name or by number as in yolo predict; ranking and repair look at them "
    "alone, and budgets count what is left with them. A data set that has others as well is matched by name. Not set: "
    "all stay",
    "person,dog",
)
CUT_OPTIONS = (
    CLASSES,
    *CRITERION,
    UNIFORM,
    DEPTH,
    *SELECTION,
    Option(
        "recover",
        "auto",
        choice("auto", "none", "fold", "bn", "lsq"),
        "fold moves what cut channels contributed into biases; bn then measures batch-norm statistics anew, lsq refits "
        "weights by least squares instead, those of keep= as well (both need data= or images=); auto is lsq, without "
        "either on drawn images",
    ),
)
PRUNE_BUDGETS = (
    FLOPS,
    PARAMS,
    RATIO,
    Option(
        "latency",
        None,
        LATENCY,
        "time per image, measured on device= in the runtime that format= names, torch without; instead of flops",
        0.6,
    ),
)
THREADS = Option(
    "threads", None, integer(1), "threads of the runtime whose time is measured; not set: its own choice", 1
)
IMAGES = Option(
    "images",
    None,
    PLACE,
    "images without labels that ranking and repair look at in place of data=",
    "photos/",
)
PRUNE_OPTIONS = (*PRUNE_BUDGETS, TIMES, THREADS, IMAGES, *CUT_OPTIONS)
SWEPT = tuple(Option(o.name, None, by_commas(o.kind), o.meaning, "0.7,0.5") for o in (FLOPS, PARAMS, RATIO))
EXCLUSIVE = {"train-sparse": BUDGETS, "sweep": SWEPT}  # of these options a command takes one, or masks instead
MASKED = {"sweep": ("pattern", "sparsity")}
"""Options by which a command tries masks, and takes none of these."""
DEFAULT_BUDGET: dict[str, dict[str, Any]] = {  # when none is given
    "train-sparse": {"flops": 0.5},
    "sweep": {"flops": (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)},
}
RAY = Option(
    "ray",
    False,
    FLAG,
    "points are spread over the cores and GPUs of a Ray cluster, that of this machine if there is no other; needs the "
    "package ray",
    True,
)
RAMP_START = Option(
    "ramp_start",
    0.1,
    number("a fraction from 0 to below 1", lambda x: 0 <= x < 1),
    "share of the run after which the first channels fade",
)
RAMP_END = Option(
    "ramp_end",
    0.6,
    number("a fraction above 0 and at most 1", lambda x: 0 < x <= 1),
    "share of the run after which the budget is met; the rest recovers",
)
SPARSE_OPTIONS = (
    *BUDGETS,
    Option(
        "penalty",
        "select",
        choice("select", "prox", "group", "l1"),
        "select fades the least useful channels; prox (each gamma), group (coupled gammas together) and l1 push on all",
    ),
    Option(
        "penalty_weight",
        None,
        number("a number above 0", lambda x: x > 0),
        "strength of prox, group and l1; None steers prox and group to the budget, and is 0.01 for l1",
        1e-4,
    ),
    Option(
        "penalty_decay",
        True,
        FLAG,
        "l1 weakens to nothing over the ramp; False keeps its weight until the ramp ends",
    ),
    Option(
        "score",
        "taylor",
        choice("taylor", "gamma", "gamma-mean"),
        "what select ranks by: how much the loss hangs on a channel, |gamma|, or |gamma| over the mean of its layer",
    ),
    Option("normalize", "cost", choice("none", "cost"), "cost ranks by score per FLOP (or parameter) saved"),
    RAMP_START,
    RAMP_END,
    Option("fade", 0.6, SHARE, "factor per optimizer step on the gammas that go"),
    *SELECTION,
)


def check_ramp(start: float, end: float) -> None:
    """Raise ArgumentError unless a ramp starts before it ends."""
    if start >= end:
        raise ArgumentError(f"ramp_start={start}: must be below ramp_end={end}. Received: {start}")
