"""What came out: tables, pictures and one self-contained page per run."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yoloprune import files
from yoloprune.files import read_numbers
from yoloprune.planning.channel_graph import ChannelGraph

Row = Mapping[str, Any]


def table(rows: Sequence[Row]) -> str:
    """Aligned text table; the keys of all rows are the columns, in the order in which they first occur."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    cells = [columns, *[[_cell(row.get(c)) for c in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    texts = [i == 0 or any(isinstance(row.get(c), str) for row in rows) for i, c in enumerate(columns)]
    return "\n".join(
        "  ".join(c.ljust(w) if t else c.rjust(w) for c, w, t in zip(line, widths, texts, strict=True)).rstrip()
        for line in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write_text(path: Path, text: str) -> None:
    """Write a text in one step, so that a reader never meets half a file."""
    files.write_at_once(path, lambda f: f.write(text.encode()))


def write_report(folder: Path, data: Mapping[str, Any], rows: Sequence[Row], pictures: Sequence[Path] = ()) -> None:
    """Write report.json, and report.html with the rows as a table and the pictures inside.

    Args:
        folder (Path): Folder of the run.
        data (Mapping[str, Any]): Everything measured, plain data.
        rows (Sequence[Row]): The table that was printed.
        pictures (Sequence[Path]): PNG files to embed.
    """
    write_text(folder / "report.json", json.dumps({**data, "table": [dict(r) for r in rows]}, indent=2, default=str))
    columns = list(dict.fromkeys(k for row in rows for k in row))
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(row.get(c)))}</td>" for c in columns) + "</tr>" for row in rows
    )
    images = "".join(
        f'<h2>{html.escape(p.stem)}</h2><img alt="{html.escape(p.stem)}" '
        f'src="data:image/png;base64,{base64.b64encode(p.read_bytes()).decode()}">'
        for p in pictures
        if p.is_file()
    )
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    title = html.escape(f"yoloprune {data.get('command', '')}")
    write_text(
        folder / "report.html",
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<style>body{font:15px system-ui;margin:2em auto;max-width:70em}td,th{padding:.3em .8em;text-align:right}"
        "td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f3f5f7}img{max-width:100%}</style>"
        f"<h1>{title}</h1><table><tr>{head}</tr>{body}</table>{images}"
        f"<h2>All figures</h2><pre>{html.escape(json.dumps(data, indent=2, default=str))}</pre></html>",
    )


def picture_widths(path: Path, graph: ChannelGraph, widths: np.ndarray) -> Path:
    """Bars of every prunable group: width before and after, in the order of the network."""
    groups = [i for i, g in enumerate(graph.groups) if g.frozen is None]
    figure = _figure(max(6.0, 0.16 * len(groups)), 4.2)
    axes = figure.subplots()
    axes.bar(range(len(groups)), [graph.groups[i].size for i in groups], color="#cfd8e3", label="parent")
    axes.bar(range(len(groups)), [widths[i] for i in groups], color="#2b6cb0", label="kept")
    axes.set_xticks(range(len(groups)), [graph.groups[i].name.removeprefix("model.") for i in groups], rotation=90)
    axes.tick_params(axis="x", labelsize=5)
    axes.set_ylabel("channels")
    axes.legend(frameon=False)
    return _save(figure, path)


def picture_sparsity(path: Path, log: Path) -> Path | None:
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
    results = [r for r in read_numbers(log.with_name("results.csv")) if r["epoch"] <= epochs[-1]]
    if metric := _metric(results):
        label = metric.removeprefix("metrics/")
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


def picture_sweep(path: Path, rows: Sequence[Row], key: str, within: float) -> Path:
    """A figure of accuracy and the parameters against the FLOPs, each as kept, and the line that marks the loss."""
    figure = _figure(6.5, 4.2)
    left = figure.subplots()
    flops = [r["flops"] for r in rows]
    left.plot(flops, [r[key] for r in rows], color="#2b6cb0", marker="o", label=key)
    left.axhline(rows[0][key] - within / 100, color="#2b6cb0", linestyle=":", label=f"parent - {within:g} points")
    left.set(xlabel="FLOPs, share of the parent", ylabel=key, ylim=(0, None))
    left.invert_xaxis()
    right = left.twinx()
    right.plot(flops, [r["params"] for r in rows], color="#8a96a3", marker=".", label="parameters")
    right.set(ylabel="parameters, share of the parent", ylim=(0, 1.05))
    left.legend(handles=[*left.get_lines(), *right.get_lines()], frameon=False, fontsize=8, loc="lower left")
    return _save(figure, path)


def _metric(results: list[dict[str, float]]) -> str | None:
    """The column of results.csv that says how good a model is: mAP50-95, or the first figure of other tasks."""
    columns = [k for k in (results[0] if results else {}) if k.startswith("metrics/")]
    return next((k for k in columns if "mAP50-95" in k), columns[0] if columns else None)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> Path:
    files.write_at_once(path, lambda f: figure.savefig(f, format="png", dpi=150))
    return path
