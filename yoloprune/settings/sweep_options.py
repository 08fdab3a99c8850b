"""Own options of `sweep`, and what it shares with `sensitivity`: either cuts or masks are tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from yoloprune.settings.mask_options import SCORES_OF_MASKS, TRIED
from yoloprune.settings.option import Option
from yoloprune.settings.own_options import CUT_OPTIONS, RAY, SWEPT, THREADS
from yoloprune.settings.value_kinds import POINTS_OR_NONE, choice


def of_both(options: Sequence[Option]) -> tuple[Option, ...]:
    """Options of cuts, whose `score` takes the words of masks as well."""
    return tuple(_scored(o) if o.name == "score" else o for o in options)


def _scored(option: Option) -> Option:
    words = dict.fromkeys((*option.kind.names, *SCORES_OF_MASKS))
    more = f"; of masks one of {', '.join(SCORES_OF_MASKS)}, see mask"
    return replace(option, kind=replace(choice(*words), annotation="str"), meaning=option.meaning + more)


SWEEP_OPTIONS = (
    *SWEPT,
    Option(
        "within",
        3.0,
        POINTS_OR_NONE,
        "points of mAP50-95 that may be lost; of a poor model a quarter of what it has",
    ),
    RAY,
    THREADS,
    *TRIED,
    *of_both(CUT_OPTIONS),
)

OF_CUTS = tuple(o for o in (*SWEPT, *CUT_OPTIONS) if o.name not in {"score", "recover", "keep"})
"""What means nothing for masks."""
