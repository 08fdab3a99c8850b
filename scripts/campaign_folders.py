"""What a folder has to be whenever a run of the campaign ends: whole files, and every one that was there before."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml


def torn(folder: Path) -> Iterator[str]:
    """Files below a folder that cannot be read as what they are; what was being written aside begins with a dot."""
    readers: dict[str, Callable[[Path], Any]] = {
        ".pt": lambda f: torch.load(f, map_location="cpu", weights_only=False),
        ".yaml": _mapping,
        ".json": lambda f: json.loads(f.read_text()),
        ".csv": _table,
        ".png": lambda f: f.read_bytes().index(b"IEND"),
        ".html": lambda f: f.read_text().index("</html>"),
    }
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if hidden or not file.is_file() or file.suffix not in readers:
            continue
        try:
            readers[file.suffix](file)
        except Exception as e:
            yield f"{file.relative_to(folder)} is torn: {type(e).__name__}: {str(e)[:80]}"


def _mapping(file: Path) -> None:
    if not isinstance(yaml.safe_load(file.read_text()), dict):
        raise ValueError("no mapping")


def _table(file: Path) -> None:
    with file.open(newline="") as f:
        rows = list(csv.reader(f))
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError("a row is missing, or one is cut short")


def epochs(run: Path) -> list[int]:
    """The numbers of the epochs in results.csv."""
    with (run / "results.csv").open() as f:
        return [int(float(row["epoch"])) for row in csv.DictReader(f)]


def contents(folder: Path) -> dict[str, str]:
    """Digests of all files by name, without what is being written aside."""
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.startswith("."))
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
