"""Side-by-side experiments on your own data: several arms, several seeds, one table last.

    python scripts/experiment.py budgets --model yolov8n-coco.pt --data bccd/data.yaml --seeds 0 1 2 --jobs 2

An arm is a chain of stages, e.g. train 15 epochs, prune, fine-tune 15 epochs. All arms start from the same weights and,
where they train, use the same optimizer settings; chains with a common beginning share it. Finished stages are not run
again, so an interrupted run goes on where it was. `--bf16` trains under bfloat16 autocast, which processors with AMX do
twice as fast and those without bfloat16 eight times slower; validation is always float32.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from arms import TABLES, Stage

# ---- stages ----------------------------------------------------------------------------------------------------------


def run_stage(stage: Stage, source: Path, folder: Path, common: dict[str, Any], calibrate: dict[str, Any]) -> Path:
    """Run one stage; returns its checkpoint."""
    from ultralytics import YOLO

    import yoloprune
    from yoloprune.settings.commands import COMMANDS

    common = dict(common)
    place = {"project": str(folder.parent), "name": folder.name, "exist_ok": True}
    own, target = dict(stage.arguments), folder / "weights" / "pruned.pt"
    if own.pop("images", False):  # the training images without their labels
        own["images"] = training_images(common.pop("data"))
    if stage.verb == "prune":
        own["data"] = common["data"] if own.pop("data", False) else None if "images" in own else False
        yoloprune.prune(source, **{**calibrate, **own, **place})
        return target
    if stage.verb == "peer":
        import peers

        peers.prune(source, target, imgsz=common["imgsz"], **own)
        return target
    if stage.verb in {"finetune", "peertune"}:  # at the defaults of `yoloprune finetune`
        common = {k: v for k, v in common.items() if k not in {"optimizer", "lr0"}}
    settings = {**common, **own, **place}
    source = settings.pop("model", source)
    if stage.verb == "sparse":
        yoloprune.train_sparse(source, **settings)
    elif stage.verb == "finetune":
        yoloprune.finetune(source, **settings)
    elif stage.verb == "peertune":
        import peers

        YOLO(source).train(trainer=peers.Trainer, **{**COMMANDS["finetune"].own_defaults, **settings})
    elif stage.verb == "fresh":
        YOLO(forgotten(source, folder / "weights" / "fresh.pt")).train(**settings)
    else:
        YOLO(source).train(**settings)
    return folder / "weights" / "best.pt"


def training_images(data: str) -> str:
    """The folder, or the list, of a data set's training images."""
    from ultralytics.data.utils import check_det_dataset

    return str(check_det_dataset(data)["train"])


def forgotten(source: Path, target: Path) -> Path:
    """Save the network of a checkpoint with new random weights."""
    from ultralytics import YOLO

    yolo = YOLO(source)
    for name, module in yolo.model.named_modules():
        if hasattr(module, "reset_parameters") and ".dfl" not in name:  # a fixed sum
            module.reset_parameters()
        if hasattr(module, "running_mean"):
            module.reset_running_stats()
    yolo.model.model[-1].bias_init()
    target.parent.mkdir(parents=True, exist_ok=True)
    yolo.save(target)
    return target


def measure(file: Path, arguments: argparse.Namespace, imgsz: int) -> dict[str, float]:
    """MAP on the validation and test split, size and work of a checkpoint, all at the image size of its stage."""
    from ultralytics import YOLO

    from yoloprune.backend import evaluation

    row: dict[str, float] = {}
    for split in arguments.splits:
        yolo = YOLO(file)
        evaluation.validate(
            yolo,
            {
                "data": arguments.data,
                "imgsz": imgsz,
                "split": split,
                "device": "cpu",
                "workers": 0,
                "project": str(file.parent.parent),
                "name": split,
                "exist_ok": True,
            },
        )
        metrics = evaluation.metrics(yolo)
        row |= {f"{k} {split}": v for k, v in metrics.items() if k.startswith("mAP50")}
    return {**row, **evaluation.measure(YOLO(file).model, imgsz)}


def each(event: str, callback: Callable[[Any], Any]) -> None:
    """Let every training of this process call back with its trainer."""
    from ultralytics.utils.callbacks.base import default_callbacks

    default_callbacks[event].append(callback)


def validate_late(trainer: Any) -> None:
    """Validate in the last third of a training only, where the learning rate is low; it saves a sixth of the time."""
    trainer.args.val = trainer.epoch + 1 >= trainer.epochs * 2 // 3


def run_chain(arm: str, seed: int, arguments: argparse.Namespace) -> None:
    """Run the stages of one arm that are not there yet and measure the last checkpoint."""
    import torch

    if arguments.bf16:
        from ultralytics.engine import trainer

        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise SystemExit("--bf16: this processor has no bfloat16 instructions and would be eight times slower")
        trainer.autocast = lambda *_, **__: torch.autocast("cpu", torch.bfloat16)
    each("on_train_start", lambda run: run.model.to(memory_format=torch.channels_last))  # a tenth to a fifth faster
    each("on_train_epoch_start", validate_late)
    common: dict[str, Any] = {
        "data": arguments.data,
        "imgsz": arguments.imgsz,
        "batch": arguments.batch,
        "nbs": arguments.batch,
        "optimizer": "AdamW",
        "lr0": arguments.lr0,
        "seed": seed,
        "plots": False,
        "workers": 0,
        "cache": "ram",
        "verbose": False,
        "device": "cpu",
    }
    source, folder = Path(arguments.model), chain_folder(arm, seed, arguments, 0).parent
    source = source.resolve() if source.is_file() else source  # else one of Ultralytics' own model YAMLs
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
                imgsz = stage.arguments.get("imgsz", arguments.imgsz)
                done.write_text(json.dumps({**row, **measure(file, arguments, imgsz)}))
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
    parser.add_argument("--lr0", type=float, default=1e-3)
    parser.add_argument("--splits", nargs="+", default=["val", "test"])
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
    from yoloprune.reporting.text_table import table

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
