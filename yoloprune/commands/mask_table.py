"""How many weights of a masked model are zero, by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from yoloprune.backend import console, moved_layers, yaml_markers
from yoloprune.cutting import masks


def zeros(model: nn.Module) -> list[dict[str, Any]]:
    """By masked layer, in the order of the network, its weights and how many are zero; empty without masks."""
    told = (yaml_markers.masks_of(model) or {"layers": {}})["layers"]
    names = [name for name, _ in model.named_modules() if name in told]
    counts, sizes, called = masks.zeros(model, names), masks.sizes(model, names), moved_layers.names_of(model)
    return [
        {"layer": called.of(n), "weights": sizes[n], "zeros": zero, "share": round(zero / sizes[n], 4)}
        for n, zero in counts.items()
    ]


def warn_of_empty(rows: Sequence[Mapping[str, Any]], command: str) -> None:
    """Warn where nothing is left of a layer; `rows` are those of `zeros`."""
    if empty := [row["layer"] for row in rows if row["zeros"] == row["weights"]]:
        ways = "a lower sparsity=, scope=layer or keep="
        console.warn(f"{command}: nothing is left of {', '.join(empty)}; {ways} leaves something of each")
