"""Files are whole or not there, alone and together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from yoloprune.errors import WriteError
from yoloprune.files import staged, write_at_once


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
