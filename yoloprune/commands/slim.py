"""From a trained model to the one that is shipped: validate, cut, fine-tune, validate, export, in one command."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from yoloprune import files
from yoloprune.backend import compat, console, model_facts
from yoloprune.checkpoint import saving
from yoloprune.commands import (
    image_side,
    slim_earlier,
    slim_export,
    slim_reach,
    slim_report,
    slim_rounds,
    slim_stages,
    slim_start,
)
from yoloprune.commands.slim_course import Outcome
from yoloprune.commands.slim_earlier import WEIGHTS, digest
from yoloprune.commands.slim_report import SlimResult
from yoloprune.commands.slim_stages import Stage, Stages
from yoloprune.commands.slim_start import Start
from yoloprune.commands.slim_work import Work
from yoloprune.commands.validate import add_times
from yoloprune.errors import ArgumentError
from yoloprune.planning import paired_bootstrap
from yoloprune.planning.quality import is_quality
from yoloprune.reporting import text_table
from yoloprune.runtimes import bench
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.registry import TORCH
from yoloprune.settings.slim_request import SlimRequest


@console.heard_as_asked
def run(request: SlimRequest) -> SlimResult:
    """Run all stages, see `api.slim`."""
    compat.require("slim")
    if compat.RANK != -1:
        raise ArgumentError(
            "slim starts the processes of its trainings itself: give device=0,1 and leave torchrun out. On several "
            "machines start train-sparse and finetune by torchrun, and prune between them by itself"
        )
    start = slim_start.started(request)
    if (finished := slim_report.finished(request, start.parent, start.arguments)) is not None:
        console.conclude("slim: ", f"{finished} is this run and is finished; another name= begins anew")
        return slim_report.concluded(request, finished)
    with image_side.told_as_asked(start.seen, request.budget, start.side):
        slim_reach.require(start.seen, start.settled, start.data, start.side.imgsz, rebuilt=start.way != "prune")
    with slim_stages.opened(request, start.parent, start.arguments) as stages:
        slim_start.announce(start, stages)
        work = slim_start.work_of(start, stages)
        known = start.seen if start.trained else None
        first = stages.run("parent", lambda part: work.parent(part, start.parent, known, start.names))
        live = None if isinstance(request.model, (str, Path)) else model_facts.digest(start.parent.model)
        _require_same(first, stages, live)
        found = slim_rounds.follow(stages, work, first, start.way)
        if start.by is not None:
            found.said.append("mAP says how far models agree with what the first one found: there are no other labels")
        return _ended(start, stages, work, first, found)


def _require_same(first: Stage, stages: Stages, live: str | None) -> None:
    """Raise ArgumentError where the model was changed since the run began; `live` tells one that is in no file."""
    if live is not None and first.more.get(WEIGHTS) != live:
        raise ArgumentError(
            f"{stages.folder} began with a model of other weights than model= has now. Give another name= to begin anew"
        )
    if first.more.get("sha256") != digest(first.file):
        raise ArgumentError(
            f"{stages.folder} began with another {first.file}, which was changed since. Put that back, or give another "
            "name= to begin anew"
        )


def _ended(start: Start, stages: Stages, work: Work, first: Stage, found: Outcome) -> SlimResult:
    """Export, put the model into its place, write and say everything."""
    request, deployment = start.request, work.deployment
    folder, final = stages.folder, found.final
    table = {"parent": first, "trained": found.parent, "pruned": found.pruned, "fine-tuned": found.tuned}
    if found.parent is first:
        del table["trained"]
    if found.worsened:  # what is shipped stands last
        table["pruned"] = table.pop("pruned")
        found.said.append(slim_report.WORSENED.format(final.folder.name))
    shown = {name: stage for name, stage in table.items() if stage is not None}
    exported = None
    if deployment.format != TORCH:
        exported = stages.run("export", lambda part: slim_export.export(part, work, final, deployment))
    figures = [k for k in final.row if is_quality(k)]
    rows = [
        {"model": name, **dict.fromkeys(figures), **work.side.told(of_parent=stage is first), **stage.row}
        for name, stage in shown.items()
    ]
    timed = time.perf_counter()
    timing = _times(rows, [*shown.values()], exported, deployment, work.side)
    timed = time.perf_counter() - timed
    seen = (found.parent.found, final.found)
    key = text_table.headline(final.row)
    both = (found.parent.row.get(key, 0.0), final.row.get(key, 0.0))
    difference = paired_bootstrap.between(*seen, both, request.confidence or 0.95) if found.tuned else None

    file = folder / slim_report.SHIPPED
    file.parent.mkdir(exist_ok=True)
    with files.staged(file.parent) as part:
        shutil.copyfile(final.file, part / file.name)
    seconds = time.perf_counter() - start.began
    facts = {
        "way": start.way,
        "imgsz": work.imgsz,
        "rounds": found.rounds,
        "said": found.said,
        "difference": None if difference is None else vars(difference),
        "timing": timing,
        "exported": None if exported is None else {"file": str(exported.file), **exported.more},
        "stages": {s.folder.name: s.seconds for s in _stages(folder)},
        "seconds": {
            "all": round(seconds, 1),
            "stages": round(stages.seconds, 1),
            "validations in them": round(sum(work.looks), 1),
            "timing": round(timed, 1),
            "rest": round(seconds - stages.seconds - timed, 1),
        },
        "arguments": request.kwargs(),
    }
    known = start.seen if start.trained else None
    slim_report.write(work, request, folder, rows, facts, list(shown.values()), found, known)
    return slim_report.concluded(request, folder)


def _stages(folder: Path) -> list[Stage]:
    """All that are finished, in their order."""
    found = [f for f in folder.glob("[0-9]*-*") if (f / slim_earlier.FACTS).is_file()]
    return [Stage.read(f) for f in sorted(found, key=lambda f: int(f.name.partition("-")[0]))]


def _times(
    rows: list[dict[str, Any]],
    shown: list[Stage],
    exported: Stage | None,
    deployment: Deployment,
    side: image_side.Side,
) -> dict[str, Any]:
    """Put milliseconds into the rows, of torch and of the file that was exported, each with its parent taking turns."""
    networks = [saving.load(stage.file).model for stage in shown]
    plain = deployment if exported is None else Deployment(device=deployment.device)
    with bench.opened(plain, networks[0], side.parent) as timer:
        others = networks[1:]
        timing: dict[str, Any] = {"torch": add_times("slim", rows, timer, *others, sides=[side.imgsz] * len(others))}
    if exported is not None:
        column = f"ms {deployment.format}"
        with bench.opened(deployment, networks[0], side.parent) as timer:
            times = timer.time(str(exported.file), sides=[side.imgsz])
        rows.append({"model": "exported", **exported.row})
        rows[0][column], rows[-1][column] = (t.median for t in times)
        timing[deployment.format] = timer.facts(times)
    return timing
