"""What a cut saves on a GPU: half precision, compiled, CUDA graphs, TensorRT; and what sparse training costs there.

    python scripts/gpu.py figures                                           # at most twelve minutes on one GPU
    python scripts/gpu.py try --device cpu --models yolov8n.yaml --imgsz 64 --batches 1 --minutes 3 --ways torch

Networks are drawn anew, seed 0: times do not hang on what was learnt. Each is cut to half the FLOPs and to half the
time in half precision, and both are timed beside it, taking turns. Rows are written one by one, the quick ways first,
and what the minutes do not reach is left out; a further call goes on with that.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ultralytics import YOLO

import yoloprune
from yoloprune.backend import evaluation
from yoloprune.errors import PruneError
from yoloprune.reporting.text_table import table
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment

MODELS = ("yolov8n.yaml", "yolov8m.yaml", "yolo11m.yaml")
WAYS: dict[str, dict[str, Any]] = {
    "torch": {},
    "torch, half": {"half": True},
    "compiled, half": {"half": True, "compile": "default"},
    "CUDA graphs, half": {"half": True, "compile": "reduce-overhead"},
    "TensorRT, half": {"format": "engine", "half": True},
}
"""Arguments of `yoloprune val` by way, in the order of what they cost to set up."""

COLUMNS = ("model", "way", "batch", "cut", "GFLOPs", "parent, ms", "pruned, ms", "share", "spread", "note")


def main() -> None:
    """Cut, time, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the table and the networks")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--device", default="0")
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement, at most")
    parser.add_argument("--minutes", type=float, default=12.0, help="of all; what they do not reach is left out")
    told = parser.parse_args()
    told.out = told.out.resolve()  # a relative project= lies below the folder of runs
    until = time.monotonic() + 60 * told.minutes
    told.out.mkdir(parents=True, exist_ok=True)
    file = told.out / "times.csv"
    done = read(file)
    work = [(way, batch, model) for way in told.ways for batch in told.batches for model in told.models]
    for way, batch, model in work:
        if time.monotonic() > until:
            print(f"left out for want of time: {way}, batch {batch}, {model}")
        elif not any((row["model"], row["way"], row["batch"]) == (model, way, str(batch)) for row in done):
            for row in timed(told, model, way, batch):
                append(file, row)
    print(where(told.device))
    print(table(read(file)))
    for model in told.models:
        if time.monotonic() < until:
            print(step(told, model))


def timed(told: argparse.Namespace, model: str, way: str, batch: int) -> Iterator[dict[str, Any]]:
    """Rows of one way and batch: each cut of a model beside its parent."""
    row: dict[str, Any] = {"model": model, "way": way, "batch": batch}
    if "TensorRT" in way and importlib.util.find_spec("tensorrt") is None:
        yield {**row, "note": "tensorrt is not installed"}
        return
    try:
        files = cuts(told, model)
        networks = [yoloprune.load(str(file)).model for file in files.values()]
        deployment = Deployment.asked(WAYS[way], evaluation.device(told.device), None, batch)
        with bench.opened(deployment, networks[0], told.imgsz) as timer:
            parent, *others = timer.time(*networks[1:], seconds=told.seconds * len(networks))
    except (PruneError, RuntimeError) as e:  # a way that this GPU or torch does not go; the others count
        yield {**row, "note": str(e).splitlines()[0][:120]}
        return
    for (name, _), network, found in zip(list(files.items())[1:], networks[1:], others, strict=True):
        yield {
            **row,
            "cut": name,
            "GFLOPs": round(evaluation.gflops(network, told.imgsz), 2),
            "parent, ms": f"{parent.median:.3f}",
            "pruned, ms": f"{found.median:.3f}",
            "share": f"{found.median / parent.median:.3f}",
            "spread": f"{max(parent.spread, found.spread):.1%}",
        }


def cuts(told: argparse.Namespace, model: str) -> dict[str, Path]:
    """A network as it is drawn, cut to half the FLOPs, and to half the time in half precision; made once."""
    folder = told.out / Path(model).stem
    files = {"none": folder / "parent.pt"}
    if not files["none"].exists():
        torch.manual_seed(0)
        yolo = YOLO(model)
        yolo.ckpt = {}
        folder.mkdir(parents=True, exist_ok=True)
        yolo.save(files["none"])
    wanted: dict[str, dict[str, Any]] = {"flops=0.5": {"flops": 0.5}, "latency=0.5": {"latency": 0.5}}
    if told.device != "cpu":
        wanted["latency=0.5"]["half"] = True
    for name, asked in wanted.items():
        files[name] = folder / name / "weights" / "pruned.pt"
        if files[name].exists():
            continue
        words: dict[str, Any] = {
            "imgsz": told.imgsz,
            "device": told.device,
            "project": str(folder),
            "name": name,
            "exist_ok": True,
        }
        try:
            yoloprune.prune(files["none"], data=False, exist_ok=True, **asked, **words)
        except PruneError as e:
            print(f"{model}, {name}: {e}")
            del files[name]
    return files


def step(told: argparse.Namespace, model: str) -> str:
    """What sparse training costs per step of a training in mixed precision."""
    script = Path(__file__).with_name("step_time.py")
    words = ["--model", model, "--imgsz", str(told.imgsz), "--device", told.device, "--amp"]
    return subprocess.run([sys.executable, str(script), *words], check=True, capture_output=True, text=True).stdout


def where(device: str) -> str:
    """What it was measured on."""
    place = evaluation.device(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor() or platform.machine()
    return f"{name}, torch {torch.__version__}"


def read(file: Path) -> list[dict[str, str]]:
    """Rows that were written."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def append(file: Path, row: dict[str, Any]) -> None:
    """Write one row."""
    fresh = not file.exists()
    with file.open("a", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, COLUMNS, restval="")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
