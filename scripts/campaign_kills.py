"""Parts of the campaign that end processes: kills, full disks and signals."""

from __future__ import annotations

import functools
import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from campaign_folders import contents, epochs, torn
from campaign_ground import EPOCHS, KILLED, LIMIT, Ended, Ground, Part, Run

from yoloprune.checkpoint import saving

PLANTED = ("notes.txt", "run/mine.txt", "run/weights/mine.pt.txt", "other/args.yaml", "run-2.txt")
"""Files of the user's in the folders of runs."""
TRIES = 8
"""So often a signal is sent earlier where a run was over; the last falls into its first tenth."""


@dataclass(frozen=True)
class Whole:
    """A run that nobody disturbed.

    Attributes:
        folder (Path): Of the run.
        files (frozenset[str]): What it leaves there.
        seconds (float): What it takes from its begin.
        writing (float): What it takes from its first file on.
    """

    folder: Path
    files: frozenset[str]
    seconds: float
    writing: float


@functools.cache
def undisturbed(ground: Ground, command: str, *, fresh: bool = False) -> Whole:
    """Run a command to its end and keep what it leaves; where a second time counts, the first one fills caches."""
    folder = ground.folder / ("whole-fresh" if fresh else "whole") / command
    seconds = writing = 0.0
    for _ in range(1 if fresh else 2):
        shutil.rmtree(folder, ignore_errors=True)
        run = Run(ground.words(command, folder), ground.folder, fresh=fresh)
        run.began.wait()
        began = time.monotonic()
        run.wait(LIMIT, lambda: _writes(folder / "run", 0.0))
        writes = time.monotonic()
        ended = run.end()
        if ended.status:
            raise SystemExit(f"{command} does not run: {ended.said}")
        seconds, writing = (time.monotonic() - moment for moment in (began, writes))
    return Whole(folder / "run", frozenset(contents(folder / "run")), seconds, writing)


def _writes(run: Path, since: float) -> bool:
    """Whether a run has begun to write results: args.yaml comes long before, beside what was there."""
    return any(
        f.stat().st_ctime > since for f in (*run.glob("results.csv"), *run.glob(".part*"), *run.glob("weights/*"))
    )


@dataclass(frozen=True)
class Place:
    """The folder of a trial, with files of the user's in it and, in some, an earlier run of the same name."""

    project: Path
    planted: dict[str, str]
    earlier: dict[str, str]

    @classmethod
    def prepare(cls, project: Path, whole: Whole | None) -> Place:
        """Plant the files; `whole` is the earlier run that was in the folder."""
        shutil.rmtree(project, ignore_errors=True)
        if whole is not None:
            shutil.copytree(whole.folder, project / "run")
        earlier = contents(project) if whole is not None else {}
        for name in PLANTED:
            if whole is not None or not name.startswith("run/"):
                (project / name).parent.mkdir(parents=True, exist_ok=True)
                (project / name).write_text(f"mine: {name}")
        return cls(project, {k: v for k, v in contents(project).items() if k in PLANTED}, earlier)

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.project / "run"

    def faults(self) -> Iterator[str]:
        """What is wrong with the files, whenever one looks."""
        now = contents(self.project)
        yield from (f"the user's {k} is lost or changed" for k, v in self.planted.items() if now.get(k) != v)
        yield from torn(self.project)
        best = {v for k, v in self.earlier.items() if k.endswith(("best.pt", "pruned.pt"))}
        if best - set(now.values()) and not self._replaced():
            yield "an earlier result is gone, and nothing whole is in its place"

    def _replaced(self) -> bool:
        return any((self.run / "weights" / name).is_file() for name in ("pruned.pt", "last.pt"))


def again(ground: Ground, command: str, place: Place, whole: Whole, more: list[str]) -> tuple[str, list[str]]:
    """Go on with what a run left, or run it again; what was done, and what is wrong with the end."""
    last = place.run / "weights" / "last.pt"
    before = contents(place.project).get("run/weights/last.pt")
    words, how = ground.words(command, place.project, *more), "run again"
    if command != "prune" and last.is_file() and before != place.earlier.get("run/weights/last.pt"):
        if not saving.goes_on(last):
            best = place.run / "weights" / "best.pt"
            faults = [] if best.is_file() and epochs(place.run)[-1] == EPOCHS else ["over, without a best.pt"]
            told = Run([command, f"model={last}", "resume"], ground.folder).end()  # which there is no need for
            return "was over", [*faults, *(f"resumed after its end: {f}" for f in [told.unclean()] if f)]
        words, how = [command, f"model={last}", "resume"], "resumed"
    elif not more and place.run.exists():  # a name that is taken gets a number, as ever
        words = [w if w != "name=run" else "name=again" for w in words]
    ended = Run(words, ground.folder).end()
    folder = place.run if how == "resumed" or "name=run" in words else place.project / "again"
    faults = [f"{how}: exit {ended.status}: {ended.said[-300:]}"] if ended.status else []
    if not faults:
        faults += [f"{how}: {name} is missing" for name in sorted(whole.files - set(contents(folder)))]
        if command != "prune" and sorted(set(epochs(folder))) != list(range(1, EPOCHS + 1)):
            faults.append(f"{how}: results.csv has the epochs {epochs(folder)}")
        if command != "prune" and len(epochs(folder)) > EPOCHS:
            faults.append(f"{how}: results.csv has an epoch twice: {epochs(folder)}")
        if command == "train-sparse" and not json.loads((folder / "report.json").read_text())["met"]:
            faults.append(f"{how}: the target is not met")
    return how, faults


