"""Widths priced by FLOPs, widths priced by what a runtime takes, and smaller images: mAP50-95 at equal time.

    python scripts/equal_time.py --model yolov8n-coco.pt --data half.yaml --formats onnx openvino --shares 0.9 0.8 0.7

Every network is cut and repaired on the data's training images, nothing is trained, and each is timed alone beside the
parent, on one thread. `at equal time` is how far a network is above the line through those that are priced by FLOPs.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import ultralytics
from branches import accuracy

from yoloprune.backend import evaluation
from yoloprune.checkpoint import saving
from yoloprune.commands import cut_and_repair
from yoloprune.errors import BudgetError
from yoloprune.native import candidates
from yoloprune.native.described import as_described
from yoloprune.planning.time_model import TimedBudget, TimeModel
from yoloprune.reporting.text_table import table
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.selection import ranking, time_profile
from yoloprune.selection.calibration import Calibration, calibration
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.requests import Criterion

SIDES = (288, 256, 224)


class Parent(NamedTuple):
    """What is cut, and in which order."""

    model: ultralytics.YOLO
    found: candidates.Channels
    order: ranking.Ranking
    sight: Calibration
    told: argparse.Namespace

    def row(self, name: str, budget: Budget, times: TimeModel | None, timer: bench.Bench) -> dict[str, Any] | None:
        """Cut to a budget, repair, validate and time; None where the budget is out of reach."""
        try:
            choice = self.found.choose(partial(self.order.select, wanted=budget, times=times))
        except BudgetError as e:
            print(e)
            return None
        done = cut_and_repair.cut(self.model, choice.plan, "lsq", self.sight.repairing, choice.probe)
        saved = done.child.model if choice.described is None else as_described(done.child.model, choice.described)
        now, ms = timer.time(saved, seconds=self.told.seconds)
        row = {"network": name, "FLOPs": choice.kept()["flops"], "mAP50-95": accuracy(done.child, self.told)}
        row |= {"time": ms.median / now.median, "spread": max(now.spread, ms.spread)}
        print(table([row]), flush=True)
        return row

    def smaller(self, side: int, timer: bench.Bench) -> dict[str, Any]:
        """The same of the parent at another image size."""
        other = argparse.Namespace(**{**vars(self.told), "imgsz": side})
        now, ms = timer.time(self.model.model, sides=[side], seconds=self.told.seconds)
        flops = evaluation.measure(self.model.model, side)["GFLOPs"]
        whole = evaluation.measure(self.model.model, self.told.imgsz)["GFLOPs"]
        row = {"network": f"nothing cut, at {side}", "FLOPs": flops / whole}
        row |= {"mAP50-95": accuracy(self.model, other), "time": ms.median / now.median}
        row |= {"spread": max(now.spread, ms.spread)}
        print(table([row]), flush=True)
        return row


def rows_of(parent: Parent, form: str) -> list[dict[str, Any]]:
    """All networks of a runtime."""
    told = parent.told
    deployment = Deployment.asked({"format": form}, torch.device("cpu"), 1)
    with bench.opened(deployment, parent.model.model, told.imgsz) as timer:
        times = time_profile.learnt(parent.model.model, parent.found.graph, Limits(depth=told.depth), timer)
        plain = [parent.row("by FLOPs", Budget(flops=share), None, timer) for share in told.shares]
        timed = [
            parent.row("by time", TimedBudget(latency=min(share + told.shift, 0.99)), times, timer)
            for share in told.shares
        ]
        smaller = [parent.smaller(side, timer) for side in SIDES] if form == told.formats[0] else []
    rows = [row for row in (*plain, *timed, *smaller) if row is not None]
    line = sorted((row["time"], row["mAP50-95"]) for row in rows if row["network"] == "by FLOPs")
    x, y = np.array(line).T
    for row in rows:
        inside = x[0] <= row["time"] <= x[-1] and row["network"] != "by FLOPs"
        row["at equal time"] = row["mAP50-95"] - np.interp(row["time"], x, y) if inside else None
    return [{"runtime": form, **row} for row in rows]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--score", default="auto")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.6, 0.5])
    parser.add_argument("--shift", type=float, default=0.03, help="more time than FLOPs, for networks of like size")
    parser.add_argument("--depth", action="store_true", help="branches may go as well")
    parser.add_argument("--formats", nargs="+", default=["onnx"])
    parser.add_argument("--seconds", type=float, default=8.0, help="of one network")
    told = parser.parse_args()
    model = saving.load(told.model)
    sight = calibration(model, told.data, told.imgsz, {"device": "cpu"})
    limits = Limits(depth=told.depth)
    found = candidates.Channels(model.model, limits, told.imgsz)
    order = ranking.rank(model, found.graph, Criterion(told.score), limits, sight)
    parent = Parent(model, found, order, sight, told)
    print("parent", accuracy(model, told), flush=True)
    rows = [row for form in told.formats for row in rows_of(parent, form)]
    print(table(rows))


if __name__ == "__main__":
    main()
