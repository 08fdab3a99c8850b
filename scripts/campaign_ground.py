"""The ground of the campaign: tiny models and images, processes that can be stopped, and figures."""

from __future__ import annotations

import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

TINY = {
    "nc": 3,
    "reg_max": 1,  # a head of few weights
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C2f", [16, True]],
        [-1, 1, "Conv", [24, 3, 2]],
        [-1, 1, "C2f", [24, True]],
    ],
    "head": [[[4], 1, "Detect", ["nc"]]],
}
EPOCHS = 8
TRAINING = ("batch=4", "nbs=4", "optimizer=SGD", "plots=False", "amp=False", "workers=0", "warmup_epochs=0")
SMALL = ("flops=0.8", "round_to=1", "min_width=1", "native=False")
KILLED = ("train-sparse", "prune", "finetune")
VERBOSE = bool(os.environ.get("CAMPAIGN_VERBOSE"))  # a line for every trial
LIMIT = 240  # seconds, for any process
CONTEXT = multiprocessing.get_context("forkserver")
"""Children are forked from a process that has imported all that it takes, so that moments fall into the work itself."""
COMMANDS = ("slim", "train_sparse", "prune", "finetune", "sweep", "validate", "info")
CONTEXT.set_forkserver_preload(["ultralytics.models", *(f"yoloprune.commands.{name}" for name in COMMANDS)])


# ---- models, images, words -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """What all parts of the campaign start from.

    Attributes:
        folder (Path): Scratch, the working folder of every process.
        data (Path): `data.yaml` of drawn images.
        tiny (Path): An untrained checkpoint.
        small (Path): The same, pruned to free widths.
    """

    folder: Path
    data: Path
    tiny: Path
    small: Path

    @classmethod
    def make(cls, folder: Path) -> Ground:
        """Draw the images and write the checkpoints."""
        from ultralytics import YOLO

        from yoloprune.commands.demo_images import make_shapes

        data = make_shapes(folder / "data", train=8, val=4, imgsz=32)
        (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
        torch.manual_seed(0)
        YOLO(str(folder / "tiny.yaml")).save(folder / "tiny.pt")
        ground = cls(folder, data, folder / "tiny.pt", folder / "made" / "run" / "weights" / "pruned.pt")
        ended = Run(ground.words("prune", folder / "made"), folder).end()
        if ended.status:
            raise SystemExit(f"the ground cannot be made: {ended.said}")
        return ground

    def words(self, command: str, project: Path, *more: str) -> list[str]:
        """The command line of a short run named "run"."""
        told = ["imgsz=32", "device=cpu", f"project={project}", "name=run"]
        if command == "prune":
            return [command, f"model={self.tiny}", "data=False", *SMALL, *told, *more]
        own, model = (SMALL, self.tiny) if command == "train-sparse" else ((), self.small)
        told += [f"data={self.data}", f"epochs={EPOCHS}", *TRAINING]
        return [command, f"model={model}", *own, *told, *more]


# ---- processes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status, negative for a signal, and all that it said."""

    status: int
    said: str

    @property
    def errors(self) -> list[str]:
        """The lines by which yoloprune says what went wrong."""
        return [line for line in self.said.splitlines() if line.startswith("yoloprune: ")]

    def unclean(self) -> str | None:
        """What is wrong with the end of a run that was to fail in one line; None where nothing is."""
        if "Traceback" in self.said:
            return f"a traceback: {self.said.strip().splitlines()[-1]}"
        if self.status not in (1, 2):
            return f"exit {self.status}"
        return None if len(self.errors) == 1 else f"{len(self.errors)} lines of error"


class Run:
    """A running command.

    Args:
        words (list[str]): After `yoloprune`.
        folder (Path): Where it runs.
        limit (int | None): Bytes that a file may have: the full disk, as `ulimit -f` makes it.
        fresh (bool): Whether it is a process of its own from the start, which imports torch itself.
    """

    def __init__(self, words: list[str], folder: Path, *, limit: int | None = None, fresh: bool = False) -> None:
        self.began = threading.Event()
        self._said = b""
        self._fifo = folder / f".out-{time.monotonic_ns()}"
        os.mkfifo(self._fifo)  # a pipe, which no limit on files holds up
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        arguments = (words, str(folder), str(self._fifo), limit)
        self._process: Any
        if fresh:
            code = "import sys; from campaign_ground import enter; enter(*eval(sys.argv[1]))"
            told = [sys.executable, "-c", code, repr(arguments)]
            self._process = subprocess.Popen(told, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        else:
            self._process = CONTEXT.Process(target=enter, args=arguments)
            self._process.start()

    def _read(self) -> None:
        with self._fifo.open("rb") as pipe:
            self.began.set()
            while piece := os.read(pipe.fileno(), 1 << 16):
                self._said += piece

    def send(self, signal: int) -> bool:
        """Send a signal; False if the process is over."""
        running = self._status() is None
        if running:
            os.kill(self._process.pid, signal)
        return running

    def wait(self, seconds: float, happened: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, less where the process is over first, or something has happened."""
        until = time.monotonic() + seconds
        while self._status() is None and time.monotonic() < until and not happened():
            time.sleep(min(0.005, max(until - time.monotonic(), 0)))

    def _status(self) -> int | None:
        status: int | None = self._process.poll() if isinstance(self._process, subprocess.Popen) else None
        return status if isinstance(self._process, subprocess.Popen) else self._process.exitcode

    def end(self) -> Ended:
        """Wait until it is over; one that takes too long is killed."""
        until = time.monotonic() + LIMIT
        while self._status() is None and time.monotonic() < until:
            time.sleep(0.01)
        if self._status() is None:
            self._process.kill()
        status = self._process.wait() if isinstance(self._process, subprocess.Popen) else self._joined()
        if not self.began.is_set():  # it died before it opened the pipe, at which the reader still waits
            os.close(os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK))
        self._reader.join(5)
        self._fifo.unlink(missing_ok=True)
        return Ended(int(status), self._said.decode(errors="replace"))

    def _joined(self) -> int:
        self._process.join()
        return int(self._process.exitcode)


def enter(words: list[str], folder: str, fifo: str, limit: int | None) -> None:
    """What a child does: run one command as the command line does, with its output in a pipe."""
    os.chdir(folder)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from yoloprune.cli import main

    pipe = os.open(fifo, os.O_WRONLY)
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    # The streams of a forked child are those of its server
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    sys.exit(main(words))


# ---- figures ---------------------------------------------------------------------------------------------------------


@dataclass
class Part:
    """What came of one part of the campaign: how many were tried, what they came to, and each fault in a line."""

    name: str
    tried: int = 0
    came: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, *what: str) -> None:
        """One more of these."""
        for one in what:
            self.came[one] = self.came.get(one, 0) + 1

    def judge(self, trial: str, *faults: str | None) -> None:
        """One trial is over, without faults or with some."""
        self.tried += 1
        if VERBOSE:
            print(f"{time.monotonic():8.1f}  {self.name}  {trial}", flush=True)
        for fault in faults:
            if fault:
                self.faults.append(f"{trial}: {fault}")
                print(f"FAULT  {self.name}  {trial}: {fault}", flush=True)
