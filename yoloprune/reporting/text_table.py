"""Rows as an aligned text table, and the figure in them that counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from yoloprune.planning.quality import is_quality

Row = Mapping[str, Any]


def table(rows: Sequence[Row]) -> str:
    """Aligned text table; the keys of all rows are the columns, in the order in which they first occur."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    cells = [columns, *[[cell(row.get(c)) for c in columns] for row in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    texts = [i == 0 or not any(_is_number(row.get(c)) for row in rows) for i, c in enumerate(columns)]
    return "\n".join(
        "  ".join(c.ljust(w) if t else c.rjust(w) for c, w, t in zip(line, widths, texts, strict=True)).rstrip()
        for line in cells
    )


def cell(value: Any) -> str:
    """One value as short as it can be read."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


FEW = 3
"""Rows that tell a story: parent, pruned, fine-tuned."""

STORY = frozenset({"parent", "trained", "pruned", "fine-tuned"})
"""Rows that tell one however many they are."""

EXPORTED = "exported"
"""The row of a file that holds the network of the row before it: a size of its own, and no other network."""

CHANGE = "change"

OF_ENDS = f"{CHANGE}, first to last"
"""The same where rows stand between that tell no story."""


def ends(rows: Sequence[Row]) -> tuple[Row, Row]:
    """The first row, and the last one of a network, with the times that only what it was exported to has."""
    of_file = next((row for row in rows if row.get("model") == EXPORTED), {})
    last = next(row for row in reversed(rows) if row.get("model") != EXPORTED)
    return rows[0], {**last, **{k: v for k, v in of_file.items() if k.startswith("ms ")}}


def with_change(rows: Sequence[Row]) -> list[Row]:
    """Rows of a before/after table, and one more below: how the last network differs from the first.

    Args:
        rows (Sequence[Row]): The model before first, the one after last, but for what that was exported to; each with
            its name under the first key, and under "runtime" what its time was measured on where these may differ.

    Returns:
        (list[Row]): Figures of quality as a difference with its sign, sizes and times as a change in percent; times
            that only the export has are its own. Nothing is added to one row or to many, of which the last is no more
            an end than others, or where no number stands in both.
    """
    networks = [row for row in rows if row.get("model") != EXPORTED]
    if len(networks) < 2 or (len(networks) > FEW and not {row.get("model") for row in networks} <= STORY):
        return list(rows)
    first, last = ends(rows)
    found = {
        k: change(k, first[k], last[k])
        for k in first
        if _is_number(first[k]) and _is_number(last.get(k)) and (k != "ms" or timed_alike((first, last)))
    }
    if not found:
        return list(rows)
    name = CHANGE if len(networks) == 2 or {row.get("model") for row in networks} <= STORY else OF_ENDS
    return [*rows, {next(iter(first)): name, **found}]


def timed_alike(rows: Sequence[Row]) -> bool:
    """Whether times stand beside each other that were measured on one runtime."""
    return len({row.get("runtime") for row in rows}) <= 1


SIZES = frozenset({"params", "nonzero", "GFLOPs", "MB", "ms"})
"""Columns of which less is better, and the share counts."""


def change(column: str, before: float, after: float) -> str:
    """How a figure changed: sizes and times in percent, figures of quality by the difference."""
    if column.partition(" ")[0] in SIZES | {"flops", "channels"}:  # "ms onnx" as well
        return f"{100 * (after / before - 1):+.1f} %" if before else "-"
    both_whole = isinstance(before, int) and isinstance(after, int)
    return f"{after - before:+,}" if both_whole else f"{after - before:+.4f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def closing(said: str, rows: Sequence[Row], files: Sequence[object] = (), following: str | None = None) -> str:
    """The words that a command ends with.

    Args:
        said (str): What was done, in one line.
        rows (Sequence[Row]): The table; from two rows on with how the last differs from the first, see `with_change`.
        files (Sequence[object]): Where the results are, the first one first.
        following (str | None): The next command, ready to paste.

    Returns:
        (str): Lines for `console.log`: the sentence, the table, "saved" with one file a line, "next" with the command.
    """
    lines = [said, table(with_change(rows))] if rows else [said]
    lines += [f"{'saved' if i == 0 else '':<5} {file}" for i, file in enumerate(files)]
    return "\n".join([*lines, *([f"next: {following}"] if following else [])])


def headline(columns: Iterable[str]) -> str:
    """The column that says how good a model is.

    Args:
        columns (Iterable[str]): Names of columns, figures in the order of Ultralytics, with or without its "metrics/".

    Returns:
        (str): mAP50-95, of masks or keypoints where there are such, or the task's first figure; empty without any.
    """
    figures = [k for k in columns if is_quality(k)]
    return next((k for k in reversed(figures) if "mAP50-95" in k), next(iter(figures), ""))
