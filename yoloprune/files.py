"""Files that grow by a row at a time, and what they hold."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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


def read_numbers(path: Path) -> list[dict[str, float]]:
    """Rows of a CSV of numbers, none when there is no such file; names without spaces around them."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as f:
        return [{k.strip(): float(v) for k, v in row.items()} for row in csv.DictReader(f)]
