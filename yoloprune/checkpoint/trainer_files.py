"""What our trainers do about files: a folder of their own, checkpoints that are whole, and nothing lost on the way."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from yoloprune import csv_rows, files
from yoloprune.backend import compat, console, host_arguments, run_folders
from yoloprune.errors import ArgumentError

if TYPE_CHECKING:
    from ultralytics.engine.trainer import BaseTrainer as Trainer
else:
    Trainer = object  # a mixin: the class that takes it in is the trainer

FILLED_IN = frozenset({"model", "mode", "resume", "task"})  # by `YOLO.train`, whatever the user asks for


class WholeFiles(Trainer):
    """Mixin for Ultralytics trainers.

    Attributes:
        run (Run | None): The folder that this process claimed; None in workers and in a resumed run.
        world_size (int): How many processes train together, on all machines.
        told (Mapping): What the args.yaml of a resumed run says of our own options, which Ultralytics does not know.
    """

    run: run_folders.Run | None = None
    world_size: int
    told: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build the trainer; a folder that was made for one that is refused goes again."""
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            if self.run is not None:
                self.run.drop_unused()
            raise
        if self.told:
            file = Path(self.save_dir) / run_folders.ARGS
            run_folders.write_yaml(file, {**run_folders.read_yaml(file), **self.told})
        if compat.LOCAL_RANK != -1:  # of Ultralytics' launcher, or of a torchrun of the user's, on several machines
            self.world_size = int(os.environ["WORLD_SIZE"])  # Ultralytics counts the devices of one machine

    def check_resume(self, overrides: Mapping[str, Any]) -> None:
        """Settle the arguments, the first thing that a trainer does and the last before it writes.

        Args:
            overrides (Mapping): Arguments that differ from Ultralytics' defaults.

        Raises:
            ArgumentError: If a resumed run would drop an argument, or a new one write over what it starts from, or
                where Ultralytics cannot open it.
            PruneError: If the folder cannot be made.
        """
        super().check_resume(overrides)
        if compat.LOCAL_RANK != -1:
            self.require_device()
        if self.resume and console.is_main_process():
            self.told = _own_options(Path(str(getattr(self.args, "save_dir", ""))) / run_folders.ARGS)
        if compat.RANK > 0 or (compat.RANK == 0 and overrides.get("save_dir")):
            return  # a worker: arguments and folder were settled where it was started, or are by the first of them
        if self.resume:
            self._require_kept(overrides)
            return
        reads = [self.args.model, self.args.pretrained, getattr(self.args, "distill_model", None)]
        host_arguments.require_openable(vars(self.args))
        self.run = run_folders.claim(self.args, reads)
        self.args.save_dir = str(self.run.folder)

    def require_device(self) -> None:
        """Raise ArgumentError where `device=` names no GPU for this process of its machine."""
        names, local = self.args.device, int(os.environ.get("LOCAL_WORLD_SIZE", compat.LOCAL_RANK + 1))
        count = len(names) if isinstance(names, (list, tuple)) else len(str(names).split(","))
        if str(names) in {"cpu", "mps", "None", ""} or count != local:
            gpus = ",".join(map(str, range(local)))
            raise ArgumentError(
                f"device={names}: torchrun started {local} process{'es' if local > 1 else ''} on this machine, each of "
                f"which takes one GPU of it: give device={gpus}. Several processes train on GPUs alone"
            )

    def _require_kept(self, overrides: Mapping[str, Any]) -> None:
        """Raise ArgumentError where Ultralytics keeps what the interrupted run had and drops what is given."""
        for key, value in overrides.items():
            kept = getattr(self.args, key, None)
            filler = key in FILLED_IN or (key == "pretrained" and value is True)
            if not filler and value is not None and value != kept:
                raise ArgumentError(f"resume: this run has {key}={kept}, which cannot change. Received: {value}")

    def resume_training(self, ckpt: Any) -> None:
        """Go on behind the epoch of the checkpoint; a run that was killed may have told of the next one already."""
        super().resume_training(ckpt)
        if self.resume and ckpt is not None and console.is_main_process():
            csv_rows.keep_rows(self.csv, "epoch", self.start_epoch)

    def save_model(self) -> Any:
        """Write last.pt, best.pt and the checkpoint of an epoch as Ultralytics does, all of them or none.

        Raises:
            WriteError: If they cannot be written; those of the epoch before stay.
        """
        places = self.wdir, self.last, self.best
        try:
            with files.staged(self.wdir) as part:
                self.wdir, self.last, self.best = part, part / self.last.name, part / self.best.name
                return super().save_model()
        finally:
            self.wdir, self.last, self.best = places

    def final_eval(self) -> None:
        """Strip and validate as Ultralytics does; a stripped checkpoint replaces the other in one step."""
        with saving_at_once():
            super().final_eval()


def _own_options(args: Path) -> dict[str, Any]:
    """What the args.yaml of a training says of options that are not Ultralytics', by command; nothing without one."""
    return {k: v for k, v in run_folders.read_yaml(args).items() if isinstance(v, dict)} if args.is_file() else {}


@contextlib.contextmanager
def saving_at_once() -> Iterator[None]:
    """`torch.save` replaces a file in one step: Ultralytics strips checkpoints in place."""
    plain = torch.save

    def save(obj: object, f: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(f, (str, os.PathLike)):
            files.write_at_once(Path(f), lambda file: plain(obj, file, *args, **kwargs))
        else:
            plain(obj, f, *args, **kwargs)

    torch.save = save
    try:
        yield
    finally:
        torch.save = plain


def best_or_last(folder: Path) -> Path:
    """The checkpoint that a training in a folder ended with: the best, the last where there is no best."""
    best, last = (folder / "weights" / name for name in ("best.pt", "last.pt"))
    return best if best.is_file() else last
