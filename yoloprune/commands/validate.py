"""Validate models side by side: accuracy, size, and time per image."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import ultralytics
from torch import nn

from yoloprune.backend import (
    compat,
    console,
    datasets,
    evaluation,
    head_task,
    host_arguments,
    model_facts,
    per_image,
    run_folders,
    yaml_markers,
)
from yoloprune.checkpoint import provenance, saving
from yoloprune.checkpoint.exported_files import is_export, load_export
from yoloprune.checkpoint.loading import ModelSource
from yoloprune.commands import following, shared_classes, side_by_side
from yoloprune.errors import ModelError
from yoloprune.planning import paired_bootstrap
from yoloprune.probing.random_draws import generators_kept
from yoloprune.reporting import run_report, text_table, verdict
from yoloprune.reporting.facts import ExampleImage, Report, points_of
from yoloprune.runtimes import bench, engines, registry
from yoloprune.runtimes.deployment import Deployment
from yoloprune.settings import command_line
from yoloprune.settings.view_requests import CompareRequest, ValRequest


def run(request: ValRequest) -> list[dict[str, Any]]:
    """Validate, side by side with another model when one is given, see `api.val`."""
    compat.require("val")
    host_arguments.require(request.host)
    model, against = request.model, request.against
    alone = Path(model).stem if isinstance(model, (str, Path)) else "network"  # "model" would be renamed, and warned of
    models = {alone: model} if against is None else {"parent": against, "pruned": model}
    return compare(request, models)


NO_NAME = re.compile(r'[\\/:*?"<>|]')
"""What no folder's name may hold, on whatever system."""

TUNED = "fine-tuned"
"""Name of a pruned model that was trained since."""


