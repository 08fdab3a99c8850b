"""Whole branches against widths at the same share of the FLOPs: accuracy directly after cut and repair, and time.

    python scripts/branches.py --model yolov8n-coco.pt --data coco128/data.yaml --score output --flops 0.9 0.839 0.7
    python scripts/branches.py --model yolov8n-coco.pt --data coco128/data.yaml --score output --flops 0.82 \
        --repair none --formats torch onnx --seconds 25 --native

All networks of a format take turns with the parent, on one thread. Widths are free ones unless `--native` is given.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import ultralytics

from yoloprune.backend import evaluation
from yoloprune.checkpoint import saving
from yoloprune.commands import cut_and_repair
from yoloprune.errors import BudgetError
from yoloprune.native import candidates
from yoloprune.native.described import as_described
from yoloprune.reporting.text_table import table
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.selection import ranking
from yoloprune.selection.calibration import calibration
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.requests import Criterion

DEPTHS: dict[str, Any] = {"False": False, "True": True, "only": "only"}


def accuracy(model: ultralytics.YOLO, told: argparse.Namespace) -> float:
    """mAP50-95 on the validation images."""
    with tempfile.TemporaryDirectory() as folder:
        probe = saving.with_model(model, copy.deepcopy(model.model))  # validation may fuse the one it runs
        words = {"data": told.data, "imgsz": told.imgsz, "device": "cpu", "project": folder, "name": "val"}
        evaluation.validate(probe, {**words, "workers": 0, "verbose": False})
    return next(value for key, value in evaluation.metrics(probe).items() if key.startswith("mAP50-95"))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--score", default="auto")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--flops", type=float, nargs="+", default=[0.9, 0.8])
    parser.add_argument("--depth", nargs="+", default=list(DEPTHS), choices=list(DEPTHS))
    parser.add_argument("--repair", default="lsq", choices=["none", "fold", "bn", "lsq"], help="none: no accuracy")
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--formats", nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=25.0, help="of one format")
    told = parser.parse_args()
    parent = saving.load(told.model)
    sight = calibration(parent, told.data, told.imgsz, {"device": "cpu"})
    limits = Limits(native=bool(told.native), depth=True)
    found = candidates.Channels(parent.model, limits, told.imgsz)
    order = ranking.rank(parent, found.graph, Criterion(told.score), limits, sight)
    rows: list[dict[str, Any]] = [{"depth": "parent", "FLOPs": 1.0}]
    children = []
    if told.repair != "none":
        rows[0]["mAP50-95"] = accuracy(parent, told)
    for flops in told.flops:
        for depth in told.depth:
            asked = replace(order, limits=replace(limits, depth=DEPTHS[depth]))
            try:
                choice = found.choose(partial(asked.select, wanted=Budget(flops=flops)))
            except BudgetError as e:
                print(e)
                continue
            child = cut_and_repair.cut(parent, choice.plan, told.repair, sight.images, choice.probe).child
            row = {"depth": depth, "FLOPs": choice.kept()["flops"], "gone": len(choice.plan.removed)}
            rows.append(row if told.repair == "none" else {**row, "mAP50-95": accuracy(child, told)})
            children.append(child.model if choice.described is None else as_described(child.model, choice.described))
            print(table(rows[-1:]), flush=True)
    for form in told.formats:
        deployment = Deployment.asked({"format": form}, torch.device("cpu"), 1)
        with bench.opened(deployment, parent.model, told.imgsz) as timer:
            now, *times = timer.time(*children, seconds=told.seconds)
        for row, took in zip(rows, [now, *times], strict=True):
            row[form] = took.median / now.median
    print(table(rows))


if __name__ == "__main__":
    main()
