"""The whole line against dense training on your own data, any number of seeds; prints one table last.

    python scripts/line.py --model yolov8n-coco.pt --data bccd/data.yaml --epochs 30 --seeds 0 1 2

Every arm starts from the same weights. "dense" trains for --epochs; "sparse" trains sparse for as many and is cut
without further training; "finetuned" adds --finetune epochs; "dense-long" trains for the sum.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ultralytics import YOLO

import yoloprune
from yoloprune import api
from yoloprune.report import table


def run(arguments: argparse.Namespace, seed: int) -> dict[str, Path]:
    """Train all arms of one seed; finished ones are not run again."""
    out = Path(arguments.out).resolve() / f"seed{seed}"
    common: dict[str, Any] = {
        "data": arguments.data,
        "imgsz": arguments.imgsz,
        "batch": arguments.batch,
        "nbs": arguments.batch,
        "optimizer": "AdamW",
        "lr0": 1e-3,
        "seed": seed,
        "project": str(out),
        "exist_ok": True,
        "plots": False,
        "device": arguments.device,
    }
    files = {
        name: out / name / "weights" / file
        for name, file in (
            ("dense", "best.pt"),
            ("sparse", "best.pt"),
            ("pruned", "pruned.pt"),
            ("finetuned", "best.pt"),
            ("dense-long", "best.pt"),
        )
    }
    if not files["dense"].exists():
        YOLO(arguments.model).train(**common, epochs=arguments.epochs, name="dense")
    if not files["sparse"].exists():
        yoloprune.train_sparse(
            arguments.model, **common, epochs=arguments.epochs, flops=arguments.flops, name="sparse", **arguments.own
        )
    if not files["pruned"].exists():
        yoloprune.prune(files["sparse"], imgsz=arguments.imgsz, project=str(out), name="pruned", exist_ok=True)
    if arguments.finetune and not files["finetuned"].exists():
        yoloprune.finetune(files["pruned"], **common, epochs=arguments.finetune, name="finetuned")
    if arguments.finetune and not files["dense-long"].exists():
        YOLO(arguments.model).train(**common, epochs=arguments.epochs + arguments.finetune, name="dense-long")
    return {name: file for name, file in files.items() if file.exists()}


def spread(rows: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, model by model."""
    summary = []
    for same in zip(*rows, strict=True):
        row: dict[str, Any] = {"model": same[0]["model"]}
        for key in same[0]:
            values = [r[key] for r in same]
            if key != "model":
                deviation = f" ± {stdev(values):.4f}" if len(values) > 1 and key.startswith("mAP") else ""
                row[key] = f"{mean(values):.4f}{deviation}" if key.startswith("mAP") else mean(values)
        summary.append(row)
    return summary


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--finetune", type=int, default=0, help="epochs of fine-tuning, 0 for none")
    parser.add_argument("--flops", type=float, default=0.5)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", default="runs/line")
    parser.add_argument("own", nargs="*", help="further key=value of train-sparse")
    arguments = parser.parse_args()
    arguments.own = dict(pair.split("=", 1) for pair in arguments.own)
    rows = []
    for seed in arguments.seeds:
        models = run(arguments, seed)
        place = str(Path(arguments.out).resolve() / f"seed{seed}")
        rows.append(
            api.compare(
                models, data=arguments.data, imgsz=arguments.imgsz, device=arguments.device, project=place, name="table"
            )
        )
    print(table(spread(rows)))


if __name__ == "__main__":
    main()
