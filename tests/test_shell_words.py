"""Commands that are printed come back from the shell that they are pasted into as they were meant."""

from __future__ import annotations

import pytest

from yoloprune.shell_words import quoted, split

WORDS = ["prune", "model=runs/best.pt", "project=a b", "keep=backbone,model.9", "layer=model.2.*", "x=(1)", "a&b"]


@pytest.mark.parametrize("windows", [False, True])
def test_words_come_back(windows: bool) -> None:
    line = " ".join(quoted(word, windows) for word in WORDS)
    assert split(line, windows) == WORDS


def test_windows_paths_are_left_alone() -> None:
    assert quoted(r"model=C:\runs\best.pt", windows=True) == r"model=C:\runs\best.pt"
    assert quoted(r"model=C:\my runs\best.pt", windows=True) == r'"model=C:\my runs\best.pt"'
    assert split(r"ssh -i C:\keys\pi pi@host", windows=True) == ["ssh", "-i", r"C:\keys\pi", "pi@host"]


@pytest.mark.parametrize("word", ["project=C:\\my runs\\", "project=\\\\host\\a b\\\\"])
def test_a_folder_that_ends_in_a_backslash_does_not_swallow_what_follows(word: str) -> None:
    """As `CommandLineToArgvW` reads it: before a quote two backslashes are one, and one takes its meaning away."""
    line = f"{quoted(word, windows=True)} name=x"
    ends = len(word) - len(word.rstrip("\\"))
    assert line == f'"{word}{ends * chr(92)}" name=x'
    assert split(line, windows=True) == [word, "name=x"]


def test_lists_stay_one_word_in_powershell() -> None:
    assert quoted("keep=a,b", windows=True) == '"keep=a,b"'


@pytest.mark.parametrize(("windows", "line"), [(False, "ssh 'x"), (True, 'ssh "x')])
def test_a_quote_that_is_not_closed_is_an_error(windows: bool, line: str) -> None:
    with pytest.raises(ValueError, match="closing quotation"):
        split(line, windows)
