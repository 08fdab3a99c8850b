"""Weights of layers as pruning tutorials teach them: distributions, single weights, sorted batch-norm scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yoloprune import files

KEPT, CUT = "#0072b2", "#d55e00"  # of Okabe and Ito, which the colour-blind tell apart
MOST = 20_000
"""So many weights of a layer are drawn one by one; of more, that many by chance."""
COLUMNS = 4


@dataclass(frozen=True)
class Drawn:
    """What is drawn of a layer.

    Attributes:
        name (str): Dotted.
        values (np.ndarray): Weights of shape (outputs, inputs, height, width), or scales of shape (outputs,).
        kept (np.ndarray): Mask of the outputs that stay, shape (outputs,).
    """

    name: str
    values: np.ndarray
    kept: np.ndarray


def plot(path: Path, models: Sequence[tuple[str, Sequence[Drawn]]], kind: str) -> Path:
    """Draw layers of one or several models on a sheet, one model below the other.

    Args:
        path (Path): Where the picture goes.
        models (Sequence[tuple[str, Sequence[Drawn]]]): What a model is called, and its layers.
        kind (str): "2d", "3d" or "gamma".

    Returns:
        (Path): The picture.
    """
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    across = min(COLUMNS, max(len(layers) for _, layers in models))
    deep = sum(-(-len(layers) // across) for _, layers in models)
    size = (4.2 if kind == "3d" else 3.6) * across, (4.2 if kind == "3d" else 2.6) * deep + 0.4
    figure = Figure(figsize=size, layout="constrained")
    projection = {"projection": "3d"} if kind == "3d" else {}
    place = 0
    for called, layers in models:
        for i, layer in enumerate(layers, start=place + 1):
            axes = figure.add_subplot(deep, across, i, **projection)
            title = f"{called}: {layer.name}" if called else layer.name
            axes.set_title(title, fontsize=9)
            axes.tick_params(labelsize=7)
            DRAWN[kind](axes, layer)
        place += -(-len(layers) // across) * across  # the next model begins in a row of its own
    dots = min(120.0, 60000 / max(size))  # a sheet of 300 layers stays below what viewers open
    files.write_at_once(path, lambda f: figure.savefig(f, format="png", dpi=dots))
    return path


def _histogram(axes: Any, layer: Drawn) -> None:
    """How weights are distributed, with mean and spread."""
    values = layer.values.ravel()
    mean, spread = float(values.mean()), float(values.std())
    axes.hist(values, bins=80, color=KEPT)
    axes.axvline(mean, color="black", linewidth=1)
    for side in (mean - spread, mean + spread):
        axes.axvline(side, color="black", linewidth=1, linestyle=":")
    said = f"{'x'.join(map(str, layer.values.shape))}\nmean {mean:.2g}, std {spread:.2g}"
    axes.text(0.98, 0.96, said, transform=axes.transAxes, ha="right", va="top", fontsize=7)
    axes.set_xlabel("weight", fontsize=8)


def _scatter(axes: Any, layer: Drawn) -> None:
    """Each weight by output channel, input channel and place in the kernel, coloured by its value."""
    values = layer.values.reshape(*layer.values.shape[:2], -1)
    chosen = np.arange(values.size)
    if values.size > MOST:
        chosen = np.random.default_rng(0).choice(chosen, MOST, replace=False)
    out, inp, place = np.unravel_index(chosen, values.shape)
    shown = values.ravel()[chosen]
    dot = min(max(MOST / len(shown), 3.0), 25.0)
    reach = float(np.abs(shown).max()) or 1.0
    drawn = axes.scatter(out, inp, place, c=shown, cmap="PuOr", vmin=-reach, vmax=reach, s=dot, linewidths=0)
    axes.set_xlabel("output", fontsize=7)
    axes.set_ylabel("input", fontsize=7)
    axes.set_zlabel("kernel", fontsize=7)
    axes.zaxis.get_major_locator().set_params(integer=True)
    axes.figure.colorbar(drawn, ax=axes, shrink=0.6, pad=0.1)


def _sorted(axes: Any, layer: Drawn) -> None:
    """Scales from the largest to the smallest, those that stay and those that go."""
    size = np.abs(layer.values)
    order = np.argsort(-size, kind="stable")
    stays = layer.kept[order]
    place = np.arange(len(order))
    for mask, colour, said in ((stays, KEPT, "kept"), (~stays, CUT, "cut or dead")):
        if mask.any():
            axes.bar(place[mask], size[order][mask], width=1.0, color=colour, label=f"{said}: {mask.sum()}")
            axes.plot(place[mask], np.zeros(mask.sum()), "|", color=colour, markersize=4)  # where scales are 0
    axes.set(xlabel="channel", ylabel="|gamma|")
    axes.legend(frameon=False, fontsize=7)


DRAWN = {"2d": _histogram, "3d": _scatter, "gamma": _sorted}
"""By the words of `kind=`."""
