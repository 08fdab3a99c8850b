"""Files are whole or not there, alone and together; tables grow row by row."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from yoloprune import files
from yoloprune.csv_rows import append_row, keep_rows, read_numbers, whole_rows
from yoloprune.errors import WriteError
from yoloprune.files import drop_left_parts, staged, write_at_once


def full(file: BinaryIO) -> None:
    file.write(b"half of it")
    raise OSError(28, "No space left on device")  # names no file, as a full disk does


def contents(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_one_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "a"
    write_at_once(file, lambda f: f.write(b"one"))
    os.link(file, seen := tmp_path / "open elsewhere")
    write_at_once(file, lambda f: f.write(b"two"))
    assert file.read_text() == "two" and seen.read_text() == "one"
    with pytest.raises(WriteError, match=f"Cannot write {file}: No space left on device"):
        write_at_once(file, full)
    assert contents(file.parent) == {"a": "two"}


def write_all(folder: Path, *names: str) -> None:
    with staged(folder) as part:
        for name in names:
            (part / name).parent.mkdir(exist_ok=True)
            (part / name).write_text("new")
            assert contents(folder).get(name) != "new"  # nothing is there before all is


def test_files_appear_together(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "c").write_text("somebody's")
    write_all(tmp_path, "a", "sub/b")
    assert contents(tmp_path) == {"a": "new", "c": "somebody's", "sub/b": "new"}
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a", "c", "sub"]


@pytest.mark.parametrize("plain", [True, False], ids=["written by somebody", "written in one step"])
def test_none_appears_where_one_fails(plain: bool, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    why = f"Cannot write {tmp_path / 'b'}: No space left on device"
    with pytest.raises(WriteError, match=why), staged(tmp_path) as p:
        write_at_once(p / "a", lambda f: f.write(b"new"))
        if plain:
            with (p / "b").open("wb") as f:
                full(f)
        write_at_once(p / "b", full)
    assert contents(tmp_path) == {"a": "old"} and len(list(tmp_path.iterdir())) == 1


def test_none_appears_where_one_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    with pytest.raises(WriteError, match=f"Cannot write {tmp_path / 'b'}: it is a folder"):
        write_all(tmp_path, "a", "b")
    assert contents(tmp_path) == {"a": "old"}


def test_other_errors_pass_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "new") as part:
        (part / "a").write_text("new")
        raise KeyboardInterrupt
    assert list((tmp_path / "new").iterdir()) == []


LEAVES = """
import os, signal, sys
from pathlib import Path
from yoloprune.files import staged
with staged(Path(sys.argv[1])) as part:
    (part / "a").write_text("new")
    print(part, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_tidied_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVES, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    part = Path(process.stdout.readline().strip())
    long_ago = time.time() - 60
    os.utime(part, (long_ago, long_ago))
    assert not drop_left_parts(tmp_path) and (part / "a").is_file()  # it lives
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (part / "a").is_file()
    os.utime(part, (long_ago, long_ago))
    write_all(tmp_path, "b")
    assert contents(tmp_path) == {"b": "new"} and not part.exists()


def test_a_folder_of_such_a_name_that_is_somebody_elses_stays(tmp_path: Path) -> None:
    other, linked = tmp_path / ".part-of-mine", tmp_path / "elsewhere"
    for folder in (other, linked):
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
    (linked / ".taken").write_text("")
    (tmp_path / ".part-link").symlink_to(linked)
    for folder in (other, linked):
        os.utime(folder, (0, 0))
    assert not drop_left_parts(tmp_path)
    assert all((folder / "thesis.txt").is_file() for folder in (other, linked))


def test_a_process_leaves_its_own_parts_alone(tmp_path: Path) -> None:
    """A lock of a process does not lock it out itself."""
    with staged(tmp_path) as part:
        (part / "a").write_text("new")
        os.utime(part, (0, 0))
        assert not drop_left_parts(tmp_path)
        write_all(tmp_path, "b")
    assert contents(tmp_path) == {"a": "new", "b": "new"}


def test_rows_gather_below_one_header(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    append_row(file, {"epoch": 1, "dead": "0.25"})
    append_row(file, {"epoch": 2, "dead": "0.5"})
    assert file.read_text() == "epoch,dead\n1,0.25\n2,0.5\n"
    assert read_numbers(file) == [{"epoch": 1.0, "dead": 0.25}, {"epoch": 2.0, "dead": 0.5}]


def test_a_fresh_row_begins_anew(tmp_path: Path) -> None:
    """As a run that takes the folder of an earlier one: other columns, and none of its rows."""
    file = tmp_path / "log.csv"
    append_row(file, {"epoch": 1})
    append_row(file, {"step": 1, "loss": 2.5}, fresh=True)
    append_row(file, {"step": 2, "loss": 1.5})
    assert read_numbers(file) == [{"step": 1.0, "loss": 2.5}, {"step": 2.0, "loss": 1.5}]


def test_rows_that_stay_stay_to_the_letter(tmp_path: Path) -> None:
    """Ultralytics pads its numbers, and tells of an epoch before it saves the checkpoint."""
    file, rows = tmp_path / "results.csv", "  epoch,   loss\n 1, 0.500\n 2, 0.25\n"
    file.write_text(rows + " 3, 0.125\n 2, 0.\n 1")
    keep_rows(file, "epoch", 2)
    assert file.read_text() == "  epoch,   loss\n 1, 0.500\n 2, 0.\n"
    keep_rows(file, "epoch", 0)
    assert file.read_text() == "  epoch,   loss\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("epoch,dead\n1,0.25\n2,0.5\n3,0.75\n", [1, 2]),  # the third is done again
        ("epoch,dead\n1,0.25\n1,0.25\n2,0.5\n", [1, 2]),  # an earlier release wrote it twice
        ("epoch,dead\n1,0.25\n2,0.", [1]),  # torn, though a number all the same
        ("epoch,dead\n1,0.25\n2", [1]),
        ("epoch,dead\n1,0.25\n2,", [1]),
        ("epoch,dead\n", []),
        ("epo", None),
        ("", None),
        (None, None),
    ],
)
def test_rows_that_are_done_again_go(text: str | None, left: list[float] | None, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    if text is not None:
        file.write_text(text)
    keep_rows(file, "epoch", 2)
    assert file.exists() == (left is not None)
    assert [row["epoch"] for row in read_numbers(file)] == (left or [])
    append_row(file, {"epoch": 3, "dead": 1})  # the table goes on below
    assert [row["epoch"] for row in read_numbers(file)] == [*(left or []), 3]


def test_names_come_without_the_spaces_around_them(tmp_path: Path) -> None:
    """Which older releases of Ultralytics write into results.csv."""
    (tmp_path / "results.csv").write_text("  epoch,   metrics/mAP50(B)\n  1,  0.5\n")
    assert read_numbers(tmp_path / "results.csv") == [{"epoch": 1.0, "metrics/mAP50(B)": 0.5}]
    assert read_numbers(tmp_path / "no.csv") == []


@pytest.mark.parametrize("torn", ["2", "2,", "2,0.", "2,0.5,7\n", "2,half\n", "\n", "2,\udcff\n"])
def test_rows_that_hold_no_numbers_are_passed_over(torn: str, tmp_path: Path) -> None:
    (file := tmp_path / "log.csv").write_bytes(f"epoch,dead\n1,0.25\n{torn}".encode(errors="surrogateescape"))
    assert read_numbers(file) == [{"epoch": 1.0, "dead": 0.25}]
    file.write_text("epoch,de")
    assert read_numbers(file) == []


@pytest.mark.parametrize("torn", ["c,3", "c,3,6", 'c,3,"6'])
def test_a_torn_row_goes_and_whole_ones_stay_to_the_letter(torn: str, tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    for row in ({"name": "a, b", "n": 1, "x": 0.1}, {"name": "b", "n": 2, "x": 0.25}):
        append_row(table, row)
    before = table.read_bytes()
    assert whole_rows(table) == [{"name": "a, b", "n": 1, "x": 0.1}, {"name": "b", "n": 2, "x": 0.25}]
    with table.open("a") as f:
        f.write(torn)
    assert len(whole_rows(table)) == 2 and table.read_bytes() == before
    table.write_text("name,n")
    assert whole_rows(table) == [] and not table.exists()


def test_a_link_is_never_written_through(tmp_path: Path) -> None:
    mine, other, place = tmp_path / "mine.jpg", tmp_path / "other.jpg", tmp_path / "links" / "x.jpg"
    mine.write_text("mine")
    other.write_text("other")
    place.parent.mkdir()
    files.link(mine, place)
    with pytest.raises(FileExistsError):
        files.link(other, place)
    assert mine.read_text() == place.read_text() == "mine"


def test_names_are_told_apart_as_any_file_system_does() -> None:
    taken: set[str] = set()
    named = [files.unlike(name, taken) for name in ("2-x.jpg", "x.jpg", "x.png", "X.JPG", "y.jpg")]
    assert named == ["2-x.jpg", "x.jpg", "3-x.png", "4-X.JPG", "y.jpg"]
    assert len({Path(name).stem.casefold() for name in named}) == len(named)


@pytest.mark.skipif(sys.platform == "win32", reason="locks of fcntl")
@pytest.mark.parametrize(("said", "free"), [(errno.ENOLCK, True), (errno.ENOSYS, True), (errno.EAGAIN, False)])
def test_a_file_system_without_locks_keeps_nobody_out(
    said: int, free: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(said, os.strerror(said))

    monkeypatch.setattr("fcntl.lockf", refuse)
    with pytest.warns(UserWarning, match="no locks here") if free else contextlib.nullcontext():
        handle = files.taken(tmp_path / "lock")
    assert (handle is not None) is free
    if handle is not None:
        handle.close()


@pytest.mark.skipif(sys.platform == "win32", reason="locks of fcntl")
def test_a_file_that_was_removed_between_opening_and_taking_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a third process would make and take another of that name, and two would have it."""
    import fcntl

    path, lock = tmp_path / "lock", fcntl.lockf
    first = files.taken(path)

    def late(*told: Any) -> None:
        files.let_go(path, first)  # only now, when the next one has opened it
        lock(*told)

    monkeypatch.setattr("fcntl.lockf", late)
    second = files.taken(path)
    assert second is not None and os.path.samestat(os.fstat(second.fileno()), path.stat())
    files.let_go(path, second)
    assert second.closed and not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there an open file cannot be removed")
def test_where_files_are_numbered_anew_one_is_taken_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.path.samestat", lambda *_: False)
    handle = files.taken(tmp_path / "lock")
    assert handle is not None and not handle.closed
    handle.close()


def test_a_file_that_a_scanner_has_open_is_renamed_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Path] = []

    def busy_twice(source: Path, target: Path) -> None:
        tries.append(source)
        if len(tries) < 3:
            raise PermissionError(errno.EACCES, "in use", str(target))

    monkeypatch.setattr(files, "PATIENCE", (0.0, 0.0, 0.0))
    monkeypatch.setattr("os.replace", busy_twice)
    files.rename(tmp_path / "a", tmp_path / "b")
    assert len(tries) == 3
