"""Train a pruned model on; every width stays."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune.backend import (
    compat,
    console,
    datasets,
    evaluation,
    head_task,
    host_arguments,
    model_facts,
    official_weights,
    run_folders,
    yaml_markers,
)
from yoloprune.checkpoint import held_masks, provenance, saving, trainer_files
from yoloprune.commands import (
    following,
    growing,
    interruptions,
    mask_table,
    only_classes,
    parent_labels,
    side_by_side,
)
from yoloprune.errors import ArgumentError, DataError
from yoloprune.reporting import run_report, text_table, verdict
from yoloprune.reporting.facts import ClassFigures, Report
from yoloprune.settings import command_line
from yoloprune.settings.requests import FinetuneRequest

LIKE_THE_END = frozenset({"data", "imgsz", "batch", "device", "workers", "single_cls", "max_det", "iou", "conf"})
"""Arguments of a training by which it validates."""

UNLABELLED = "nothing was measured, for no validation image has a label"


@console.heard_as_asked
def run(request: FinetuneRequest, *, pruned: bool = True, known: Mapping[str, float] | None = None) -> ultralytics.YOLO:
    """Fine-tune, see `api.finetune`.

    Args:
        request (FinetuneRequest): What to do.
        pruned (bool): Whether the model should be.
        known (Mapping[str, float] | None): How good it is on the same data, for a caller that validated it already.
    """
    compat.require("finetune")
    host_arguments.require(request.host)
    host_arguments.require_openable(request.host)
    host_arguments.require_quantizers(request.host)
    model, passed = request.model, request.host
    if passed.get("resume"):
        yolo = interruptions.reopened(model, passed)
    else:
        datasets.require(passed.get("data"))
        passed = {"name": "finetune", **passed}
        yolo = saving.load(model)
        head_task.settle(yolo, passed)
    if yaml_markers.STATE_KEY in yolo.model.yaml:  # its dead channels are still there and would come back to life
        raise ArgumentError(
            f"model={yolo.ckpt_path or yolo.model_name}: sparse training left dead channels that are not cut yet. Run "
            "'yoloprune prune' first; an interrupted run goes on with 'yoloprune train-sparse ... resume'."
        )
    by = parent_labels.of_finetune(yolo, request)
    if not passed.get("resume") and by is None:
        passed["data"] = run_folders.rooted(datasets.given_or_own(yolo, passed.get("data"), "finetune"))
    if passed.get("freeze") is not None:
        passed["freeze"] = host_arguments.frozen_layers(yolo.model, passed["freeze"])
    if request.growth is not None:
        growing.begin(yolo, request.growth, passed.get("freeze"))
    if pruned and yaml_markers.entry_of(yolo) is None:
        console.warn("finetune: yoloprune did not prune this model; it is trained at the widths that it has")
    if request.distill == "parent":
        passed["distill_model"] = str(provenance.parent_file(yolo))
    require_teachable(yolo, passed)
    before = model_facts.widths(yolo.model)
    with (
        parent_labels.trained_on(yolo, request, by, passed) as passed,
        only_classes.trained_on(yolo, passed, "finetune") as passed,
    ):
        start = _start(yolo, passed) if known is None and not passed.get("resume") else dict(known or {})
        with interruptions.going_on(yolo, "finetune"), datasets.reading(passed.get("data")):
            yolo.train(**passed)
    of_many_sets = isinstance(yolo.trainer.args, dict)  # on which Ultralytics reports
    if console.is_main_process() and not of_many_sets:
        imgsz = yolo.trainer.args.imgsz
        after, sizes = model_facts.widths(yolo.model), evaluation.measure(yolo.model, imgsz)
        folder, classes = Path(yolo.trainer.save_dir), side_by_side.by_class({"fine-tuned": evaluation.by_class(yolo)})
        words, blind = command_line.written(request), evaluation.measured_nothing(yolo)
        start, metrics = ({}, {}) if blind else (start, evaluation.metrics(yolo))
        more: dict[str, Any] = {
            "widths_kept": before == after,
            "by_class": classes,
            "words": words,
            "labels_from": None if by is None else by[1],
            "masked": held_masks.said(yolo.model) if yaml_markers.masks_of(yolo) else "",
            "zeros": mask_table.zeros(yolo.model),
            "unseen": UNLABELLED if blind else "",
        }
        report(folder, start, metrics, sizes, imgsz, **more)
    return yolo


def report(
    folder: Path,
    start: Mapping[str, float],
    metrics: Mapping[str, float],
    sizes: Mapping[str, float],
    imgsz: int,
    *,
    widths_kept: bool,
    by_class: Sequence[ClassFigures] = (),
    words: str | None = None,
    labels_from: str | None = None,
    masked: str = "",
    zeros: Sequence[Mapping[str, Any]] = (),
    unseen: str = "",
) -> None:
    """Write and say what a fine-tuning came to.

    Args:
        folder (Path): Of the run.
        start (Mapping[str, float]): How good the model was before, empty where that is not known.
        metrics (Mapping[str, float]): How good it is.
        sizes (Mapping[str, float]): How large it is.
        imgsz (int): Side of the images.
        widths_kept (bool): Whether every width is what it was.
        by_class (Sequence[ClassFigures]): The same by class.
        words (str | None): The command as it was typed.
        labels_from (str | None): Who labelled the data, where that was a model.
        masked (str): How much of it is zero, where it is masked.
        zeros (Sequence[Mapping]): The same by layer.
        unseen (str): Why nothing was measured, where that is so.
    """
    rows = [{"model": "start", **start, **sizes}] if start else []
    rows.append({"model": "fine-tuned", **metrics, **sizes})
    _warn_of_loss(start, metrics)
    mask_table.warn_of_empty(zeros, "finetune")
    said = unseen or verdict.of_training(rows)
    facts = {"widths_kept": widths_kept, "start": start, "metrics": metrics}
    if labels_from is not None:
        facts["labels_from"] = labels_from
        if not unseen:
            by = Path(labels_from).name
            said = f"{said}; that is how far it agrees with {by}, which labelled the images".lstrip("; ")
    page = run_report.write_report(
        folder,
        Report(
            "finetune",
            rows,
            facts,
            said,
            by_class,
            repeat=following.again("finetune", folder, words),
            versions=provenance.versions(),
            zeros=zeros,
        ),
        [folder / "results.png"],
    )
    best = trainer_files.best_or_last(folder)
    kept = "every width is what it was" if widths_kept else "widths have changed"
    kept += f"; {masked}" if masked else ""
    step = following.after_training(folder, best, start, metrics)
    told = f"{said}; {kept} (imgsz {imgsz})" if said else f"{kept} (imgsz {imgsz})"
    console.conclude("finetune: ", text_table.closing(told, rows, [best, page], step))


def _start(yolo: ultralytics.YOLO, passed: Mapping[str, Any]) -> dict[str, float]:
    """How good the model is before it is trained; empty where the data is not at hand or others."""
    data = passed["data"]
    try:
        known = datasets.class_count(yolo, data) is not None and datasets.has_classes_of(yolo, data)
        datasets.require_channels(yolo, data)
    except DataError:  # the trainer fetches it, or says what is wrong
        return {}
    if not known or compat.RANK != -1:  # under torchrun Ultralytics gathers what all processes found
        return {}
    asked = {k: v for k, v in passed.items() if k in LIKE_THE_END}
    if not isinstance(asked.get("batch", 1), int) or asked.get("batch", 1) < 1:
        del asked["batch"]  # which the trainer finds out
    probe = saving.with_model(yolo, deepcopy(yolo.model))  # validation fuses the one it runs
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        imgsz = saving.image_size(yolo, asked.pop("imgsz", None))
        evaluation.validate(probe, {**asked, "imgsz": imgsz, "project": folder, "name": "start", "verbose": False})
    if evaluation.measured_nothing(probe):  # as Ultralytics has just said
        return {}
    start = evaluation.metrics(probe)
    cut_at = ((provenance.provenance(yolo) or {}).get("arguments") or {}).get("imgsz")
    other = f"; it was cut at {cut_at}, imgsz={cut_at} trains it there" if cut_at not in (None, imgsz) else ""
    figures = ", ".join(f"{k} {v:.4g}" for k, v in start.items())
    console.log("finetune: ", f"starts from {figures} (imgsz {imgsz}{other})")
    return start


def _warn_of_loss(start: Mapping[str, float], end: Mapping[str, float]) -> None:
    """Warn where the training has made the model worse."""
    key = text_table.headline(start)
    if key in end and end[key] < start[key] - following.NOISE:
        console.warn(
            f"finetune: {key} is {end[key]:.4f}, below the {start[key]:.4f} that it started from. Train longer, or "
            "with a smaller lr0="
        )


def require_teachable(yolo: ultralytics.YOLO, passed: Mapping[str, Any]) -> None:
    """Raise ArgumentError if a teacher is not there, or given to a model that Ultralytics cannot teach."""
    teacher = passed.get("distill_model")
    if isinstance(teacher, (str, Path)) and teacher != "parent":
        missing = not Path(teacher).exists() and official_weights.official_name(str(teacher)) is None
        if missing and str(teacher).endswith(".pt"):
            raise ArgumentError(f"distill_model={teacher}: there is no such file")
    if passed.get("distill_model") and not model_facts.can_be_taught(yolo.model):
        raise ArgumentError(f"distill: Ultralytics teaches models with a detection head only, not {yolo.task} models.")
