"""Rows of CSV files that grow while something long runs, and may be torn where it was killed."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yoloprune.files import write_at_once


def append_row(path: Path, row: Mapping[str, Any], *, fresh: bool = False) -> None:
    """Append a row to a CSV file, below a header where the file is new.

    Args:
        path (Path): The file.
        row (Mapping): Values by column; the columns of all rows are the same.
        fresh (bool): Whether to begin anew whatever is there.
    """
    new = fresh or not path.exists()
    with path.open("w" if new else "a", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def keep_rows(path: Path, column: str, last: float) -> None:
    """Drop the rows of a CSV that are done again: beyond the last one that counts, double, or torn; the others stay to
    the letter.

    Args:
        path (Path): The file; nothing happens where there is none.
        column (str): Says which row it is, a rising number; a file whose header was torn before it goes.
        last (float): The last one to keep.
    """
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as f:
        header, *rows = [*f] or [""]
    names = [name.strip() for name in header.split(",")]
    if column not in names:  # a process was killed before the first row was written
        path.unlink()
        return
    kept: dict[float, str] = {}
    for row in rows:
        cells = row.split(",")
        if row.endswith("\n") and len(cells) == len(names) and (number := float(cells[names.index(column)])) <= last:
            kept[number] = row
    if [*kept.values()] != rows:
        write_at_once(path, lambda f: f.write("".join([header, *kept.values()]).encode()))


def read_numbers(path: Path) -> list[dict[str, float]]:
    """Rows of a CSV of numbers, none when there is no such file; names without spaces around them.

    What is torn, or no row of numbers, is passed over: files lie where a process was killed, or its disk was full.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as f:
        header, *lines = [*f] or [""]
    names = [name.strip() for name in next(csv.reader([header]), [])]
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError, csv.Error):
            numbers = map(float, next(csv.reader([line]), []))
            rows += [dict(zip(names, numbers, strict=True))] if line.endswith("\n") else []
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV whose values are texts, integers and other numbers; none when there is no such file."""

    def value(text: str) -> Any:
        for kind in (int, float):
            with contextlib.suppress(ValueError):
                return kind(text)
        return text

    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as f:
        return [{k: value(v) for k, v in row.items()} for row in csv.DictReader(f)]


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV that grew row by row, see `read_rows`; one that was torn is taken out of the file."""
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as f:
            header, *lines = [*f] or [""]
        columns = len(next(csv.reader([header]), []))
        if not header.endswith("\n"):  # a process was killed before the first row was written
            path.unlink()
        elif lines and (not lines[-1].endswith("\n") or len(next(csv.reader(lines[-1:]))) != columns):
            write_at_once(path, lambda f: f.write("".join([header, *lines[:-1]]).encode()))
    return read_rows(path)
