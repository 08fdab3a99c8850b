"""Files that are whole or not there, written beside and renamed, one alone or several together; links and locks."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from yoloprune.errors import WriteError

PATIENCE = (0.1, 0.2, 0.5, 1.0, 2.0) if os.name == "nt" else ()
"""Seconds between attempts to rename where a virus scanner or an indexer may have a new file open."""


def rename(source: Path, target: Path) -> None:
    """Rename a file or a folder over what is there, as soon as the system allows it."""
    for wait in PATIENCE:
        with contextlib.suppress(PermissionError):
            os.replace(source, target)
            return
        time.sleep(wait)
    os.replace(source, target)


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
            rename(part, path)
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
            rename(file, place)
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
    """A link to a file; where the system allows none, a copy.

    Raises:
        FileExistsError: If there is something at the target: to write into a link is to write into a user's file.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    for way in (os.symlink, os.link, shutil.copyfile):
        with contextlib.suppress(OSError):
            way(source, target)
            return
    shutil.copyfile(source, target)  # once more, for its error


def unlike(name: str, taken: set[str]) -> str:
    """A file name whose stem no taken one has, in capitals or not, as some file systems see them; taken from now on."""
    free, i = name, 2
    while Path(free).stem.casefold() in taken:
        free, i = f"{i}-{name}", i + 1
    taken.add(Path(free).stem.casefold())
    return free


HELD = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})
"""What systems say of a file that another process has taken."""

TRIES = 10
"""How often a file is taken that is removed again and again right then."""


def taken(path: Path) -> BinaryIO | None:
    """Take a file for as long as this process lives or the file is open; None if another process has it.

    The operating system lets go of it however a process ends, so nothing is left in the way of the next one.
    """
    for _ in range(TRIES):
        handle = _locked(path)
        if handle is None or _is_at(path, handle):
            return handle
        handle.close()  # whoever had it removed it in between, and the next one makes another
    return _locked(path)  # on a file system that numbers files anew none is ever where it was


def _locked(path: Path) -> BinaryIO | None:
    handle = path.open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock not inherited by workers
    except OSError as e:
        if e.errno in HELD:
            handle.close()
            return None
        warnings.warn(f"{path.parent}: no locks here ({e.strerror}); start no other run in this folder", stacklevel=3)
    return handle


def _is_at(path: Path, handle: BinaryIO) -> bool:
    """Whether an open file is still the one of that name; on Windows none that is open can be removed."""
    try:
        return sys.platform == "win32" or os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def let_go(path: Path, handle: BinaryIO | None) -> None:
    """Remove a file that `taken` gave, and let go of it in an order that lets nobody have it with another one."""
    if handle is None or handle.closed:
        return
    with contextlib.suppress(OSError):
        if sys.platform != "win32":
            path.unlink(missing_ok=True)
    handle.close()
    with contextlib.suppress(OSError):  # where another process has it by now
        if sys.platform == "win32":
            path.unlink(missing_ok=True)
