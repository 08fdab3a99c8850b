"""What breaks in other people's hands: kills, full disks, signals, races, wrong words, and networks of their own.

    python scripts/campaign.py                             # all parts, a quarter of an hour on 2 cores
    python scripts/campaign.py kills --count 40 --seed 1   # one of them
    python scripts/campaign.py --quick                     # a tenth of each

Every fault is a line, and the exit status is 1 if there was one.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("YOLO_OFFLINE", "true")

from campaign_ground import Ground, Part

PARTS = {
    "kills": ("campaign_kills", 40),
    "slims": ("campaign_slim", 10),
    "disks": ("campaign_kills", 30),
    "signals": ("campaign_kills", 24),
    "races": ("campaign_races", 24),
    "invocations": ("campaign_invocations", 250),
    "networks": ("campaign_networks", 210),
}
"""By name: the file of its function, and how many trials it has unless told otherwise."""


def table(parts: list[Part]) -> str:
    """The figures as Markdown."""
    rows = [
        "| part | tried | what came of them | faults | seconds |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for part in parts:
        came = ", ".join(f"{n} {what}" for what, n in sorted(part.came.items(), key=lambda item: -item[1]))
        rows.append(f"| {part.name} | {part.tried} | {came} | {len(part.faults)} | {part.seconds:.0f} |")
    return "\n".join(rows)


def main() -> int:
    """Run the parts that are asked for and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; all if none is named")
    parser.add_argument("--count", type=int, help="trials of each part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a tenth of each")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    found: list[Part] = []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore it
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        ground = Ground.make(Path(scratch).resolve())
        for name in arguments.parts or PARTS:
            file, count = PARTS[name]
            # Late: every child imports this file, and should not import the parts as well
            run: Callable[[Ground, int, int], Part] = getattr(import_module(file), name)
            start = time.monotonic()
            part = run(ground, arguments.count or (-(-count // 10) if arguments.quick else count), arguments.seed)
            part.seconds = time.monotonic() - start
            found.append(part)
            print(f"{name}: {part.tried} tried, {len(part.faults)} faults, {part.seconds:.0f} s", flush=True)
    print(table(found))
    return int(any(part.faults for part in found))


if __name__ == "__main__":
    sys.exit(main())
