"""Rows as an aligned text table, and the figure in them that counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def table(rows: Sequence[Row]) -> str:
    """Aligned text table; the keys of all rows are the columns, in the order in which they first occur."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    cells = [columns, *[[cell(row.get(c)) for c in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    texts = [i == 0 or any(isinstance(row.get(c), str) for row in rows) for i, c in enumerate(columns)]
    return "\n".join(
        "  ".join(c.ljust(w) if t else c.rjust(w) for c, w, t in zip(line, widths, texts, strict=True)).rstrip()
        for line in cells
    )


def cell(value: Any) -> str:
    """One value as short as it can be read."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def headline(columns: Iterable[str]) -> str:
    """The column that says how good a model is.

    Args:
        columns (Iterable[str]): Names of figures in the order of Ultralytics, with or without its "metrics/".

    Returns:
        (str): mAP50-95, of masks or keypoints where there are such, or the task's first figure; empty without any.
    """
    figures = list(columns)
    return next((k for k in reversed(figures) if "mAP50-95" in k), next(iter(figures), ""))
