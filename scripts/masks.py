"""Accuracy directly after a mask, by pattern, score and repair; prints one table per split last, trains nothing.

    python scripts/masks.py --model best.pt --data bccd/data.yaml --imgsz 320 --splits val test

One JSON per cell in --out: finished cells are not run again, so an interrupted run goes on where it was. Images are
loaded once, each score is computed once for all patterns.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune.checkpoint import saving
from yoloprune.commands import mask, side_by_side
from yoloprune.reporting.run_report import write_text
from yoloprune.reporting.text_table import table
from yoloprune.selection import mask_choice, mask_scores
from yoloprune.selection.calibration import calibration
from yoloprune.settings.checking import build
from yoloprune.settings.mask_request import MaskRequest

PATTERNS = ["sparsity=0.5", "sparsity=0.7", "sparsity=0.9", "pattern=2:4"]
RANKINGS = [
    "score=magnitude scope=layer",
    "score=magnitude scope=global",
    "score=wanda scope=output",
    "score=wanda scope=layer",
    "score=taylor scope=global",
    "score=random scope=layer",
]
REPAIRS = ["none", "bn", "lsq"]


def evaluate(model: ultralytics.YOLO, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures of Ultralytics' validation by split."""
    told = {"data": arguments.data, "imgsz": arguments.imgsz, "device": arguments.device, "workers": 0, "plots": False}
    return {split: side_by_side.validated(model, {**told, "split": split})[0] for split in arguments.splits}


def main() -> None:
    """Fill the missing cells and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--splits", nargs="+", default=["val"])
    parser.add_argument("--patterns", nargs="+", default=PATTERNS, help='such as "pattern=kernel sparsity=0.5"')
    parser.add_argument("--rankings", nargs="+", default=RANKINGS, help='such as "score=wanda scope=output"')
    parser.add_argument("--repairs", nargs="+", default=REPAIRS, choices=REPAIRS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="runs/masks")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    parent = saving.load(arguments.model)
    sight = calibration(parent, arguments.data, arguments.imgsz, {"device": arguments.device}, command="masks")
    scores: dict[str, Any] = {}
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}

    def cell(pattern: str, ranking: str, repair: str, make: Any) -> None:
        file = out / f"{pattern} {ranking} {repair}.json"
        if not file.is_file() or not set(arguments.splits) <= set(json.loads(file.read_text())):
            write_text(file, json.dumps(evaluate(make(), arguments), indent=1))
        rows.setdefault((pattern, ranking), {})[repair] = json.loads(file.read_text())

    cell("dense", "", "none", lambda: parent)
    for repair in arguments.repairs:
        for pattern in arguments.patterns:
            for ranking in arguments.rankings:
                words = [*pattern.split(), *ranking.split()]
                if "pattern=2:4" in words and any(w.startswith("scope=") for w in words):
                    if ranking not in {next(r for r in arguments.rankings if r.split()[0] == ranking.split()[0])}:
                        continue  # neighbours are compared, whatever the scope
                    words = [w for w in words if not w.startswith("scope=")]
                given = dict(word.split("=", 1) for word in words)
                asked = build(MaskRequest, {"model": arguments.model, "data": arguments.data, **given})

                def make(asked: MaskRequest = asked, repair: str = repair) -> ultralytics.YOLO:
                    names, _ = mask_choice.layers(parent.model, asked.zeros)
                    key = f"{asked.score} {len(names)}"
                    if key not in scores:
                        scores[key] = mask_scores.scored(parent, names, asked.score, sight)
                    kept = mask_choice.choose(scores[key], asked.zeros.pattern, asked.zeros.sparsity, asked.zeros.scope)
                    return mask.masked(parent, kept, repair, sight)

                cell(pattern, ranking, repair, make)
    for split in arguments.splits:
        shown = []
        for (pattern, ranking), found in rows.items():
            figures = {
                repair: f"{next(v for k, v in told[split].items() if k.startswith('mAP50-95')):.3f}"
                for repair, told in found.items()
            }
            shown.append({"pattern": pattern, "ranking": ranking, **figures})
        print(f"\nmAP50-95 on {split}\n{table(shown)}")


if __name__ == "__main__":
    main()
