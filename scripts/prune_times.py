"""Where the seconds of `yoloprune prune` go: every run is a process of its own, medians of its stages.

    python scripts/prune_times.py yolov8n.yaml yolov9t.yaml

Channels go by the size of filters, nothing is repaired, and no image is looked at: what is left is the command itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

STAGES = ("imports", "loading", "channels and rows", "choice", "cut", "proof", "file", "page", "rest")


def timed(owner: Any, name: str, stage: str, spent: dict[str, float]) -> None:
    """Count what a function takes as a stage, and no longer as part of the one that it is called in."""
    inner: Callable[..., Any] = getattr(owner, name)

    @wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        before, start = sum(spent.values()), time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            within = sum(spent.values()) - before
            spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - start - within

    setattr(owner, name, outer)


def one(model: str, folder: str) -> dict[str, float]:
    """Prune once, in this process, to half the FLOPs."""
    start = time.perf_counter()
    import torch
    from ultralytics import YOLO

    from yoloprune import api
    from yoloprune.backend import evaluation
    from yoloprune.checkpoint import saving
    from yoloprune.commands import cut_and_repair, packing, prune, prune_report
    from yoloprune.cutting import proof
    from yoloprune.native import candidates

    spent = {"imports": time.perf_counter() - start}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yolo = YOLO(model)
    yolo.ckpt = {}
    yolo.save(Path(folder) / "parent.pt")
    timed(saving, "load", "loading", spent)
    timed(candidates.Channels, "__init__", "channels and rows", spent)
    timed(candidates.Channels, "choose", "choice", spent)
    timed(cut_and_repair, "cut", "cut", spent)
    timed(proof, "prove", "proof", spent)
    for name in ("packed", "require_saved"):
        timed(packing, name, "file", spent)
    timed(saving.Checkpoint, "write", "file", spent)
    timed(prune_report, "write", "page", spent)
    timed(evaluation, "measure", "rest", spent)
    timed(prune, "run", "rest", spent)
    words: dict[str, Any] = {"flops": 0.5, "score": "l2", "recover": "none", "data": False, "imgsz": 640}
    api.prune(str(Path(folder) / "parent.pt"), **words, project=folder, name="pruned")
    return {stage: spent.get(stage, 0.0) for stage in STAGES}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--runs", type=int, default=3, help="processes for each model")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.one:
        print(json.dumps(one(told.models[0], told.one)))
        return
    from yoloprune.reporting.text_table import table

    rows = []
    for model in told.models:
        found: list[dict[str, float]] = []
        for _ in range(told.runs):
            with tempfile.TemporaryDirectory() as folder:
                words = [sys.executable, __file__, model, "--one", folder]
                said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
                found.append(json.loads(said.strip().splitlines()[-1]))
        whole = median(sum(run.values()) for run in found)
        rows.append({"model": model, "s": whole, **{stage: median(run[stage] for run in found) for stage in STAGES}})
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
