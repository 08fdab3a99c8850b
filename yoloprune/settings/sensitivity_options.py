"""Own options of `sensitivity`."""

from __future__ import annotations

from dataclasses import replace

from yoloprune.settings.mask_options import TRIED
from yoloprune.settings.option import Option
from yoloprune.settings.own_options import CLASSES, CRITERION
from yoloprune.settings.several_values import by_commas
from yoloprune.settings.sweep_options import of_both
from yoloprune.settings.value_kinds import SHARE, choice, integer
from yoloprune.settings.view_options import LAYER

WIDTHS = Option(
    "widths",
    (0.75, 0.5, 0.25),
    by_commas(SHARE),
    "shares of its channels that a group keeps while all others stay whole",
)
HELD = Option("held", 128, integer(1), "so many images of split= are looked at, which ranking and repair never see")
SENSITIVITY_OPTIONS = (
    WIDTHS,
    HELD,
    replace(LAYER, meaning="layers whose groups are narrowed, or that are masked; not set: all"),
    CLASSES,
    *TRIED,
    *of_both(CRITERION[:2]),
    Option(
        "recover",
        "auto",
        choice("auto", "none", "fold", "bn", "lsq"),
        "repair of each narrowed network, as in prune; lsq shows more of what training wins back, and takes far "
        "longer; auto is fold, and none of masks",
    ),
)

OF_WIDTHS = (WIDTHS, CLASSES, CRITERION[1])
"""What means nothing for masks."""