def kills(ground: Ground, count: int, seed: int) -> Part:
    """Kill runs at random moments, look at the files, and bring each to its end."""
    part, chance = Part("kills"), random.Random(seed)
    wholes = {command: undisturbed(ground, command) for command in KILLED}
    for i in range(count):
        command = KILLED[i % len(KILLED)]
        over = i // len(KILLED) % 2 == 1  # into the folder of an earlier run
        more = ["exist_ok=True"] if over else []
        whole, late = wholes[command], i % 4 != 3  # most while it writes, which is a short part of it
        moment = chance.uniform(0, whole.writing if late else whole.seconds)
        while True:
            place = Place.prepare(ground.folder / "kills" / str(i), whole if over else None)
            since = time.time() if late else None
            run = Run(ground.words(command, place.project, *more), ground.folder)
            landed = _stopped(run, moment, signal.SIGKILL, place.run, since)
            run.end()
            if landed:
                break
            moment *= 0.9  # it was over first
        faults = list(place.faults())
        how, wrong = again(ground, command, place, whole, more)
        faults += wrong + list(place.faults())
        part.count(how)
        told = f"{moment:.2f} s after its {'first file' if late else 'begin'}, {how}"
        part.judge(f"{command}{' exist_ok' if over else ''} killed {told}", *faults)
        shutil.rmtree(place.project)
    return part


def _stopped(run: Run, moment: float, number: int, folder: Path | None = None, since: float | None = None) -> bool:
    run.began.wait()
    if folder is not None and since is not None:
        run.wait(LIMIT, lambda: _writes(folder, since))
    run.wait(moment)
    return run.send(number)


def disks(ground: Ground, count: int, seed: int) -> Part:
    """Let no file grow beyond a size: what cannot be written is told in a line, and what was there stays."""
    part, chance = Part("disks"), random.Random(seed)
    wholes = {command: undisturbed(ground, command) for command in KILLED}
    for i in range(count):
        command = KILLED[i % len(KILLED)]
        over = i // len(KILLED) % 2 == 1
        whole = wholes[command]
        place = Place.prepare(ground.folder / "disks" / str(i), whole if over else None)
        size = int(2 ** chance.uniform(8, 17.5))
        more = ["exist_ok=True"] if over else []
        ended = Run(ground.words(command, place.project, *more), ground.folder, limit=size).end()
        faults = list(place.faults())
        if ended.status == 0:
            part.count("had room enough")
        else:
            part.count("refused in a line")
            faults += [f for f in [ended.unclean()] if f]
            if ended.status != 1 and not faults:
                faults.append(f"exit {ended.status} for a full disk")
        part.judge(f"{command}{' exist_ok' if over else ''}, no file above {size} bytes", *faults)
        shutil.rmtree(place.project)
    return part


def signals(ground: Ground, count: int, seed: int) -> Part:
    """Interrupt and terminate at random moments, every second process from its start, imports included."""
    part, chance = Part("signals"), random.Random(seed)
    wholes = {(c, fresh): undisturbed(ground, c, fresh=fresh) for c in KILLED for fresh in (False, True)}
    for i in range(count):
        command, fresh = KILLED[i % len(KILLED)], i % 2 == 1
        number = signal.SIGTERM if i % 5 == 4 else signal.SIGINT
        whole = wholes[command, fresh]
        moment = chance.uniform(0, whole.seconds * 0.9)
        for _ in range(TRIES):
            place = Place.prepare(ground.folder / "signals" / str(i), None)
            run = Run(ground.words(command, place.project), ground.folder, fresh=fresh)
            sent = _stopped(run, moment, number)
            ended = run.end()
            if sent and (ended.status or not whole.files <= set(contents(place.run))):
                break
            moment *= 0.7  # it was over first, or so near to its end that nothing was left to do
        else:
            ended = Ended(0, f"{TRIES} signals were ignored")
        part.count("interrupted" if number == signal.SIGINT else "terminated")
        faults = [*place.faults(), *(f for f in [_badly_interrupted(ended, number)] if f)]
        told = f"{command}{' from its start' if fresh else ''}, {signal.Signals(number).name} after {moment:.2f} s"
        part.judge(told, *faults)
        shutil.rmtree(place.project)
    return part


def _badly_interrupted(ended: Ended, number: int) -> str | None:
    if "Traceback" in ended.said:
        return f"a traceback: {' / '.join(ended.said.strip().splitlines()[-6:])}"
    if ended.status not in ((130, -signal.SIGINT) if number == signal.SIGINT else (143, -signal.SIGTERM)):
        return f"exit {ended.status}: {ended.said[-200:]}"
    return None if len(ended.errors) <= 1 else f"{len(ended.errors)} lines of error"
