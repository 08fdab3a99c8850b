"""What came out: numbers, tables, pictures and one self-contained page per run."""

from __future__ import annotations

import base64
import csv
import html
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from yoloprune import host
from yoloprune.groups import ChannelGraph

Row = Mapping[str, Any]


def measure(model: nn.Module, imgsz: int, file: str | Path | None = None) -> dict[str, float]:
    """Size of a model.

    Args:
        model (nn.Module): An Ultralytics model.
        imgsz (int): Image size for which FLOPs are counted.
        file (str | Path | None): Its checkpoint.

    Returns:
        (dict[str, float]): "params", "GFLOPs" as Ultralytics prints them, and "MB" of the file when there is one.
    """
    sizes = {"params": sum(p.numel() for p in model.parameters()), "GFLOPs": round(host.gflops(model, imgsz), 4)}
    if file is not None and Path(file).is_file():
        sizes["MB"] = round(Path(file).stat().st_size / 1e6, 2)
    return sizes


def latency(models: Sequence[nn.Module], imgsz: int, *, seconds: float = 4.0) -> list[float]:
    """Median time of one forward pass at batch 1, the models taking turns so that a drifting machine hits all alike.

    Args:
        models (Sequence[nn.Module]): Models on the device where they shall be timed; they are fused copies afterwards.
        imgsz (int): Side of the square image.
        seconds (float): About how long to measure in all.

    Returns:
        (list[float]): Milliseconds per image, in the order of the models.
    """
    fused = [host.fused_copy(m) for m in models]
    devices = [next(m.parameters()).device for m in fused]
    images = [torch.rand(1, host.channels(m), imgsz, imgsz, device=d) for m, d in zip(fused, devices, strict=True)]
    times: list[list[float]] = [[] for _ in fused]
    with torch.inference_mode():
        for m, x in zip(fused, images, strict=True):
            for _ in range(3):
                m(x)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times[0]) < 5:
            for i, (m, x) in enumerate(zip(fused, images, strict=True)):
                start = time.perf_counter()
                m(x)
                if devices[i].type == "cuda":
                    torch.cuda.synchronize(devices[i])
                times[i].append(1e3 * (time.perf_counter() - start))
    return [round(median(t), 3) for t in times]


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
    """Write to a temporary file and rename, so that a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
    figure, axes = _figure(max(6.0, 0.16 * len(groups)), 4.2)
    axes.bar(range(len(groups)), [graph.groups[i].size for i in groups], color="#cfd8e3", label="parent")
    axes.bar(range(len(groups)), [widths[i] for i in groups], color="#2b6cb0", label="kept")
    axes.set_xticks(range(len(groups)), [graph.groups[i].name.removeprefix("model.") for i in groups], rotation=90)
    axes.tick_params(axis="x", labelsize=5)
    axes.set_ylabel("channels")
    axes.legend(frameon=False)
    return _save(figure, path)


def picture_sparsity(path: Path, log: Path) -> Path | None:
    """How |gamma| was distributed over the epochs, and how far the budget was, from sparsity.csv."""
    with log.open(encoding="utf-8") as f:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]
    if not rows:
        return None
    epochs = [r["epoch"] for r in rows]
    figure, (left, right) = _figure(10, 4, columns=2)
    for low, high in ((0, 100), (10, 90), (25, 75), (40, 60)):
        band = [[r[f"gamma_q{q}"] for r in rows] for q in (low, high)]
        left.fill_between(epochs, *band, color="#2b6cb0", alpha=0.18, linewidth=0, label=f"{low}-{high} %")
    left.plot(epochs, [r["gamma_q50"] for r in rows], color="#1a365d", label="median")
    left.set(xlabel="epoch", ylabel="|gamma| of prunable channels", ylim=(0, max(r["gamma_q95"] for r in rows) * 1.3))
    left.legend(frameon=False, fontsize=8)
    for key, label in (("dead", "channels dead"), ("flops", "FLOPs once cut"), ("params", "parameters once cut")):
        right.plot(epochs, [r[key] for r in rows], marker=".", label=label)
    right.set(xlabel="epoch", ylabel="share of the parent", ylim=(0, 1.05))
    right.legend(frameon=False, fontsize=8)
    return _save(figure, path)


def picture_sweep(path: Path, rows: Sequence[Row], key: str, within: float) -> Path:
    """A figure of accuracy and the parameters against the FLOPs, each as kept, and the line that marks the loss."""
    figure, left = _figure(6.5, 4.2)
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


def _figure(width: float, height: float, columns: int = 1) -> Any:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
