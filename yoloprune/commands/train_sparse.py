"""Train while the least useful channels fade to exactly zero, until the budget is met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune import csv_rows, shell_words
from yoloprune.backend import compat, console, datasets, evaluation, head_task, host_arguments, records, run_folders
from yoloprune.backend.yaml_markers import STATE_KEY
from yoloprune.checkpoint import provenance, rebuild, saving, trainer_files, trainers
from yoloprune.commands import finetune, following, image_side, interruptions
from yoloprune.errors import ArgumentError
from yoloprune.reporting import plots, run_report, text_table
from yoloprune.reporting.facts import Report
from yoloprune.settings import command_line
from yoloprune.settings.keys import AUTO
from yoloprune.settings.requests import TrainSparseRequest
from yoloprune.settings.sparse_config import SparseConfig
from yoloprune.sparse import reach
from yoloprune.sparse.callback import SparseTraining

SHARES = ("dead", "flops", "params")
"""Of the last epoch, as the table shows them."""


@console.heard_as_asked
def run(request: TrainSparseRequest) -> ultralytics.YOLO:
    """Train sparse, see `api.train_sparse`."""
    compat.require("train-sparse")
    host_arguments.require(request.host)
    host_arguments.require_openable(request.host)
    model, passed = request.model, request.host
    if passed.get("resume"):
        yolo = interruptions.reopened(model, passed)
        sparse = SparseTraining(_interrupted(yolo, request.config, passed))
    else:
        datasets.require(passed["data"])
        passed = {"name": "train-sparse", **passed, "data": run_folders.rooted(passed["data"])}
        yolo = saving.load(model)
        head_task.settle(yolo, passed)
        datasets.require_labels(yolo, passed["data"], "train-sparse")
        records.require_unmasked(yolo.model)
        if trainers.driver_of(yolo) is not None:
            raise ArgumentError("model: it has a SparseTraining attached. Detach that, or train with model.train(...).")
        if passed.get("freeze") is not None:
            passed["freeze"] = host_arguments.frozen_layers(yolo.model, passed["freeze"])
        side, budget = image_side.settle(yolo, request.config.budget, passed, "train-sparse")
        if passed.get("imgsz") == AUTO:
            passed["imgsz"] = side.imgsz
        sparse = SparseTraining(replace(request.config, budget=budget))
        with image_side.told_as_asked(yolo, request.config.budget, side):
            _require_reach(yolo, sparse.config, passed)
    finetune.require_teachable(yolo, passed)
    with sparse.attached(yolo), interruptions.going_on(yolo, "train-sparse"), datasets.reading(passed.get("data")):
        yolo.train(**passed)
    if console.is_main_process():
        report(Path(yolo.trainer.save_dir), yolo, sparse.config, command_line.written(request))
    return yolo


def report(folder: Path, yolo: ultralytics.YOLO, config: SparseConfig, words: str | None = None) -> bool | None:
    """Write and say what a sparse training came to.

    Args:
        folder (Path): Of the run.
        yolo (YOLO): What was trained.
        config (SparseConfig): The target, and how it was approached.
        words (str | None): The command as it was typed.

    Returns:
        (bool | None): Whether the target was met; None where there is no log.
    """
    if not (log := folder / "sparsity.csv").is_file():
        return None
    picture = plots.plot_sparsity(folder / "sparsity.png", log)
    history, met = csv_rows.read_numbers(log), bool(yolo.model.yaml.get(STATE_KEY, {}).get("met"))  # also of workers
    best = trainer_files.best_or_last(folder)
    last = history[-1] if history else {}
    row = {"model": best.stem, **evaluation.metrics(yolo), **{k: last[k] for k in SHARES if k in last}}
    report = Report(
        "train-sparse",
        [row],
        {"met": met, "settings": asdict(config), "history": history},
        f"{'Target met' if met else 'Target not met'}: once cut, {last.get('flops', 1):.1%} of the FLOPs and "
        f"{last.get('params', 1):.1%} of the parameters stay.",
        gamma=history,
        repeat=following.again("train-sparse", folder, words),
        versions=provenance.versions(),
    )
    page = run_report.write_report(folder, report, [p for p in (picture, folder / "results.png") if p])
    step = f"yoloprune prune {shell_words.quoted(f'model={best}')}"
    console.conclude("sparse: ", text_table.closing(report.verdict, [row], [best, page], step))
    return met


def _require_reach(yolo: ultralytics.YOLO, sparse: SparseConfig, passed: Mapping[str, Any]) -> None:
    """Raise BudgetError if the target is out of reach, before there is a folder."""
    nc = 1 if passed.get("single_cls") else datasets.class_count(yolo, passed["data"])
    imgsz = saving.image_size(yolo, passed.get("imgsz"))
    network = rebuild.network(yolo, nc, passed.get("pretrained", True))
    with saving.told_who_wrote(yolo):
        reach.require(network, sparse, imgsz, passed.get("freeze"))


def _interrupted(yolo: ultralytics.YOLO, new: SparseConfig, passed: Mapping[str, Any]) -> SparseConfig:
    """What the interrupted run was to reach, and how; raises ArgumentError where something else is asked for."""
    state = yolo.model.yaml.get(STATE_KEY)
    if state is None:
        raise ArgumentError(
            "resume: this checkpoint is not of a sparse run. A fine-tuning goes on with "
            "'yoloprune finetune model=... resume', a stock training with 'yolo train resume model=...'."
        )
    kept = ((yolo.ckpt or {}).get("train_args") or {}).get("freeze")
    frozen = host_arguments.frozen_layers(yolo.model, passed.get("freeze"))
    still, before = (host_arguments.held_still(yolo.model, layers) for layers in (frozen, kept))
    if frozen is not None and still != before:
        raise ArgumentError(
            f"resume: this run has freeze={kept}, which cannot change: other channels could die. Received: {frozen}"
        )
    old = records.sparse_config(state)
    if not new.budget.empty and new.budget != old.budget:
        raise ArgumentError(
            f"resume: this run has the target {old.budget}, which cannot change. Received: {new.budget}"
        )
    silent = SparseConfig(old.budget)
    for mine, theirs, default in ((new, old, silent), (new.limits, old.limits, silent.limits)):
        for key in set(vars(mine)) - {"budget", "limits"}:
            value, kept = getattr(mine, key), getattr(theirs, key)
            if value not in (getattr(default, key), kept):
                raise ArgumentError(f"resume: this run has {key}={kept}, which cannot change. Received: {value}")
    return old
