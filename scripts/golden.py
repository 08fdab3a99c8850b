"""Write the golden files of tests/golden anew: what a change of the code must leave as it is, to the bit.

    python scripts/golden.py              # all
    python scripts/golden.py graphs       # the graphs and plans of eight models
    python scripts/golden.py checkpoints  # tiny checkpoints, and what they say in model.yaml

Run it only where a file is to change: a graph for a reason that can be told, a checkpoint hardly ever, because the old
ones are those that users have. `git diff tests/golden` shows what came out otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import goldens

from yoloprune.commands.demo_images import make_shapes


def write(name: str, told: Mapping[str, Any]) -> None:
    """Write one JSON file."""
    (goldens.FOLDER / f"{name}.json").write_text(goldens.text(told), encoding="utf-8")


def write_graphs(scratch: Path) -> None:
    """What is found out about the eight models."""
    for name in goldens.NAMES:
        write(name, goldens.graph_facts(name, scratch))


def write_checkpoints(scratch: Path) -> None:
    """One checkpoint of every kind, with nothing in it that tells where it was made."""
    made = goldens.make_pruned(scratch)
    made["interrupted"] = goldens.make_interrupted(scratch, make_shapes(scratch / "data", train=8, val=4, imgsz=32))
    nowhere = {"data": "data.yaml", "model": "tiny.pt", "project": "runs", "save_dir": "runs/interrupted"}
    for name, file in made.items():
        target = goldens.FOLDER / f"{name}.pt"
        goldens.rewrite(file, target, nowhere if name == "interrupted" else {})
        for place in {str(scratch), str(Path.home()), str(goldens.FOLDER.parents[1])}:
            if len(place) > 1 and place.encode() in target.read_bytes():
                raise SystemExit(f"{target} names {place}")
        write(name, goldens.saved_yaml(target))


def main() -> None:
    """Write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["all", "graphs", "checkpoints"], default="all")
    what = parser.parse_args().what
    goldens.FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        if what != "checkpoints":
            write_graphs(Path(scratch))
        if what != "graphs":
            write_checkpoints(Path(scratch))


if __name__ == "__main__":
    main()