@console.heard_as_asked
@generators_kept()
def compare(request: ValRequest | CompareRequest, models: Mapping[str, ModelSource]) -> list[dict[str, Any]]:
    """Validate models one after the other on the same data, then time them taking turns, see `api.compare`.

    Args:
        request (ValRequest | CompareRequest): What was asked for.
        models (Mapping[str, str | Path | YOLO]): Its models by the names that they get in the table.
    """
    command, passed, threads = request.command, request.host, request.threads
    device = evaluation.device(passed.get("device"))
    deployment = Deployment.asked(passed, device, threads)
    loaded = {_name(n, yolo) if command == "val" else n: yolo for n, yolo in _loaded(models).items()}
    known = [yolo for yolo in loaded.values() if isinstance(yolo.model, nn.Module)]
    if not known:
        raise ModelError(f"{command}: one model at least must be a checkpoint (.pt), which says for which data it is.")
    for yolo in known:
        head_task.settle(yolo, passed)
    passed["data"] = datasets.given_or_own(known[-1], passed.get("data"), command)
    datasets.require_split(passed["data"], passed.get("split"))
    for yolo in known:
        datasets.require_channels(yolo, passed["data"])
        datasets.require_labels(yolo, passed["data"], command)
    files = {n: engines.class_names(str(y.model), deployment) for n, y in loaded.items() if y not in known}
    shared = shared_classes.of(loaded, files, passed, command)
    if shared is None:
        _warn_of_other_classes({n: yolo for n, yolo in loaded.items() if yolo in known}, passed["data"], command)
    imgsz = saving.image_size(known[0], passed.get("imgsz"))
    named = passed.get("imgsz") is not None
    sides = [  # each where it is to be used, unless one size is named for all
        saving.image_size(y, passed.get("imgsz"))
        if y in known
        else engines.side_of(str(y.model), deployment, imgsz, named=named)
        for y in loaded.values()
    ]
    differ = len(set(sides)) > 1
    runtimes = [deployment.format if y in known else registry.format_of(str(y.model)) for y in loaded.values()]
    apart = len(set(runtimes)) > 1
    with run_folders.new_run(known[0].task, command, passed) as folder:
        run_folders.write_args(folder, {**_told(request, models, loaded.values()), **passed, "save_dir": folder})
        rows: list[dict[str, Any]] = []
        networks: list[Any] = []
        classes: dict[str, side_by_side.Figures] = {}
        found: list[paired_bootstrap.Findings | None] = []
        for (name, yolo), side, runtime in zip(loaded.items(), sides, runtimes, strict=True):
            networks.append(copy.deepcopy(yolo.model))  # validation fuses the one it runs
            sizes: dict[str, Any] = {**({"imgsz": side} if differ else {}), **_sizes(yolo, side)}
            sizes |= {"runtime": runtime} if apart or command == "compare" else {}
            place = {"imgsz": side, "project": str(folder.resolve()), "exist_ok": True}
            place["name"] = NO_NAME.sub("-", name)
            installing = nullcontext() if yolo in known else compat.replaced({"AUTOINSTALL": False})
            looked = nullcontext(passed) if shared is None else shared.seen_by(name, passed)
            with installing, looked as asked, per_image.watched(yolo) as watch:
                evaluation.validate(yolo, {**asked, **place})
            found.append(watch.findings() if shared is None else shared.numbered(name, watch.findings()))
            rows.append({"model": name, **evaluation.metrics(yolo), **sizes})
            classes[name] = evaluation.by_class(yolo)
        with bench.opened(deployment, networks[0], sides[0]) as timer:
            timing = add_times(command, rows, timer, *networks[1:], sides=sides[1:])
        at = [i for i, yolo in enumerate(loaded.values()) if yolo in known]
        pair = [saving.with_model(yolo, networks[i]) for i, yolo in zip(at, known, strict=True)]
        seen = (sides[at[0]], sides[at[-1]])
        images = side_by_side.shown(pair[0], pair[-1], passed, seen, command) if len(pair) > 1 else []
        differences = _differences(rows, found)
        told_sides = sides if differ else imgsz
        timing |= {"runtimes": runtimes} if apart else {}
        arguments = {**passed, **({} if threads is None else {"threads": threads})}
        said = {"device": str(device), "imgsz": told_sides, "timing": timing, "arguments": arguments}
        said["differences"] = {name: vars(d) for name, d in differences.items()}
        again = following.again(command, folder, command_line.written(request))
        report = _report(command, rows, said, classes, images, again, differences)
        report = replace(
            report,
            pair=[rows[at[0]]["model"], rows[at[-1]]["model"]] if images else [],
            notes=[*(() if shared is None else shared.told), *report.notes],
        )
        page = run_report.write_report(folder, report)
        where = f"ms of different runtimes, on {device}" if apart else str(deployment)
        told = "\n".join([*([report.verdict] if report.verdict else []), f"imgsz {told_sides}, {where}"])
        told += "".join(f"\n{line}" for line in report.notes)
        exports = [(str(y.model), side) for y, side in zip(loaded.values(), sides, strict=True) if y not in known]
        told_next = {"data": passed["data"], "imgsz": sides[at[-1]], "export": next(reversed(exports), None)}
        step = following.after_comparing(known[-1], rows, rows[at[-1]], how=deployment, **told_next)
        console.conclude(f"{command}: ", text_table.closing(told, rows, [page], step))
    return rows


def _told(
    request: ValRequest | CompareRequest, models: Mapping[str, ModelSource], loaded: Iterable[ultralytics.YOLO]
) -> dict[str, Any]:
    """What args.yaml says besides Ultralytics' arguments; of a live model it is the file that it came from."""
    files = [
        model if isinstance(model, (str, Path)) else getattr(yolo, "ckpt_path", None) or yolo.model_name
        for model, yolo in zip(models.values(), loaded, strict=True)
    ]
    sources: dict[str, Any] = {"models": dict(zip(models, files, strict=True))}
    if isinstance(request, ValRequest):
        sources = {"model": files[-1], **({} if request.against is None else {"against": files[0]})}
    return {"mode": request.command, **sources, **({} if request.threads is None else {"threads": request.threads})}


