"""Own options of `mask`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from yoloprune.settings import own_options
from yoloprune.settings.option import Option
from yoloprune.settings.own_options import IMAGES, RAMP_END, RAMP_START
from yoloprune.settings.several_values import by_commas
from yoloprune.settings.value_kinds import FLAG, SHARE, ValueKind, choice, integer

UNITS = ("unstructured", "kernel", "filter")
"""Patterns of which a share of all weights, kernels or filters is taken."""

LARGEST = 64
"""Of m in n:m."""


def n_of_m(pattern: str) -> tuple[int, int] | None:
    """The numbers of a pattern such as "2:4", None of others; raises ValueError if they are none.

    Args:
        pattern (str): n:m stands for at most n of m neighbours that are not zero, as NVIDIA and the literature write it
            (Zhou et al. 2021, arXiv 2102.04010).
    """
    if pattern in UNITS:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", pattern)
    if not found or not 0 < int(found[1]) < int(found[2]) <= LARGEST:
        raise ValueError(f"{pattern} is no pattern")
    return int(found[1]), int(found[2])


def _pattern(value: Any) -> str:
    """Return the word of a pattern; YAML reads 2:4 without quotes as minutes and seconds, 124."""
    clock = isinstance(value, int) and not isinstance(value, bool)
    word = "{}:{}".format(*divmod(value, 60)) if clock else str(value).strip().lower()
    n_of_m(word)
    return word


PATTERN = Option(
    "pattern",
    "unstructured",
    ValueKind(
        f"one of {', '.join(UNITS)}, or n:m with n below m up to {LARGEST}, as 2:4",
        _pattern,
        UNITS,
        annotation="str",
    ),
    "what becomes zero: single weights, all but n of every m neighbours along the input channels (2:4 is what NVIDIA's "
    "sparse tensor cores take), k x k kernels, or all weights of a filter",
)
SPARSITY = Option(
    "sparsity", None, SHARE, "share that becomes zero; not set: 0.5, and of n:m what the pattern says", 0.5
)
SCORE = Option(
    "score",
    "auto",
    choice("auto", "magnitude", "taylor", "wanda", "random"),
    "importance of a weight: magnitude is its size; taylor, how much the loss on labels changes without it; wanda, its "
    "size times that of its input, on images; random, a control; auto is magnitude for n:m and where data= has other "
    "classes than the model, else taylor",
)
SCOPE = Option(
    "scope",
    "auto",
    choice("auto", "global", "layer", "output"),
    "what is compared: all layers, each layer by itself, or the weights of each output by themselves; auto is global "
    "for taylor and for single weights, and layer for all else. n:m compares neighbours",
)
HEAD = Option("head", False, FLAG, "the head is masked as well")
RECOVER = Option(
    "recover",
    "auto",
    choice("auto", "none", "bn", "lsq"),
    "bn measures batch-norm statistics anew, lsq fits the weights that are left by least squares to what each layer "
    "put out (both need data= or images=); auto is lsq, without either on drawn images",
)
KEEP = replace(own_options.KEEP, meaning="modules in which no weight becomes zero")
MASK_OPTIONS = (PATTERN, SPARSITY, SCORE, SCOPE, HEAD, KEEP, IMAGES, RECOVER)

CHOICE = (
    Option(
        PATTERN.name,
        None,
        PATTERN.kind,
        "during the training more and more weights become zero in this pattern, and stay so; see mask. Not set: "
        "unstructured with sparsity=, none otherwise",
        "unstructured",
    ),
    Option(
        SPARSITY.name,
        None,
        SHARE,
        "share of the weights that is zero from ramp_end on, reached on a cubic curve; not set: none, and with "
        "pattern= 0.5, or what n:m says",
        0.5,
    ),
)
GROWN = (
    *CHOICE,
    Option(
        SCORE.name,
        "auto",
        choice("auto", "magnitude", "taylor"),
        "importance of a weight, with sparsity= or pattern=: taylor is how much the loss changes without it, as a "
        "running mean over the training's own steps, magnitude its size; auto is taylor, and magnitude for n:m",
    ),
    SCOPE,
    HEAD,
    KEEP,
    Option(
        "steps",
        None,
        integer(1),
        "so many times more weights become zero, with training in between; not set: about a hundred times",
        4,
    ),
    replace(RAMP_START, meaning="share of the run after which the first weights become zero"),
    replace(RAMP_END, meaning="share of the run after which sparsity= is met; the rest recovers"),
)
"""Of a training in which zeros become more."""

SHARES = (0.5, 0.7, 0.9)
"""Tried where none are given."""

TRIED = (
    Option(
        PATTERN.name,
        None,
        PATTERN.kind,
        "masks are tried in place of cuts, in this pattern; see mask. Not set: unstructured with sparsity=, else cuts",
        "unstructured",
    ),
    Option(
        SPARSITY.name,
        None,
        by_commas(SHARE),
        "shares of the weights that become zero; not set: none, and with pattern= 0.5,0.7,0.9, or what n:m says",
        "0.5,0.9",
    ),
    SCOPE,
    HEAD,
)
"""Of commands that try masks or cuts."""
SCORES_OF_MASKS = SCORE.kind.names
