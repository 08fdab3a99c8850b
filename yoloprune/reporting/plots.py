"""Pictures of a run: widths, sparse training, sweep, sensitivity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from yoloprune import files
from yoloprune.csv_rows import read_numbers
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.quality import PREFIX
from yoloprune.reporting.text_table import Row, headline


def plot_widths(path: Path, graph: ChannelGraph, widths: np.ndarray) -> Path:
    """Bars of every prunable group: width before and after, in the order of the network."""
    groups = [i for i, g in enumerate(graph.groups) if g.frozen is None]
    names = [graph.groups[i].name.removeprefix("model.") for i in groups]
    width, height, below = max(6.0, 0.16 * len(groups)), 4.2, 0.3 + 0.036 * max(map(len, names), default=0)
    # Lines for bars, and margins that are known: to draw hundreds of rectangles and to try layouts takes a second
    figure = _figure(width, height, layout=None)
    figure.subplots_adjust(0.7 / width, below / height, 1 - 0.15 / width, 1 - 0.35 / height)
    axes, at = figure.subplots(), range(len(groups))
    thick = 0.8 * 72 * (width - 0.85) / max(len(groups), 1)  # of the space that each has, in points
    axes.vlines(at, 0, [graph.groups[i].size for i in groups], color="#cfd8e3", linewidth=thick, label="parent")
    axes.vlines(at, 0, [widths[i] for i in groups], color="#2b6cb0", linewidth=thick, label="kept")
    axes.set(xlim=(-0.5, len(groups) - 0.5), ylim=(0, None), ylabel="channels")
    axes.set_xticks(at, names, rotation=90)
    axes.tick_params(axis="x", labelsize=5)
    legend = axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    for handle in legend.get_lines():
        handle.set_linewidth(6)
    return _save(figure, path)


def plot_sparsity(path: Path, log: Path) -> Path | None:
    """How |gamma| was distributed over the epochs, how far the budget was and how good the model, and where it is dead.

    Args:
        path (Path): Where the picture goes.
        log (Path): sparsity.csv; sparsity_layers.csv and Ultralytics' results.csv are beside it, or left out.

    Returns:
        (Path | None): The picture, None when the log has no rows.
    """
    rows = read_numbers(log)
    if not rows:
        return None
    epochs = [r["epoch"] for r in rows]
    dead = {k: v for k, v in (read_numbers(log.with_name("sparsity_layers.csv")) or [{}])[-1].items() if k != "epoch"}
    figure = _figure(max(11.0, 0.16 * len(dead)), 8)
    panels = figure.subplot_mosaic([["gamma", "budget"], ["dead", "dead"]])
    for low, high in ((0, 100), (10, 90), (25, 75), (40, 60)):
        band = [[r[f"gamma_q{q}"] for r in rows] for q in (low, high)]
        panels["gamma"].fill_between(epochs, *band, color="#2b6cb0", alpha=0.18, linewidth=0)
    panels["gamma"].plot(epochs, [r["gamma_q50"] for r in rows], color="#1a365d")
    top = max(r["gamma_q95"] for r in rows) * 1.3
    what = "|gamma|: median, and the middle 20, 50, 80 and 100 % of the channels"
    panels["gamma"].set(xlabel="epoch", ylim=(0, top))
    panels["gamma"].set_title(what, fontsize=10)

    shares = (("dead", "channels dead", "#4a5568"), ("flops", "FLOPs once cut", "#2b6cb0"))
    for key, label, colour in (*shares, ("params", "parameters once cut", "#63b3ed")):
        panels["budget"].plot(epochs, [r[key] for r in rows], marker=".", color=colour, label=label)
    results = [r for r in read_numbers(log.with_name("results.csv")) if r["epoch"] <= epochs[-1] and _validated(r)]
    if metric := headline(results[0] if results else ()):
        label = metric.removeprefix(PREFIX)
        times, values = [r["epoch"] for r in results], [r[metric] for r in results]
        panels["budget"].plot(times, values, marker=".", linestyle="--", color="#c05621", label=label)
    panels["budget"].set(xlabel="epoch", ylim=(0, 1.05))
    panels["budget"].set_title("share of the parent, and quality", fontsize=10)
    panels["budget"].legend(frameon=False, fontsize=8)

    names = [name.removeprefix("model.") for name in dead]
    panels["dead"].bar(range(len(dead)), list(dead.values()), color="#2b6cb0")
    panels["dead"].set_xticks(range(len(dead)), names, rotation=90, fontsize=6)
    panels["dead"].set(ylim=(0, 1), xlim=(-0.7, len(dead) - 0.3))
    panels["dead"].set_title("share of each layer that is dead at the end", fontsize=10)
    for name in ("gamma", "budget"):
        panels[name].locator_params(axis="x", integer=True)
    return _save(figure, path)


def _validated(row: Row) -> bool:
    """Whether an epoch was validated: Ultralytics writes zeros where it was not."""
    return any(v for k, v in row.items() if k.startswith((PREFIX, "val/")))


def axis_of(rows: Sequence[Row]) -> str:
    """What rows of a sweep are set against: "flops" of cuts, and "nonzero" of masks, which leave FLOPs as they are."""
    return "flops" if "flops" in rows[0] else "nonzero"


def plot_sweep(path: Path, rows: Sequence[Row], key: str, within: float) -> Path:
    """A figure of accuracy against the FLOPs, with the parameters, or against the weights that are not zero, each as
    kept, and the line that marks the loss.
    """
    figure = _figure(6.5, 4.2)
    left = figure.subplots()
    axis = axis_of(rows)
    kept = [r[axis] for r in rows]
    left.plot(kept, [r[key] for r in rows], color="#2b6cb0", marker="o", label=key)
    left.axhline(rows[0][key] - within / 100, color="#2b6cb0", linestyle=":", label=f"parent - {within:g} points")
    what = "FLOPs" if axis == "flops" else "weights that are not zero"
    left.set(xlabel=f"{what}, share of the parent", ylabel=key, ylim=(0, None))
    left.invert_xaxis()
    lines = left.get_lines()
    if axis == "flops":
        right = left.twinx()
        right.plot(kept, [r["params"] for r in rows], color="#8a96a3", marker=".", label="parameters")
        right.set(ylabel="parameters, share of the parent", ylim=(0, 1.05))
        lines = [*lines, *right.get_lines()]
    left.legend(handles=lines, frameon=False, fontsize=8, loc="lower left")
    return _save(figure, path)


def plot_sensitivity(
    path: Path, names: Sequence[str], columns: Sequence[str], panels: Mapping[str, np.ndarray], tried: str
) -> Path:
    """Heat maps of what is lost, one row per group in the order of the network.

    Args:
        path (Path): Where the picture goes.
        names (Sequence[str]): Of the groups.
        columns (Sequence[str]): What was tried, as text.
        panels (Mapping[str, np.ndarray]): By title, what is lost, shape (groups, shares), NaN where nothing was tried.
        tried (str): What the columns are of.
    """
    figure = _figure(3.0 + 2.6 * len(panels), max(3.0, 1.2 + 0.2 * len(names)))
    for i, (axes, (title, values)) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True)
    ):
        known = values[np.isfinite(values)]
        image = axes.imshow(values, cmap="YlOrRd", aspect="auto", vmin=0, vmax=max(known.max(initial=0.0), 1e-9))
        axes.set_yticks(range(len(names)), [n.removeprefix("model.") for n in names] if i == 0 else [""] * len(names))
        axes.set_xticks(range(len(columns)), columns)
        axes.tick_params(labelsize=7)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(tried, fontsize=8)
        for (y, x), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = value > 0.6 * known.max()
                axes.text(
                    x, y, f"{value:.2g}", ha="center", va="center", fontsize=6, color="white" if dark else "black"
                )
        figure.colorbar(image, ax=axes, shrink=0.5)
    return _save(figure, path)


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Any:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    return Figure(figsize=(width, height), layout=layout)


def _save(figure: Any, path: Path) -> Path:
    files.write_at_once(path, lambda f: figure.savefig(f, format="png", dpi=150))
    return path