def _differences(
    rows: Sequence[dict[str, Any]], found: Sequence[paired_bootstrap.Findings | None]
) -> dict[str, paired_bootstrap.Interval]:
    """How far models are from the first one, by name, and how much of it may be chance."""
    key, told = text_table.headline(rows[0]), {}
    for row, seen in zip(rows[1:], found[1:], strict=True):
        both = (rows[0][key], row[key]) if rows[0].get(key) is not None and row.get(key) is not None else None
        if (difference := paired_bootstrap.between(found[0], seen, both)) is not None:
            told[str(row["model"])] = difference
    return told


def _warn_of_other_classes(models: Mapping[str, ultralytics.YOLO], data: Any, command: str) -> None:
    """Say of which models figures on a data set mean nothing."""
    for name, yolo in models.items():
        if not model_facts.is_prompted(yolo.model) and not datasets.has_classes_of(yolo, data):
            differ = datasets.difference(yolo, data)
            console.warn(f"{command}: the classes of data= are not those of {name}, {differ}: its figures mean nothing")


def _report(
    command: str,
    rows: list[dict[str, Any]],
    facts: Mapping[str, Any],
    classes: Mapping[str, side_by_side.Figures],
    images: Sequence[ExampleImage],
    again: Sequence[str],
    differences: Mapping[str, paired_bootstrap.Interval],
) -> Report:
    """What is said of models that were validated and timed; of one alone there is no verdict."""
    metric = text_table.headline(rows[0])
    points = points_of(rows, metric) if metric and len(rows) > 1 else []
    if len(rows) == 2:
        last = rows[1]["model"]
        said = verdict.of(rows, trained=last == TUNED, cut=command != "compare", interval=differences.get(last))
    else:
        said = verdict.of_several(points, metric)
    versions = provenance.versions()
    by_class = side_by_side.by_class(classes)
    notes = [f"{name}: {metric} {d}" for name, d in differences.items()]
    told: dict[str, Any] = {"metric": metric, "repeat": again, "versions": versions, "notes": notes}
    return Report(command, rows, facts, said, by_class, images, points=points, **told)


def _name(name: str, yolo: ultralytics.YOLO) -> str:
    """What the model that is set against its parent is called: by what was done to it last."""
    if name != "pruned" or yaml_markers.entry_of(yolo) is None:
        return name
    trained = bool((getattr(yolo, "ckpt", None) or {}).get("train_metrics"))
    return TUNED if trained else "masked" if yaml_markers.masks_of(yolo) is not None else name


def _loaded(models: Mapping[str, ModelSource]) -> dict[str, ultralytics.YOLO]:
    """Models by name; exports are for the task of the first checkpoint."""
    found = {n: m if is_export(m) else saving.load(m, prunable=False) for n, m in models.items()}
    task = next((m.task for m in found.values() if isinstance(m, ultralytics.YOLO)), "detect")
    return {n: m if isinstance(m, ultralytics.YOLO) else load_export(m, task) for n, m in found.items()}


def _sizes(yolo: ultralytics.YOLO, imgsz: int) -> dict[str, float]:
    """Size of a model; of an export that of what lies on the disk."""
    if isinstance(yolo.model, nn.Module):
        return evaluation.measure(yolo.model, imgsz)
    path = Path(yolo.model)
    files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
    return {"MB": round(sum(f.stat().st_size for f in files) / 1e6, 2)}


def add_times(
    command: str,
    rows: Sequence[dict[str, Any]],
    timer: bench.Bench,
    *others: nn.Module | str,
    sides: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Put milliseconds per image into the rows of the parent on a bench and of others, at their own sides.

    Returns:
        (dict[str, Any]): What was measured and on what, for the report.
    """
    what = f"{len(others) + 1} models in turns" if others else "one model"
    console.log(f"{command}: ", f"timing {what}, for up to {bench.SECONDS:g} s")
    times = timer.time(*others, sides=sides)
    for row, found in zip(rows, times, strict=True):
        row["ms"] = found.median
    if (said := bench.unsteady(times)) is not None:
        console.log(f"{command}: ", said)
    return timer.facts(times)
