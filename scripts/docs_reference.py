"""Write docs/reference from the table of options and the schema of report.json, so that neither can be out of date.

python scripts/docs_reference.py           # write the pages
python scripts/docs_reference.py --check   # tell whether they are what would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yoloprune.reporting import schema
from yoloprune.settings.command import Command
from yoloprune.settings.commands import COMMANDS

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
NOTICE = "<!-- Written by scripts/docs_reference.py; changes belong into the table it reads. -->"


def commands() -> str:
    """Every command with its options, their defaults and what they mean."""
    return "\n".join(
        [
            NOTICE,
            "# Commands and options",
            "",
            "Keys are given as `key=value` in any order. A recipe, `cfg=recipe.yaml`, holds keys as well; the command",
            "line wins over it. In Python they are keyword arguments of functions of the same names.",
            "",
            *(line for command in COMMANDS.values() for line in _command(command)),
        ]
    )


def _command(command: Command) -> list[str]:
    lines = [f"## {command.name}", "", f"{command.summary[0].upper()}{command.summary[1:]}.", ""]
    if command.options:
        lines += ["| option | default | takes | meaning |", "| --- | --- | --- | --- |"]
        for option in command.options:
            default = "not set" if option.default in (None, ()) else _code(option.default)
            cells = (_code(option.name), default, option.kind.allowed, option.meaning)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    if command.host_keys is None:
        lines += [f"Every Ultralytics {command.mode} argument passes through.", ""]
    elif command.host_keys:
        lines += [f"Ultralytics arguments: {', '.join(map(_code, command.host_keys))}.", ""]
    if command.own_defaults:
        told = " ".join(f"{k}={v}" for k, v in command.own_defaults.items())
        lines += [f"Other defaults unless `optimizer=` is given: `{told}`.", ""]
    lines += [" ".join(command.notes), ""] if command.notes else []
    return [*lines, "```bash", *(f"yoloprune {example}" for example in command.examples), "```", ""]


def _code(value: object) -> str:
    told = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{told}`"


def report() -> str:
    """Every key of report.json."""
    return "\n".join(
        [
            NOTICE,
            "# report.json",
            "",
            f"Every run leaves one beside its `report.html`. `schema` says `{schema.NAME}`; the number rises when a",
            "key goes or changes its meaning, new ones may come at any time. `yoloprune schema` prints a JSON Schema.",
            "",
            "| key | type | meaning |",
            "| --- | --- | --- |",
            *_keys(schema.PROPERTIES, ""),
            "",
        ]
    )


def _keys(properties: Mapping[str, Mapping[str, Any]], above: str) -> list[str]:
    lines = []
    for name, rule in properties.items():
        kind = rule.get("type", "string")
        kind = " or ".join(kind) if isinstance(kind, list) else kind
        lines.append(f"| `{above}{name}` | {kind} | {rule.get('description', '')} |")
        inner = rule.get("items", {})
        lines += _keys(rule.get("properties", {}), f"{above}{name}.")
        lines += _keys(inner.get("properties", {}), f"{above}{name}[].")
    return lines


PAGES = {"commands.md": commands, "report.md": report}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = False
    for name, made in PAGES.items():
        page = FOLDER / name
        if check:
            stale |= not page.is_file() or page.read_text(encoding="utf-8") != made()
            continue
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(made(), encoding="utf-8")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
