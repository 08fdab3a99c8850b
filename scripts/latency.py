"""What a cut saves in milliseconds, on the runtimes that are installed; every measurement is a process of its own.

    python scripts/latency.py halve --model yolov8n.yaml --imgsz 320 --threads 1 --formats torch onnx openvino ncnn
    python scripts/latency.py wanted --model yolov8n.yaml --imgsz 320 --threads 1 --formats torch onnx openvino ncnn
    python scripts/latency.py predict --model yolov8n.yaml --imgsz 320 --threads 1 --formats onnx openvino
    python scripts/latency.py carried --model yolov8n.yaml --imgsz 320 --threads 1 --formats onnx --target "ssh pi@host"
    python scripts/latency.py turns --model yolov8n.yaml --imgsz 320 --threads 2 --formats onnx openvino
    python scripts/latency.py pair parent.pt pruned.pt --imgsz 320 --threads 1 --format onnx

`halve` prunes to half the FLOPs, with the rows that a stock YAML can say and with free widths, and times each beside
its parent. `wanted` prunes with latency=0.6 for each format. `predict` learns what widths cost in time, and tells how
far from it networks are that were left out. `carried` has them timed by another machine, prunes by its table, and has
the result timed there. `turns` times a network and four cuts of it alone and in turns, which should be the same.
`pair` is what `halve` and `wanted` measure with: two files taking turns.
A model YAML is drawn anew, seed 0, and ranked by its filters: times do not hang on what was learnt.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from ultralytics import YOLO

import yoloprune
from yoloprune.backend import yolo_tracing
from yoloprune.cutting import surgery
from yoloprune.reporting.text_table import table
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.selection import time_profile
from yoloprune.settings.budget import Limits


def pair(parent: Path, child: Path, told: argparse.Namespace, form: str) -> dict[str, float]:
    """Two files taking turns, in this process."""
    models = [yoloprune.load(str(file)).model for file in (parent, child)]
    deployment = Deployment.asked({"format": form, **precision(told)}, torch.device("cpu"), told.threads)
    with bench.opened(deployment, models[0], told.imgsz) as timer:
        sides = [told.side] if told.side else None
        before, after = timer.time(models[1], sides=sides, seconds=told.seconds)
    spread = max(before.spread, after.spread)
    return {"parent": before.median, "ms": after.median, "share": after.median / before.median, "spread": spread}


def precision(told: argparse.Namespace) -> dict[str, object]:
    """Arguments of the export."""
    return {"int8": True, "data": told.int8} if told.int8 else {}


def apart(parent: Path, child: Path, told: argparse.Namespace, form: str) -> dict[str, float]:
    """The same in another process."""
    words = [sys.executable, __file__, "pair", str(parent), str(child), "--format", form, "--json"]
    words += [f"--{key}={getattr(told, key)}" for key in ("imgsz", "threads", "seconds")]
    words += [f"--int8={told.int8}"] if told.int8 else []
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(said.strip().splitlines()[-1])
    return found


def parent_file(model: str, folder: Path) -> Path:
    """A checkpoint: the one that was given, or a network of a YAML as it is drawn."""
    if not model.endswith(".yaml"):
        return Path(model)
    torch.manual_seed(0)
    yolo = YOLO(model)
    yolo.ckpt = {}
    yolo.save(folder / "parent.pt")
    return folder / "parent.pt"


def halve(told: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """Half the FLOPs: how much faster each runtime gets."""
    parent, rows = parent_file(told.model, folder), []
    for name, native in (("native", True), ("free", False)):
        yoloprune.prune(parent, flops=0.5, imgsz=told.imgsz, native=native, project=str(folder), name=name)
        for form in told.formats:
            found = apart(parent, folder / name / "weights" / "pruned.pt", told, form)
            rows.append({"widths": name, "format": form, **found, "faster": found["parent"] / found["ms"]})
            print(table(rows[-1:]), flush=True)
    return rows


def wanted(told: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """latency=: what a process of its own says of the network that came of it."""
    parent, rows = parent_file(told.model, folder), []
    for form in told.formats:
        words = {"latency": told.latency, "format": form, "threads": told.threads, "imgsz": told.imgsz}
        yoloprune.prune(parent, **words, project=str(folder), name=form)
        kept = json.loads((folder / form / "report.json").read_text())["kept"]
        found = apart(parent, folder / form / "weights" / "pruned.pt", told, form)
        rows.append({"format": form, "FLOPs": kept["flops"], **found})
        print(table(rows[-1:]), flush=True)
    return rows


def predict(told: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """What a time model says of networks that it was not fitted to."""
    model, rows = yoloprune.load(str(parent_file(told.model, folder))).model, []
    graph = yolo_tracing.trace_yolo(model, imgsz=told.imgsz)
    for form in told.formats:
        start = time.perf_counter()
        deployment = Deployment.asked({"format": form}, torch.device("cpu"), told.threads)
        with bench.opened(deployment, model, told.imgsz) as timer:
            found = time_profile.learnt(model, graph, Limits(), timer)
        row = {"format": form, "error": found.error, "worst": found.worst, "step": found.step}
        rows.append({**row, "seconds": round(time.perf_counter() - start)})
        print(table(rows[-1:]), flush=True)
    return rows


def turns(told: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """Whether networks that take turns disturb one another."""
    model, rows = yoloprune.load(str(parent_file(told.model, folder))).model, []
    graph = yolo_tracing.trace_yolo(model, imgsz=told.imgsz)
    cuts = [surgery.cut(copy.deepcopy(model), graph.plan(m)) for m in time_profile.variants(graph, Limits(), 4, seed=0)]
    for form in told.formats:
        deployment = Deployment.asked({"format": form}, torch.device("cpu"), told.threads)
        with bench.opened(deployment, model, told.imgsz) as timer:
            together = timer.time(*cuts, seconds=told.seconds)
        for i, network in enumerate((model, *cuts)):
            with bench.opened(deployment, network, told.imgsz) as timer:
                (alone,) = timer.time(seconds=told.seconds / 5)
            row = {"format": form, "network": i, "alone": alone.median, "in turns": together[i].median}
            rows.append({**row, "spread": max(alone.spread, together[i].spread)})
        print(table(rows[-5:]), flush=True)
    return rows


def carried(told: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    """latency= by a table that another machine measured, and what that machine says of the network that came of it."""
    parent, rows = parent_file(told.model, folder), []
    for form in told.formats:
        over = {"format": form, "threads": told.threads, "imgsz": told.imgsz, "project": str(folder)}
        over |= {"target": told.target, "python": told.python}
        times = yoloprune.latency(parent, **over, name=f"{form}-times")
        words = {"latency": told.latency, "times": times, "imgsz": told.imgsz}
        yoloprune.prune(parent, **words, project=str(folder), name=form)
        report = json.loads((folder / form / "report.json").read_text())
        known = {key: report["timing"][key] for key in ("error", "worst", "predicted")}
        pruned = folder / form / "weights" / "pruned.pt"
        with yoloprune.latency(pruned, parent, **over, name=f"{form}-pair").open(newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        now, ms = float(row["parent_ms"]), float(row["ms"])
        spread = max(float(row["spread"]), float(row["parent_spread"]))
        found = {"parent": now, "ms": ms, "share": ms / now, "spread": spread}
        rows.append({"format": form, "FLOPs": report["kept"]["flops"], **known, **found})
        print(table(rows[-1:]), flush=True)
    return rows


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["halve", "wanted", "predict", "carried", "turns", "pair"])
    parser.add_argument("files", nargs="*", type=Path, help="of pair: parent and pruned")
    parser.add_argument("--model", default="yolov8n.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of one measurement at most")
    parser.add_argument("--latency", type=float, default=0.6)
    parser.add_argument("--target", default="sh -c", help="of carried: what reaches the machine")
    parser.add_argument("--python", default="python3", help="of carried: Python there")
    parser.add_argument("--format", default="torch", help="of pair")
    parser.add_argument("--formats", nargs="+", default=["torch", "onnx", "openvino", "ncnn"])
    parser.add_argument("--side", type=int, help="of pair: image size of the second file, where it is another one")
    parser.add_argument("--int8", metavar="DATA", help="of halve and pair: eight bits, calibrated on its images")
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args()
    if told.what == "pair":
        found = pair(told.files[0], told.files[1], told, told.format)
        print(json.dumps(found) if told.json else table([found]))
        return
    with tempfile.TemporaryDirectory() as folder:
        kinds = {"halve": halve, "wanted": wanted, "predict": predict, "carried": carried, "turns": turns}
        rows = kinds[told.what](told, Path(folder))
    print(table(rows))


if __name__ == "__main__":
    main()
