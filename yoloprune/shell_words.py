"""Commands as a user's shell takes them: words quoted to be pasted, and taken apart again."""

from __future__ import annotations

import os
import re
import shlex

WINDOWS = os.name == "nt"
PLAIN = re.compile(r"[\w=.+:/\\@-]+")
"""What neither cmd nor PowerShell makes anything else of; the latter takes `a,b` for two words."""

BACK, DOUBLED = "\\", re.compile(r'(\\+)\1"')
"""A backslash, and so many of them before a quote that each is one of two."""


def quoted(word: str, windows: bool = WINDOWS) -> str:
    """A word that comes through a shell as it is: Windows' own keep single quotes, and leave backslashes alone, but for
    those before a quote, of which programs take two for one.
    """
    if not windows:
        return shlex.quote(word)
    return word if PLAIN.fullmatch(word) else f'"{word}{word[len(word.rstrip(BACK)) :]}"'


def split(line: str, windows: bool = WINDOWS) -> list[str]:
    """The words of a line as a shell hands them on.

    Raises:
        ValueError: If a quote is not closed.
    """
    if not windows:
        return shlex.split(line)
    if line.count('"') % 2:
        raise ValueError("No closing quotation")
    line = DOUBLED.sub(r'\1"', line)
    return [word.replace('"', "") for word in re.findall(r'(?:[^\s"]|"[^"]*")+', line)]
