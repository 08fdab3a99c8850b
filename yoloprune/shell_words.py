"""Commands as a user's shell takes them: words quoted to be pasted, and taken apart again."""

from __future__ import annotations

import os
import re
import shlex

WINDOWS = os.name == "nt"
PLAIN = re.compile(r"[\w=.+:/\\@-]+")
"""What neither cmd nor PowerShell makes anything else of; the latter takes `a,b` for two words."""


def quoted(word: str, windows: bool = WINDOWS) -> str:
    """A word that comes through a shell as it is: Windows' own keep single quotes, and leave backslashes alone."""
    if not windows:
        return shlex.quote(word)
    return word if PLAIN.fullmatch(word) else f'"{word}"'


def split(line: str, windows: bool = WINDOWS) -> list[str]:
    """The words of a line as a shell hands them on.

    Raises:
        ValueError: If a quote is not closed.
    """
    if not windows:
        return shlex.split(line)
    if line.count('"') % 2:
        raise ValueError("No closing quotation")
    return [word.replace('"', "") for word in re.findall(r'(?:[^\s"]|"[^"]*")+', line)]
