"""One page per run, self-contained, and the same as data."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yoloprune import files
from yoloprune.reporting.text_table import Row, cell


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
        "<tr>" + "".join(f"<td>{html.escape(cell(row.get(c)))}</td>" for c in columns) + "</tr>" for row in rows
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


def write_text(path: Path, text: str) -> None:
    """Write a text in one step, so that a reader never meets half a file."""
    files.write_at_once(path, lambda f: f.write(text.encode()))
