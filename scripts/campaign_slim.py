"""Part of the campaign that kills `slim`, some runs twice, and gives the same command again until it is done."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from campaign_folders import contents, epochs, torn
from campaign_ground import LIMIT, SMALL, TRAINING, Ground, Part, Run

UNFINISHED = ".unfinished"
EPOCHS = 4  # of all trainings of a run together
BUDGET = 0.8  # of the FLOPs, as `SMALL` says
WAYS = ("sparse", "prune", "train")


def words(ground: Ground, way: str, project: Path) -> list[str]:
    """The command line of a short `slim`; steps= where the way takes it."""
    more = [] if way == "sparse" else ["steps=2"]
    told = ["imgsz=32", "device=cpu", f"project={project}", "name=run", f"data={ground.data}", f"epochs={EPOCHS}"]
    return ["slim", f"model={ground.tiny}", f"way={way}", *SMALL, *TRAINING, *told, *more, "format=torchscript"]


def slims(ground: Ground, count: int, seed: int) -> Part:
    """Kill a `slim` at random moments, look at its stages, and bring it to its end."""
    part, chance = Part("slims"), random.Random(seed)
    wholes = {way: _whole(ground, way) for way in WAYS}
    for i in range(count):
        way = WAYS[i % len(WAYS)]
        files, seconds = wholes[way]
        project, killed, faults = ground.folder / "slims" / str(i), [], list[str]()
        for _ in range(1 + i // len(WAYS) % 2):
            moment = chance.uniform(0, seconds)
            run = Run(words(ground, way, project), ground.folder)
            run.began.wait()
            run.wait(moment)
            if run.send(signal.SIGKILL):
                killed.append(f"{moment:.2f}")
            run.end()
            faults += _faults(project / "run", files)
        ended = Run(words(ground, way, project), ground.folder).end()
        if ended.status:
            faults.append(f"exit {ended.status}: {ended.said[-300:]}")
        folders = sorted(project.glob("run*"))
        done = next((f for f in folders if (f / "report.json").is_file()), None)
        if done is None:
            faults.append("no run is done")
        else:
            faults += [*_faults(done, files), *_wrong_end(done, files)]
        resumed = "goes on with" in ended.said
        part.count("gone on with" if resumed else "begun again" if killed else "were over")
        part.judge(f"slim way={way} killed after {', '.join(killed) or 'its end'} s", *faults)
        shutil.rmtree(project, ignore_errors=True)
    return part


def _whole(ground: Ground, way: str) -> tuple[frozenset[str], float]:
    """What an undisturbed run leaves, and the seconds that it takes; the first one fills caches."""
    project, seconds = ground.folder / "whole-slim" / way, 0.0
    for _ in range(2):
        shutil.rmtree(project, ignore_errors=True)
        run = Run(words(ground, way, project), ground.folder)
        run.began.wait()
        began = time.monotonic()
        ended = run.end()
        seconds = time.monotonic() - began
        if ended.status or seconds > LIMIT:
            raise SystemExit(f"slim way={way} does not run: {ended.said[-2000:]}")
    return frozenset(contents(project / "run")), seconds


def _faults(run: Path, files: frozenset[str]) -> Iterator[str]:
    """Torn files, and stages that are there without all that they should hold."""
    yield from torn(run)
    for stage in run.glob("[0-9]*-*"):
        if stage.name.endswith(UNFINISHED):
            continue
        expected = {f.partition("/")[2] for f in files if f.startswith(f"{stage.name}/")}
        if missing := sorted(expected - set(contents(stage))):
            yield f"{stage.name} is there without {', '.join(missing)}"


def _wrong_end(run: Path, files: frozenset[str]) -> Iterator[str]:
    """What is wrong with a run that is done."""
    if missing := sorted(files - set(contents(run))):
        yield f"missing in the end: {', '.join(missing)}"
    if any(f.name.endswith(UNFINISHED) for f in run.iterdir()):
        yield "an unfinished stage is left"
    trained = sorted(run.glob("*/results.csv"))
    total = [epochs(f.parent) for f in trained]
    if sum(map(len, total)) != EPOCHS or any(found != list(range(1, len(found) + 1)) for found in total):
        yield f"epochs {total}"
    cuts = [json.loads(f.read_text())["kept"]["flops"] for f in run.glob("*-prune/slim.json")]
    if (left := math.prod(cuts)) > BUDGET + 1e-6:
        yield f"the budget is not met: {left:.4f} of the FLOPs are left"
