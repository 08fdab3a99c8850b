"""The stages of a `slim`: each in a folder of its own that is complete or absent, and done once."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune import files
from yoloprune.backend import console, per_image, run_folders
from yoloprune.checkpoint.moved import Renaming
from yoloprune.commands import following, interruptions, slim_earlier
from yoloprune.commands.following import UNFINISHED
from yoloprune.commands.slim_earlier import FACTS, LOCK, holds_work
from yoloprune.errors import ArgumentError, PruneError
from yoloprune.planning.paired_bootstrap import Findings
from yoloprune.reporting import run_report
from yoloprune.settings.slim_request import SlimRequest

FOUND = "found.npz"
GOES_ON = "the same command goes on where it was; so far everything is in {}"


@dataclass(frozen=True)
class Done:
    """What a stage came to.

    Attributes:
        file (Path): The model.
        row (Mapping): Its figures: accuracy where it was validated, and size.
        found (Findings | None): What it found in each image, for a paired comparison.
        kept (Mapping): Shares of its parent's FLOPs, parameters, channels and time that a cut left.
        more (Mapping): Further facts for the report.
    """

    file: Path
    row: Mapping[str, Any]
    found: Findings | None = None
    kept: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage(Done):
    """A finished one.

    Attributes:
        folder (Path): Where it lies.
        seconds (float): What it took in the process that finished it.
    """

    folder: Path = Path()
    seconds: float = 0.0

    @classmethod
    def read(cls, folder: Path) -> Stage:
        """From its folder."""
        told = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        found = per_image.load(folder / FOUND)
        return cls(
            folder / told["file"], told["row"], found, told["kept"], told["more"], folder, float(told["seconds"])
        )


class Stages:
    """The folder of a `slim` that is running.

    Attributes:
        folder (Path): Where the stages lie.
        trained (bool): Whether something is there that took long to make.
        seconds (float): What stages took in this process.
        total (int): How many there are in all, at most.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds, self.count, self.total = 0.0, 0, 0
        self.trained = holds_work(folder)

    def run(self, name: str, work: Callable[[Path], Done]) -> Stage:
        """Take a stage that is finished, else do it.

        Args:
            name (str): What is done, the end of the folder's name.
            work (Callable): Does it in a folder that is not there, or holds what an interruption left.

        Returns:
            (Stage): As it lies on the disk, whoever did it.
        """
        self.count += 1
        final = self.folder / f"{self.count}-{name}"
        if (final / FACTS).is_file():
            console.log("slim: ", f"{final.name} of {self.total} is done already")
            return Stage.read(final)
        part = final.with_name(final.name + UNFINISHED)
        console.log("slim: ", f"{final.name} of {self.total}, in {self.folder}")
        renaming = Renaming(part, final)
        began = time.perf_counter()
        # What is read afterwards is there afterwards; what a stage ends with is not what the run ends with
        with (
            console.told_as(lambda said: following.without_next(renaming.told(said))),
            console.hushed(console.is_hushed()),
        ):
            done = work(part)
        part.mkdir(exist_ok=True)
        seconds = time.perf_counter() - began
        self.seconds += seconds
        if done.found is not None:
            per_image.save(part / FOUND, done.found)
        inside = done.file.is_relative_to(part)
        told = {
            "file": str(done.file.relative_to(part) if inside else done.file.absolute()),
            "row": dict(done.row),
            "kept": dict(done.kept),
            "more": dict(done.more),
            "seconds": round(seconds, 1),
        }
        renaming.settle()
        facts = renaming.told(json.dumps(told, indent=2, default=str))
        files.write_at_once(part / FACTS, lambda f: f.write(facts.encode()))
        files.rename(part, final)
        self.trained = holds_work(self.folder)
        return Stage.read(final)

    def skip(self) -> None:
        """Take back the number of a stage that could not be."""
        self.count -= 1


@contextlib.contextmanager
def opened(request: SlimRequest, parent: ultralytics.YOLO, arguments: Mapping[str, Any]) -> Iterator[Stages]:
    """The folder of a run: of the same one that was interrupted, else a new one.

    Args:
        request (SlimRequest): `project`, `name` and `exist_ok` count.
        parent (YOLO): The model.
        arguments (Mapping): Everything that was asked for, `model` and `data` among it.

    Raises:
        ArgumentError: If an interrupted run of this model and data was asked for otherwise.
        PruneError: If the folder cannot be made.
    """
    told = run_folders.as_written({"mode": "slim", **arguments})
    folder, handle = slim_earlier.interrupted(request, parent.task, told)
    run = None if folder is None else run_folders.Run(folder, made=True)
    if folder is None or run is None:
        run = run_folders.new_run(parent.task, "slim", request.passed, [arguments["model"]])
        folder = run.folder.resolve()
        if not run.made and ((folder / run_report.JSON).is_file() or holds_work(folder)):
            raise ArgumentError(f"exist_ok: {folder} holds a run of slim, which is kept. Give another name=")
        handle = files.taken(folder / LOCK)
        if handle is None:
            raise ArgumentError(f"{folder} is the folder of a run that goes on. Give another name=")
        _clear(folder)
    else:
        console.log("slim: ", f"goes on with {folder}")
    run_folders.write_yaml(folder / run_folders.ARGS, {**told, "save_dir": str(folder)})
    stages = Stages(folder)
    try:
        yield stages
    except (Exception, KeyboardInterrupt) as e:
        if not (stages.trained or holds_work(folder)):
            _clear(folder)  # nothing is lost but the figures of the parent, and another wish needs no other name
            files.let_go(folder / LOCK, handle)
            run.drop_unused()
            if isinstance(e, KeyboardInterrupt):
                interruptions.tell(e, "no stage was finished, and the same command begins anew")
        elif isinstance(e, (KeyboardInterrupt, PruneError)):
            interruptions.tell(e, GOES_ON.format(folder))
        else:
            console.log("slim: ", GOES_ON.format(folder))
        raise
    finally:
        files.let_go(folder / LOCK, handle)


def _clear(folder: Path) -> None:
    """Remove what a run left that came no further than its parent."""
    for stage in folder.glob("[0-9]*-*"):
        if stage.name.endswith(UNFINISHED) or (stage / FACTS).is_file():
            shutil.rmtree(stage)
