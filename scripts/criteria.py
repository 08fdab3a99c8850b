"""Accuracy directly after the cut, every score and every repair; prints one table per split last, trains nothing.

    python scripts/criteria.py --model best.pt --data bccd/data.yaml --imgsz 320 --flops 0.7 --splits val test

Widths are those that `yoloprune prune` would choose. One JSON per cell in --out: finished cells are not run again, so
an interrupted run goes on where it was. The trace is computed once, each score once for all budgets.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune.backend import evaluation
from yoloprune.checkpoint import saving
from yoloprune.commands import cut_and_repair
from yoloprune.native import candidates
from yoloprune.reporting.run_report import write_text
from yoloprune.reporting.text_table import table
from yoloprune.selection import ranking
from yoloprune.selection.calibration import calibration
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.checking import build
from yoloprune.settings.requests import PruneRequest

RANKINGS = [
    "score=l2",
    "score=l2 normalize=cost",
    "score=l2 uniform",
    "score=taylor normalize=none",
    "score=taylor normalize=cost",
    "score=taylor reduce=sum normalize=none",
    "score=taylor reduce=sum normalize=cost",
    "score=taylor uniform",
    "score=activation",
    "score=activation normalize=cost",
    "score=activation normalize=mean",
    "score=l1",
    "score=l1 normalize=mean",
    "score=l1 uniform",
    "score=lamp",
    "score=lamp normalize=cost",
    "score=fpgm",
    "score=fpgm normalize=mean",
    "score=bn",
    "score=bn normalize=cost",
    "score=bn normalize=mean",
    "score=random uniform",
]
REPAIRS = ["none", "fold", "bn", "lsq"]


def request_of(ranking: str, arguments: argparse.Namespace) -> PruneRequest:
    """The request of `yoloprune prune` for a ranking such as "score=l2 uniform"."""
    given = {key: value or True for key, _, value in (word.partition("=") for word in ranking.split())}
    return build(PruneRequest, {"model": arguments.model, "data": arguments.data, **given})


def evaluate(model: ultralytics.YOLO, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures of Ultralytics' validation by split."""
    found = {}
    for split in arguments.splits:
        with tempfile.TemporaryDirectory() as folder:
            probe = saving.with_model(model, copy.deepcopy(model.model))  # validation may fuse the one it runs
            told = {"data": arguments.data, "imgsz": arguments.imgsz, "device": arguments.device, "split": split}
            evaluation.validate(probe, {**told, "project": folder, "name": "val", "workers": 0, "verbose": False})
        found[split] = evaluation.metrics(probe)
    return found


def main() -> None:
    """Fill the missing cells and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--flops", type=float, nargs="+", default=[0.7])
    parser.add_argument("--splits", nargs="+", default=["val"])
    parser.add_argument("--repairs", nargs="+", default=REPAIRS, choices=REPAIRS)
    parser.add_argument("--rankings", nargs="+", default=RANKINGS, help='such as "score=l2 uniform"')
    parser.add_argument("--drawn", action="store_true", help="scores and repairs look at drawn images, as data=False")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="runs/criteria")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    parent = saving.load(arguments.model)
    found = candidates.Channels(parent.model, Limits(), arguments.imgsz)
    looked_at = False if arguments.drawn else arguments.data
    sight = calibration(parent, looked_at, arguments.imgsz, {"device": arguments.device}, drawn=arguments.drawn)
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}

    def cell(flops: str, how: str, repair: str, make: Any) -> None:
        file = out / f"{flops} {how} {repair}.json"
        if not file.is_file() or not set(arguments.splits) <= set(json.loads(file.read_text())):
            write_text(file, json.dumps(evaluate(make(), arguments), indent=1))
        cells[flops, how, repair] = json.loads(file.read_text())

    cell("1", "parent", "none", lambda: parent)
    for how in arguments.rankings:
        asked, order = request_of(how, arguments), None
        for flops in arguments.flops:
            for repair in arguments.repairs:

                def make(flops: float = flops, repair: str = repair, asked: PruneRequest = asked) -> ultralytics.YOLO:
                    nonlocal order
                    order = order or ranking.rank(parent, found.graph, asked.criterion, asked.limits, sight)
                    choice = found.choose(lambda graph: order.select(graph, Budget(flops=flops)))
                    return cut_and_repair.cut(parent, choice.plan, repair, sight.images)[0]

                cell(str(flops), how, repair, make)
    for split in arguments.splits:
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for (flops, how, repair), figures in cells.items():
            row = rows.setdefault((flops, how), {"ranking": how, "FLOPs": flops})
            row[repair] = f"{next(v for k, v in figures[split].items() if k.startswith('mAP50-95')):.3f}"
        print(f"\nmAP50-95 on {split}\n{table(list(rows.values()))}")


if __name__ == "__main__":
    main()
