"""Files that are whole or not there, written beside and renamed, one alone or several together; tables by the row."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from yoloprune.errors import WriteError


def write_at_once(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file in one step: a reader meets the old one or the new one, and an interrupted run leaves the old one.

    Args:
        path (Path): The file.
        write (Callable): Writes the content into an open binary file.

    Raises:
        WriteError: If it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "wb") as file:
                write(file)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as e:
        raise WriteError(path, e.strerror or str(e)) from e


PART, TAKEN = ".part-", ".taken"
"""How folders begin in which files wait to be renamed; in each a file that its process holds as long as it lives."""

YOUNG = 10.0
"""Seconds in which a folder that nobody holds may be one whose process is about to."""


_mine: set[Path] = set()
"""Those of this process, which may take its own files again."""


def drop_left_parts(folder: Path) -> bool:
    """Remove what `staged` left in a folder when its process was killed; whether there was anything.

    A folder of such a name without that file is somebody else's, and stays.
    """
    found = False
    for part in folder.glob(f"{PART}*"):
        with contextlib.suppress(OSError):
            if part.is_symlink() or not (part / TAKEN).is_file():
                continue
            if part in _mine or time.time() - part.stat().st_mtime < YOUNG or (handle := taken(part / TAKEN)) is None:
                continue
            handle.close()
            shutil.rmtree(part)
            found = True
    return found


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder for files that belong together: they are renamed into `folder` at the end of the block, or none is.

    They are renamed in the order of their names, once all of them are written and nothing is seen in their way. What
    a killed process left there is removed.

    Args:
        folder (Path): Where they go; made if it is not there.

    Yields:
        (Path): Where to write them, a folder that only this process knows.

    Raises:
        WriteError: If one cannot be written.
    """
    part: Path | None = None
    held: BinaryIO | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drop_left_parts(folder)
        part = Path(tempfile.mkdtemp(prefix=PART, dir=folder))
        _mine.add(part)
        held = taken(part / TAKEN)
        yield part
        places = {file: folder / file.relative_to(part) for file in _files_in(part)}
        for place in places.values():
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.is_dir() or not os.access(place.parent, os.W_OK):
                raise WriteError(place, "it is a folder" if place.is_dir() else "permission denied")
        for file, place in places.items():
            os.replace(file, place)
    except WriteError as e:
        place = e.path
        if part is not None and part in place.parents:
            place = folder / place.relative_to(part)
        raise WriteError(place, e.reason) from e
    except OSError as e:
        raise WriteError(_last_written(folder, part), e.strerror or str(e)) from e
    finally:
        if held is not None:
            held.close()
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
            _mine.discard(part)


def _files_in(part: Path) -> list[Path]:
    """What was written into a folder that `staged` made, in the order of names."""
    return [file for file in sorted(part.rglob("*")) if file.is_file() and file != part / TAKEN]


def _last_written(folder: Path, part: Path | None) -> Path:
    """The file that a failure belongs to: some errors, as that of a full disk, do not name it."""
    if part is None:
        return folder
    found = _files_in(part)
    return folder / max(found, key=lambda f: f.stat().st_mtime_ns).relative_to(part) if found else folder


def link(source: Path, target: Path) -> None:
    """A link to a file; where the system allows none, a copy."""
    for way in (os.symlink, os.link, shutil.copyfile):
        with contextlib.suppress(OSError):
            way(source, target)
            return
    shutil.copyfile(source, target)  # once more, for its error


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


def taken(path: Path) -> BinaryIO | None:
    """Take a file for as long as this process lives or the file is open; None if another process has it.

    The operating system lets go of it however a process ends, so nothing is left in the way of the next one.
    """
    handle = path.open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock not inherited by workers
    except OSError:
        handle.close()
        return None
    return handle
