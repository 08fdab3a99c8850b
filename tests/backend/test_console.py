"""What a stranger wrote into a file does not reach the terminal raw."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from yoloprune import cli
from yoloprune.backend import compat, console
from yoloprune.errors import ArgumentError, printable

TITLE, CLEAR, TURNED, HALF = "\x1b]0;owned\x07", "\x1b[2J\x1b[H", "\u202egnp.exe", "\udcff"


def test_orders_are_shown_and_not_sent() -> None:
    assert printable(f"a\tb\n{TITLE}") == "a\tb\n\\x1b]0;owned\\x07"
    for text in (TITLE, CLEAR, TURNED, HALF, "\x9b2J", "\r"):
        assert printable(text).isprintable() and printable(text).isascii()
    assert printable("Füße 犬 👩‍🚒") == "Füße 犬 👩‍🚒"


@pytest.mark.parametrize(
    ("terminal", "variable", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_messages(
    terminal: bool, variable: str, coloured: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compat.LOGGER, "propagate", True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("NO_COLOR", variable)
    with caplog.at_level(logging.INFO), console.terminal_kept():
        console.log("info: ", TITLE)
        console.warn(CLEAR)
        compat.LOGGER.info("%s %s", TITLE, compat.colorstr("blue", "bold", "known"))
    said = "".join(record.getMessage() for record in caplog.records)
    assert "\x1b]" not in said and "\x07" not in said and "\x1b[2J" not in said
    assert ("\x1b[34m" in said) is coloured and "owned" in said and "known" in said
    assert not compat.LOGGER.filters


def test_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_: object) -> None:
        raise ArgumentError(f"the parent {TITLE}{HALF} is not there")

    monkeypatch.setattr(cli, "_dispatch", refuse)
    assert cli.main(["info", "model=a.pt"]) == 2
    assert "\x1b" not in (said := capsys.readouterr().err) and "owned" in said


@pytest.mark.parametrize(("terminal", "redraws"), [(True, True), (False, False)])
def test_bars_without_a_terminal_are_not_drawn_over(
    terminal: bool, redraws: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    with console.terminal_kept():
        bar = compat.TQDM(total=2, desc="work")
        bar.update(2)
        bar.close()
    assert ("\r" in capsys.readouterr().out) is redraws


def test_our_name_is_written_as_ever_in_what_ultralytics_says(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), console.terminal_kept():
        compat.LOGGER.info("YOLOv8n pruned by YOLOprune summary")
    assert caplog.messages == ["YOLOv8n pruned by yoloprune summary"]


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_that_go_away_erase_no_line_of_a_log(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    with console.terminal_kept():
        bar = compat.TQDM(total=2, desc="work", leave=False)
        bar.update(2)
        bar.close()
    said = "".join(capsys.readouterr())
    assert "work" in said and ("\x1b[K" in said) is terminal
    assert "leave" not in vars(compat.TQDM)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_bar_says_gives_no_orders(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ultralytics begins some in colour, and names the folder that it scans."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with console.terminal_kept():
        bar = compat.TQDM(total=2, desc=f"\x1b[34mval: \x1b[0mScanning {TITLE}")
        bar.update(1)
        bar.set_description(f"\x1b[1mstill {TITLE}")
        bar.update(1)
        bar.close()
    said = "".join(capsys.readouterr())  # older releases draw on stderr
    assert "\x1b]" not in said and "\x07" not in said and "owned" in said and "still" in said
    assert ("\x1b[1m" in said) is terminal
    assert "desc" not in vars(compat.TQDM)  # bars outside are as ever


# verbose=False --------------------------------------------------------------------------------------------------------
@pytest.fixture(autouse=True)
def propagating(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat.LOGGER, "propagate", True)


def asked(verbose: bool | None, inner: Callable[[], None] = lambda: None) -> None:
    """A command that says something, has a bar, and comes to an end."""

    @console.heard_as_asked
    def run(request: Any) -> None:
        compat.LOGGER.info("a step")
        console.log("x: ", "a message")
        console.warn("a warning")
        for _ in compat.TQDM(range(3), desc="a bar", disable=False):
            pass
        inner()
        console.conclude("x: ", "the end")

    run(SimpleNamespace(passed={} if verbose is None else {"verbose": verbose}))


def test_verbose_false_leaves_warnings_and_the_end(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    level = compat.LOGGER.level
    with caplog.at_level(logging.INFO):
        asked(False)
        assert [r.getMessage() for r in caplog.records] == ["WARNING ⚠️ a warning", "x: the end"]
        assert "a bar" not in capsys.readouterr().out
        caplog.clear()
        asked(None)
        assert len(caplog.records) == 4 and "a bar" in capsys.readouterr().out
    assert compat.LOGGER.level == level and not console.is_hushed()


def test_what_a_command_inside_another_ends_with_is_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        asked(False, lambda: asked(False))
    assert [r.getMessage() for r in caplog.records] == ["WARNING ⚠️ a warning"] * 2 + ["x: the end"]


def test_what_tries_cuts_speaks_for_itself(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with caplog.at_level("INFO"), console.speaking_as("sweep"):
        console.log("prune: ", "cut; then prune: again")
        console.warn("prune: the weights are untrained")
        console.log("slim: ", "prune: it")
        monkeypatch.setattr(console, "title", lambda text: f"\x1b[34m\x1b[1m{text}\x1b[0m")
        console.log("prune: ", "coloured")
    said = [record.message for record in caplog.records]
    warned = "WARNING ⚠️ sweep: the weights are untrained"
    assert said[:3] == ["sweep: cut; then prune: again", warned, "slim: prune: it"]
    assert said[3] == "\x1b[34m\x1b[1msweep: \x1b[0mcoloured"
    console.log("prune: ", "after")
    assert "prune: " in caplog.records[-1].message
