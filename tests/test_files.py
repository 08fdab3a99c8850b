"""Tables that grow row by row."""

from __future__ import annotations

from pathlib import Path

from yoloprune.files import append_row, read_numbers


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


def test_names_come_without_the_spaces_around_them(tmp_path: Path) -> None:
    """Which older releases of Ultralytics write into results.csv."""
    (tmp_path / "results.csv").write_text("  epoch,   metrics/mAP50(B)\n  1,  0.5\n")
    assert read_numbers(tmp_path / "results.csv") == [{"epoch": 1.0, "metrics/mAP50(B)": 0.5}]
    assert read_numbers(tmp_path / "no.csv") == []
