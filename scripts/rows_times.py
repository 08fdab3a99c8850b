"""What it costs in time to write blocks as several rows: one network, its blocks one row each and unrolled, in turns.

    python scripts/rows_times.py --model yolov8n.yaml --imgsz 320 --threads 1 --formats torch onnx openvino ncnn

The network is drawn anew, seed 0, and cut to half its FLOPs by its filters at widths that one row can say; then every
block that can be several rows is written so.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import nn
from ultralytics import YOLO

from yoloprune.cutting import surgery
from yoloprune.importance import criteria
from yoloprune.native import candidates
from yoloprune.native.described import as_described
from yoloprune.planning import greedy_selection
from yoloprune.reporting.text_table import table
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.settings.budget import Budget, Limits


def both(parent: nn.Module, imgsz: int) -> tuple[nn.Module, nn.Module]:
    """A cut network in as few rows as can say it, and in as many as its blocks can be."""
    tied = candidates.Channels(parent, Limits(native="tied"), imgsz)
    scores = criteria.importance(parent, tied.graph, "l2").channels
    choice = tied.choose(lambda graph: greedy_selection.select(graph, scores, Budget(flops=0.5), Limits(uniform=True)))
    child = surgery.cut(copy.deepcopy(parent), choice.plan)
    stock = candidates.Channels(parent, Limits(), imgsz).stock
    assert choice.described is not None and stock is not None
    said, blocks = stock.spelled.said, stock.blocks
    setattr(stock.spelled, "said", lambda layer, *how: None if layer.row.at in blocks else said(layer, *how))  # noqa: B010
    described = stock.describe(choice.alive)
    print(f"{len(choice.described.origins)} rows, and {len(described.origins)}")
    return as_described(child, choice.described), as_described(child, described)


def main() -> None:
    """Time both on every runtime and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov8n.yaml")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--formats", nargs="+", default=["torch", "onnx", "openvino", "ncnn"])
    told = parser.parse_args()
    torch.manual_seed(0)
    parent = YOLO(told.model).model.eval()
    networks, rows = both(parent, told.imgsz), []
    for form in told.formats:
        asked = {} if form == "torch" else {"format": form}
        with bench.opened(Deployment.asked(asked, torch.device("cpu"), told.threads), parent, told.imgsz) as timer:
            before, rolled, unrolled = timer.time(*networks, seconds=told.seconds)
        spread = max(t.spread for t in (before, rolled, unrolled))
        figures = {"parent": before.median, "one row": rolled.median, "unrolled": unrolled.median}
        ratio = f"{unrolled.median / rolled.median:.3f}"
        rows.append({"runtime": form, **figures, "unrolled / one row": ratio, "spread": f"{spread:.1%}"})
    print(table(rows))


if __name__ == "__main__":
    main()
