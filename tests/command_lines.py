"""Command lines as the tests of settings write them: the least of each command, what comes out, and recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from yoloprune.errors import ArgumentError
from yoloprune.settings.command_line import parse
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.request import Request

ROOT = Path(__file__).resolve().parents[1]
SPARSE = "train-sparse model=a.pt data=b.yaml"
LEAST = {name: "".join(f"{key}=x " for key in command.required).split() for name, command in COMMANDS.items()}


def ok(line: str) -> Request:
    """Return the request that the line parses to."""
    return parse(line.split())


def error(line: str) -> str:
    """Return the message that parsing the line ends with."""
    with pytest.raises(ArgumentError) as caught:
        parse(line.split())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def recipe(folder: Path, content: dict) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return f"cfg={path}"
