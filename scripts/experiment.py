"""Side-by-side experiments on your own data: several arms, several seeds, one table last.

    python scripts/experiment.py budgets --model yolov8n-coco.pt --data bccd/data.yaml --seeds 0 1 2 --jobs 2

An arm is a chain of stages, e.g. train 15 epochs, prune, fine-tune 15 epochs. All arms start from the same weights and,
where they train, use the same optimizer settings; chains with a common beginning share it. Finished stages are not run
again, so an interrupted run goes on where it was. `--bf16` trains under bfloat16 autocast, which processors with AMX do
twice as fast and those without bfloat16 eight times slower; validation is always float32.

`--ray` spreads arms and seeds over a Ray cluster (`pip install "yoloprune[ray]"`), a core each, and a GPU with
`--device 0`: that of RAY_ADDRESS or `ray start`, else one on this machine. Script, data and `--out` are
on storage that all machines share; where `--out` is not, rows still come back, but models stay where they were made.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from arm_stages import side_of
from arms import TABLES
from experiment_stages import measure, run_stage

# ---- chains ----------------------------------------------------------------------------------------------------------


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
        "device": arguments.device,
    }
    source, folder = Path(arguments.model), chain_folder(arm, seed, arguments, 0).parent
    source = source.resolve() if source.is_file() else source  # else one of Ultralytics' own model YAMLs
    chain = TABLES[arguments.table][arm]
    for i, stage in enumerate(chain):
        side = common["imgsz"] = side_of(chain[: i + 1], arguments.imgsz)
        folder = chain_folder(arm, seed, arguments, i)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f".{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another arm may be at the same stage
            done = folder / "done.json"
            if not done.is_file():
                start = time.time()
                file = run_stage(stage, source, folder, common, {"imgsz": side})
                row = {"file": str(file.relative_to(folder)), "minutes": (time.time() - start) / 60}
                done.write_text(json.dumps({**row, **measure(file, arguments, side)}))
        source = folder / json.loads(done.read_text())["file"]


def chain_folder(arm: str, seed: int, arguments: argparse.Namespace, i: int) -> Path:
    """Folder of the i-th stage: chains with a common beginning share it."""
    names = [stage.name for stage in TABLES[arguments.table][arm][: i + 1]]
    return Path(arguments.out).resolve() / Path(arguments.model).stem / f"seed{seed}" / "+".join(names)


# ---- table -----------------------------------------------------------------------------------------------------------

TRIES = 3  # of an arm whose process is killed, as for want of memory; its finished stages are kept


class Job(NamedTuple):
    """One arm with one seed.

    Attributes:
        arm (str): Its name.
        seed (int): Its seed.
        words (list[str]): The command that runs it, without the interpreter.
        log (Path): What it says.
        done (Path): Its row, once it is there.
    """

    arm: str
    seed: int
    words: list[str]
    log: Path
    done: Path

    @classmethod
    def of(cls, arm: str, seed: int, arguments: argparse.Namespace) -> Job:
        """As it is asked for on the command line of this process."""
        one = [__file__, *sys.argv[1:], "--one", "--seeds", str(seed), "--arms", arm]
        log = Path(arguments.out).resolve() / "logs" / f"{arguments.table}-{arm}-{seed}.log".replace(" ", "_")
        last = chain_folder(arm, seed, arguments, len(TABLES[arguments.table][arm]) - 1)
        return cls(arm, seed, one, log, last / "done.json")

    @property
    def row(self) -> dict[str, Any] | None:
        """Its figures, None where it is not done."""
        return json.loads(self.done.read_text()) if self.done.is_file() else None


def start(job: Job) -> dict[str, Any] | None:
    """Run an arm in a process of its own; its row, None where it failed."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("w") as out:
        for _ in range(TRIES):
            ended = subprocess.run(
                [sys.executable, *job.words],
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            if ended.returncode >= 0:
                break
    return job.row


def summary(arguments: argparse.Namespace, rows: Mapping[tuple[str, int], Any]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the finished seeds, arm by arm; rows of earlier runs are read from the disk."""
    shown = []
    for arm in TABLES[arguments.table]:
        found = [r for s in arguments.seeds if (r := rows.get((arm, s)) or Job.of(arm, s, arguments).row)]
        if not found:
            continue
        row: dict[str, Any] = {"arm": arm, "seeds": len(found)}
        for key in found[0]:
            values = [r[key] for r in found]
            if key.startswith("mAP"):
                row[key] = f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
            elif key not in {"file", "minutes"}:
                row[key] = mean(values)
        shown.append(row)
    return shown


def main() -> int:
    """Run all arms and seeds, `--jobs` at a time or on a cluster, and print the table; 1 where an arm failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr0", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu", help="of trainings and validations")
    parser.add_argument("--splits", nargs="+", default=["val", "test"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--jobs", type=int, default=1, help="arms that run at the same time")
    parser.add_argument(
        "--ray", action="store_true", help="arms run on a Ray cluster, as many as it has cores, or GPUs"
    )
    parser.add_argument("--bf16", action="store_true", help="train under bfloat16 autocast")
    parser.add_argument("--out", default="runs/experiment")
    parser.add_argument("--show", action="store_true", help="only print what is finished")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arms = arguments.arms or list(TABLES[arguments.table])
    if arguments.one:
        run_chain(arms[0], arguments.seeds[0], arguments)
        return 0
    from yoloprune.commands import pieces
    from yoloprune.errors import ArgumentError
    from yoloprune.reporting.text_table import table

    try:
        if arguments.ray:
            pieces.Ray.require()
    except ArgumentError as e:
        parser.error(str(e))
    jobs = [] if arguments.show else [Job.of(arm, seed, arguments) for seed in arguments.seeds for arm in arms]
    rows: dict[tuple[str, int], Any] = {}
    cluster = pieces.Ray(1, int(arguments.device != "cpu")) if arguments.ray else None
    with pieces.spread(start, jobs, at_once=arguments.jobs, ray=cluster) as results:
        for job, row in zip(jobs, results, strict=True):
            rows[job.arm, job.seed] = row
            print(table(summary(arguments, rows)), flush=True)
    if arguments.show:
        print(table(summary(arguments, rows)))
    failed = [job for job in jobs if rows[job.arm, job.seed] is None]
    for job in failed:
        print(f"failed: {job.arm}, seed {job.seed}: see {job.log}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
