"""Side-by-side experiments on your own data: several arms, several seeds, one table last.

    python scripts/experiment.py budgets --model yolov8n-coco.pt --data bccd/data.yaml --seeds 0 1 2 --jobs 2

An arm is a chain of stages, e.g. train 15 epochs, prune, fine-tune 15 epochs. All arms start from the same weights and,
where they train, use the same optimizer settings; chains with a common beginning share it. Finished stages are not run
again, so an interrupted run goes on where it was. `--bf16` trains under bfloat16 autocast, which processors with AMX do
twice as fast; validation is always float32.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple


class Stage(NamedTuple):
    """One step of a chain: what is done (a function of `VERBS`) with which arguments."""

    verb: str
    arguments: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the stage's folder."""
        return "-".join([self.verb, *(f"{k}={v}" for k, v in self.arguments.items())])


def train(epochs: int, **own: Any) -> Stage:
    return Stage("train", {"epochs": epochs, **own})


def sparse(epochs: int, **own: Any) -> Stage:
    return Stage("sparse", {"epochs": epochs, **own})


def prune(**own: Any) -> Stage:
    return Stage("prune", own)


def finetune(epochs: int, **own: Any) -> Stage:
    return Stage("finetune", {"epochs": epochs, **own})


E = 30  # epochs of every arm in all, where totals are compared
TABLES: dict[str, dict[str, list[Stage]]] = {
    "budgets": {
        "dense": [train(E)],
        **{f"train-sparse {f}, prune": [sparse(E, flops=f), prune()] for f in (0.5, 0.7, 0.35)},
    },
    "ways": {
        "train": [train(E)],
        "train-sparse, prune": [sparse(E, flops=0.5), prune()],
        "train, prune, finetune": [train(E // 2), prune(flops=0.5, data=True), finetune(E // 2)],
        "train-sparse, prune, finetune": [sparse(E // 2, flops=0.5), prune(data=True), finetune(E // 2)],
        "three rounds of prune and finetune": [
            train(9),
            *(stage for _ in range(3) for stage in (prune(flops=0.794, data=True), finetune(7))),  # 0.794³ = 0.5
        ],
    },
    "native": {
        "train": [train(E)],
        **{
            f"{kind}, finetune": [train(E), prune(flops=0.5, data=True, **own), finetune(E // 2)]
            for kind, own in (("free", {"native": False}), ("native", {"native": True}))
        },
    },
    "penalties": {
        **{
            f"{penalty}, {optimizer}": [sparse(E, flops=0.5, penalty=penalty, optimizer=optimizer, lr0=lr), prune()]
            for penalty, optimizer, lr in (
                ("select", "AdamW", 1e-3),
                ("prox", "AdamW", 1e-3),
                ("group", "AdamW", 1e-3),
                ("l1", "AdamW", 1e-3),
                ("l1", "SGD", 1e-2),
            )
        },
        **{f"select, score={s}": [sparse(E, flops=0.5, score=s), prune()] for s in ("gamma", "gamma-mean")},
        "select, normalize=none": [sparse(E, flops=0.5, normalize="none"), prune()],
    },
}


# ---- stages ----------------------------------------------------------------------------------------------------------


def run_stage(stage: Stage, source: Path, folder: Path, common: dict[str, Any], calibrate: dict[str, Any]) -> Path:
    """Run one stage; returns its checkpoint."""
    from ultralytics import YOLO

    import yoloprune

    place = {"project": str(folder.parent), "name": folder.name, "exist_ok": True}
    if stage.verb == "prune":
        own = dict(stage.arguments)
        given = {"data": common["data"]} if own.pop("data", False) else {}
        yoloprune.prune(source, **{**calibrate, **own, **given, **place})
        return folder / "weights" / "pruned.pt"
    if stage.verb == "train":
        YOLO(source).train(**{**common, **stage.arguments, **place})
    elif stage.verb == "sparse":
        yoloprune.train_sparse(source, **{**common, **stage.arguments, **place})
    elif stage.verb == "finetune":
        yoloprune.finetune(source, **{**common, **stage.arguments, **place})
    return folder / "weights" / "best.pt"


def measure(file: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """MAP on the validation and test split, size and work of a checkpoint."""
    from ultralytics import YOLO

    from yoloprune import host, report

    row: dict[str, float] = {}
    for split in ("val", "test"):
        yolo = YOLO(file)
        host.validate(
            yolo,
            {
                "data": arguments.data,
                "imgsz": arguments.imgsz,
                "split": split,
                "device": "cpu",
                "workers": 0,
                "project": str(file.parent.parent),
                "name": split,
                "exist_ok": True,
            },
        )
        metrics = host.metrics(yolo)
        row |= {f"{k} {split}": v for k, v in metrics.items() if k.startswith("mAP50")}
    return {**row, **report.measure(YOLO(file).model, arguments.imgsz, file)}


def run_chain(arm: str, seed: int, arguments: argparse.Namespace) -> None:
    """Run the stages of one arm that are not there yet and measure the last checkpoint."""
    if arguments.bf16:
        import torch
        from ultralytics.engine import trainer

        trainer.autocast = lambda *_, **__: torch.autocast("cpu", torch.bfloat16)
    common: dict[str, Any] = {
        "data": arguments.data,
        "imgsz": arguments.imgsz,
        "batch": arguments.batch,
        "nbs": arguments.batch,
        "optimizer": "AdamW",
        "lr0": 1e-3,
        "seed": seed,
        "plots": False,
        "workers": 0,
        "cache": "ram",
        "verbose": False,
        "device": "cpu",
    }
    source, folder = Path(arguments.model).resolve(), chain_folder(arm, seed, arguments, 0).parent
    for i, stage in enumerate(TABLES[arguments.table][arm]):
        folder = chain_folder(arm, seed, arguments, i)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another arm may be at the same stage
            done = folder / "done.json"
            if not done.is_file():
                start = time.time()
                file = run_stage(stage, source, folder, common, {"imgsz": arguments.imgsz})
                row = {"file": str(file.relative_to(folder)), "minutes": (time.time() - start) / 60}
                done.write_text(json.dumps({**row, **measure(file, arguments)}))
        source = folder / json.loads(done.read_text())["file"]


def chain_folder(arm: str, seed: int, arguments: argparse.Namespace, i: int) -> Path:
    """Folder of the i-th stage: chains with a common beginning share it."""
    names = [stage.name for stage in TABLES[arguments.table][arm][: i + 1]]
    return Path(arguments.out).resolve() / Path(arguments.model).stem / f"seed{seed}" / "+".join(names)


# ---- table -----------------------------------------------------------------------------------------------------------


def summary(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Mean and standard deviation over the finished seeds, arm by arm."""
    rows = []
    for arm, stages in TABLES[arguments.table].items():
        files = [chain_folder(arm, s, arguments, len(stages) - 1) / "done.json" for s in arguments.seeds]
        found = [json.loads(f.read_text()) for f in files if f.is_file()]
        if not found:
            continue
        row: dict[str, Any] = {"arm": arm, "seeds": len(found)}
        for key in found[0]:
            values = [r[key] for r in found]
            if key.startswith("mAP"):
                row[key] = f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
            elif key not in {"file", "minutes"}:
                row[key] = mean(values)
        rows.append(row)
    return rows


def main() -> None:
    """Run all arms and seeds, `--jobs` at a time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--jobs", type=int, default=1, help="arms that run at the same time")
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    parser.add_argument("--out", default="runs/experiment")
    parser.add_argument("--show", action="store_true", help="only print what is finished")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arms = arguments.arms or list(TABLES[arguments.table])
    if arguments.one:
        run_chain(arms[0], arguments.seeds[0], arguments)
        return
    from yoloprune.report import table

    def start(job: tuple[int, str]) -> None:
        seed, arm = job
        given = list(sys.argv[1:])
        log = Path(arguments.out).resolve() / "logs" / f"{arguments.table}-{arm}-{seed}.log".replace(" ", "_")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as out:
            subprocess.run(
                [sys.executable, __file__, *given, "--one", "--seeds", str(seed), "--arms", arm],
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        print(table(summary(arguments)), flush=True)

    if not arguments.show:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(start, [(s, a) for s in arguments.seeds for a in arms]))
    print(table(summary(arguments)))


if __name__ == "__main__":
    main()
