"""Own options of `sensitivity`."""

from __future__ import annotations

from yoloprune.settings.option import Option
from yoloprune.settings.own_options import CLASSES, CRITERION, LAYER
from yoloprune.settings.value_kinds import SHARE, ValueKind, choice, integer, several

WIDTHS = Option(
    "widths",
    (0.75, 0.5, 0.25),
    ValueKind(f"{SHARE.allowed}; several separated by commas", several(SHARE), annotation="float | Sequence[float]"),
    "shares of its channels that a group keeps while all others stay whole",
)
HELD = Option("held", 128, integer(1), "so many images of split= are looked at, which ranking and repair never see")
SENSITIVITY_OPTIONS = (
    WIDTHS,
    HELD,
    Option(LAYER.name, LAYER.default, LAYER.kind, "layers whose groups are narrowed; not set: all", LAYER.example),
    CLASSES,
    *CRITERION[:2],
    Option(
        "recover",
        "fold",
        choice("none", "fold", "bn", "lsq"),
        "repair of each narrowed network, as in prune; lsq shows more of what training wins back, and takes far longer",
    ),
)
