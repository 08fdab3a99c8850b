"""Rows as a few readable lines, for whoever types the name of an object."""

from __future__ import annotations

import html
from collections.abc import Sequence

MOST = 16
"""So many rows are shown; a line says how many more there are."""

LONGEST = 60
"""Of a cell, so many letters are shown."""


def in_text(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A title and a table in plain text."""
    shown = [header, *([_short(cell) for cell in row] for row in rows[:MOST])]
    widths = [max(len(row[i]) for row in shown) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    more = [f"and {len(rows) - MOST} more"] if len(rows) > MOST else []
    return "\n".join([title, *(lines if rows else []), *more])


def in_html(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same for a notebook."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(_short(cell))}</td>' for cell in row)}</tr>" for row in rows[:MOST]
    )
    more = f"<p>and {len(rows) - MOST} more</p>" if len(rows) > MOST else ""
    return f"<p>{html.escape(title)}</p><table><tr>{head}</tr>{body}</table>{more}"


def _short(cell: object) -> str:
    text = str(cell)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
