"""Time and memory of tracing, selecting, cutting and verifying.

    python scripts/benchmark.py                    # n models and the largest, one core

Each row runs in a process of its own, so that the peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time

NAMES = [f"{n}.yaml" for n in ("yolov8n", "yolo11n", "yolo12n", "yolo26n", "yolov8x", "yolov9e", "yolo12x", "yolo26x")]


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    scale = 1e6 if platform.system() == "Darwin" else 1e3  # bytes there, kilobytes here
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def one(name: str) -> dict[str, float]:
    """Prune one model to half its FLOPs and time every stage; medians of three."""
    import copy
    from statistics import median

    import torch
    from ultralytics import YOLO

    from yoloprune.backend import yolo_tracing
    from yoloprune.cutting import proof, surgery
    from yoloprune.importance import criteria
    from yoloprune.planning import greedy_selection
    from yoloprune.settings.budget import Budget, Limits

    torch.set_num_threads(1)
    start = peak_mb()
    model = YOLO(name).model
    loaded = peak_mb()
    times: dict[str, list[float]] = {"trace": [], "select": [], "cut": [], "verify": []}
    for _ in range(3):
        clock = [time.perf_counter()]
        graph = yolo_tracing.trace_yolo(model)
        clock.append(time.perf_counter())
        scores = criteria.importance(model, graph, "bn").channels
        alive = greedy_selection.select(graph, scores, Budget(flops=0.5), Limits())
        clock.append(time.perf_counter())
        plan = graph.plan(alive)
        child = surgery.cut(copy.deepcopy(model), plan)
        clock.append(time.perf_counter())
        proof.prove(model, child, plan, yolo_tracing.example(model, 2))
        clock.append(time.perf_counter())
        for stage, a, b in zip(times, clock, clock[1:], strict=False):
            times[stage].append(b - a)
    row = {stage: round(median(t), 3) for stage, t in times.items()}
    row["select+cut+verify"] = round(sum(row[s] for s in ("select", "cut", "verify")), 3)
    return {**row, "MB imports": start, "MB model loaded": loaded, "MB peak": peak_mb(), "MB ratio": peak_mb() / loaded}


def main() -> None:
    """Print one row per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print("ROW", json.dumps(one(arguments.one)))
        return
    from yoloprune.reporting.text_table import table

    rows = []
    for name in arguments.names:
        done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True)
        line = next(line for line in done.stdout.splitlines() if line.startswith("ROW "))
        rows.append({"model": name, **json.loads(line[4:])})
    print(table(rows))


if __name__ == "__main__":
    main()
