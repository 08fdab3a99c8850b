"""Write docs/reference from options, docstrings and the schema of report.json, so that none of it can be out of date.

python scripts/docs_reference.py           # write the pages
python scripts/docs_reference.py --check   # tell whether they are what would be written
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yoloprune
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
            "line wins over it. Without `imgsz=` a model is taken at the size that it was trained at; without",
            "`epochs=` trainings take Ultralytics' 100. In [Python](python.md) options are keyword arguments of",
            "functions of the same names, `train-sparse` as `train_sparse`; `demo`, `help`, `completion`, `schema`",
            "and `version` are commands only.",
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
            "Every run but `info`, `plot` and `latency` leaves one beside its `report.html`. `schema` says",
            f"`{schema.NAME}`; the number rises when a key goes or changes its meaning, new ones may come at any",
            "time. `yoloprune schema` prints a JSON Schema.",
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


PYTHON = """
What the commands do, as functions: options and Ultralytics' arguments are keyword arguments ([all of
them](commands.md)), and a model is a path, an `ultralytics.YOLO` or one of ours. What comes back can be used at once:

```python
import yoloprune

small = yoloprune.slim("best.pt", data="my.yaml", flops=0.5, epochs=50)
print(small.figures)  # the table, and the next step
print(small.figures.rows[-1]["mAP50-95"], small.figures.file)
```

An error is a `yoloprune.PruneError`, whose message says what to do.
"""
SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes|Examples):$", re.MULTILINE)


def python() -> str:
    """Every public name with what its docstring says; arguments of commands stand on their own page."""
    lines = [NOTICE, "# Python", PYTHON]
    for name in yoloprune.__all__:
        thing = getattr(yoloprune, name)
        if isinstance(thing, str):
            continue
        said, *sections = SECTION.split(inspect.getdoc(thing) or "")
        lines += [f"## {name}", "", said.strip(), ""]
        for title, body in zip(sections[::2], sections[1::2], strict=True):
            if title == "Args" and name.replace("_", "-") in COMMANDS:
                continue
            if title == "Examples":
                lines += ["```pycon", inspect.cleandoc(body), "```", ""]
                continue
            entries = re.split(r"\n(?=    \S)", "\n" + inspect.cleandoc("x\n" + body)[1:].replace("\n", "\n    "))
            lines += [f"*{title}*", "", *(f"* {_joined(entry)}" for entry in entries if entry.strip()), ""]
    return "\n".join(lines)


def _joined(entry: str) -> str:
    """An entry of a docstring's section in one line, its name as code."""
    name, colon, rest = " ".join(entry.split()).partition(": ")
    bare = name[1:-1] if name.startswith("(") else name  # a type that comes back
    return f"`{bare}`: {rest}" if colon else name


PAGES = {"commands.md": commands, "report.md": report, "python.md": python}


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
