"""Time the networks of this folder on this machine, and write times.csv, which 'yoloprune prune times=' takes.

    python3 measure.py

It needs Python 3.8 and the package of the runtime, or a command that runs a network (--cmd) and nothing else. Networks
take turns, so that a machine that slows down hits all alike. Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yoloprune.runtimes.device_commands import DeviceError
from yoloprune.runtimes.device_runtimes import Way, opened, require
from yoloprune.runtimes.timing import WARM_UP, Times, take_turns

WAY = ("format", "runtime", "machine", "threads", "precision", "imgsz", "batch", "parent", "of")
"""Columns that are the same in all rows: how was measured, and of how many networks."""

COLUMNS = ("network", "ms", "p95", "spread", "runs", "parent_ms", "parent_spread", *WAY, "widths")

OF_COMMAND = "what the command runs on"
"""The machine, where a command runs the networks."""

SWING = 1.5
"""Between times of the parent: more is no noise."""


def main(words: Sequence[str] | None = None, folder: Path | None = None) -> int:
    """Measure.

    Args:
        words (Sequence[str] | None): Those of the command line, of this process when None.
        folder (Path | None): Where the networks are, beside this file when None.

    Returns:
        (int): Exit status: 0 done, 1 an expected failure, 130 interrupted.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="threads of the runtime")
    parser.add_argument("--device", help="an execution provider of ONNX Runtime; CPU, GPU or NPU of OpenVINO; vulkan")
    parser.add_argument("--cmd", help="runs a network in place of a package; {model} stands for its file")
    parser.add_argument("--pattern", help="finds milliseconds in what it prints, with one group; wall: its whole time")
    parser.add_argument("--seconds", type=float, default=2.5, help="for each network, at most")
    parser.add_argument("--at-once", type=int, default=8, help="networks that take turns, and are open together")
    parser.add_argument("--check", metavar="FORMAT", help="tell whether a format runs here, and measure nothing")
    told = parser.parse_args(words)
    try:
        if told.check:
            print(require(told.check))
        else:
            measure(folder or Path(__file__).resolve().parent, told)
    except (DeviceError, OSError) as e:
        print(f"measure.py: error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmeasure.py: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def measure(folder: Path, told: argparse.Namespace) -> None:
    """Time what has no row yet, some networks at a time, each group in turns with the parent."""
    home = Path.cwd()
    os.chdir(folder)  # so that a command gets plain names
    try:
        _measure(told)
    finally:
        os.chdir(home)


def _measure(told: argparse.Namespace) -> None:
    facts = json.loads(Path("networks.json").read_text(encoding="utf-8"))
    threads, line, pattern = (getattr(told, key) or facts[key] for key in ("threads", "cmd", "pattern"))
    way = Way(
        facts["format"],
        facts["batch"],
        facts["channels"],
        threads,
        told.device,
        facts["precision"] == "fp16",
        line,
        pattern,
    )
    parent, *networks = facts["networks"]
    how = {
        "format": way.form,
        "runtime": line or require(way.form),
        "machine": OF_COMMAND if line else machine() + (f", {told.device}" if told.device else ""),
        "threads": threads or "",
        "precision": facts["precision"],
        "imgsz": parent["imgsz"],
        "batch": way.batch,
        "parent": facts["parent"],
        "of": len(networks),
    }
    how = {key: str(value) for key, value in how.items()}
    done = {row["network"] for row in resumed(Path("times.csv"), how)}
    waiting = [one for one in networks if one["name"] not in done]
    say(f"{len(waiting)} of {len(networks)} networks to time in {how['runtime']} on {how['machine']}")
    at_once = max(told.at_once, 1)
    for start in range(0, len(waiting), at_once):
        some = [parent, *waiting[start : start + at_once]]
        runs = [opened(Path(one["file"]), one["imgsz"], way) for one in some]
        warm_up, lead = (WARM_UP, 1) if line is None else (1, 0)  # a command does its own
        now, *times = take_turns(runs, told.seconds * len(some), 1 / way.batch, warm_up, lead)
        append(Path("times.csv"), [row_of(one, found, now, how) for one, found in zip(some[1:], times)])  # noqa: B905
        timed = len(networks) - len(waiting) + start + len(some) - 1
        say(f"{timed} of {len(networks)}: {parent['name']} takes {now.median:.2f} ms, known to ±{now.spread:.1%}")
    conclude(rows_of(Path("times.csv")), facts)


def conclude(rows: Sequence[Mapping[str, str]], facts: Mapping[str, Any]) -> None:
    """Say what was found, and what to do with it."""
    parents = [float(row["parent_ms"]) for row in rows]
    if max(parents) > SWING * min(parents):
        say(f"warning: the parent took {min(parents):.2f} to {max(parents):.2f} ms, so something else was running here")
    for row in rows if len(rows) == 1 else ():
        share, name = float(row["ms"]) / float(row["parent_ms"]), facts["networks"][0]["name"]
        say(f"{row['network']} takes {row['ms']} ms, {share:.3f} of the {row['parent_ms']} ms of {name}")
    if facts["next"] is not None:  # else somebody fetches the table
        say(f"all is in {Path('times.csv').resolve()}" + (f"\nnext: {facts['next']}" if facts["next"] else ""))


def row_of(network: Mapping[str, Any], found: Times, now: Times, how: Mapping[str, str]) -> dict[str, Any]:
    """What is written of a network."""
    own = {"network": network["name"], **vars(found), "parent_ms": now.median, "parent_spread": now.spread}
    return {"ms": own.pop("median"), **own, **how, "widths": " ".join(map(str, network["widths"]))}


# The table ------------------------------------------------------------------------------------------------------------
def resumed(path: Path, how: Mapping[str, str]) -> list[dict[str, str]]:
    """The rows of an earlier run; one that was torn when it was killed goes.

    Raises:
        DeviceError: If it measured in another way, or other networks.
    """
    rows = rows_of(path)
    for row in rows:
        for key, value in how.items():
            if row[key] != value:
                raise DeviceError(
                    f"{path.resolve()} was measured with {key} {row[key] or 'of its own choice'}, and now it is "
                    f"{value or 'of its own choice'}: move it away, or measure as before"
                )
    part = path.with_name(".times.csv.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)
    return rows


def rows_of(path: Path) -> list[dict[str, str]]:
    """Whole rows, none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = [line for line in file if line.endswith("\n")]
    return [row for row in csv.DictReader(lines) if set(row) == set(COLUMNS) and row["widths"] is not None]


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows, which are on the disk when this returns."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, COLUMNS).writerows(rows)
        file.flush()
        os.fsync(file.fileno())


# The machine ----------------------------------------------------------------------------------------------------------
def machine() -> str:
    """What this machine is: a board says it, a processor has a name."""
    for place, key in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name"), ("/proc/cpuinfo", "Hardware")):
        try:
            text = Path(place).read_text(errors="replace").replace("\0", "")
        except OSError:
            continue
        lines = [line.partition(":")[2] if key else line for line in text.splitlines() if line.startswith(key)]
        if lines and lines[0].strip():
            return f"{lines[0].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def say(text: str) -> None:
    """A line, at once, also where nobody sits at a terminal."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
