"""Train a pruned model on; every width stays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune.backend import compat, console, datasets, evaluation, host_arguments, model_facts, yaml_markers
from yoloprune.checkpoint import provenance, saving
from yoloprune.commands import interruptions
from yoloprune.errors import ArgumentError
from yoloprune.reporting import run_report
from yoloprune.settings.requests import FinetuneRequest


def run(request: FinetuneRequest) -> ultralytics.YOLO:
    """Fine-tune, see `api.finetune`."""
    compat.require("finetune")
    host_arguments.require(request.host)
    model, passed = request.model, request.host
    if passed.get("resume"):
        yolo = saving.reopen(interruptions.resumed(model, passed))
    else:
        datasets.require(passed.get("data"))
        passed = {"name": "finetune", **passed}
        yolo = saving.load(model)
    if yaml_markers.STATE_KEY in yolo.model.yaml:  # its dead channels are still there and would come back to life
        raise ArgumentError(
            f"model={yolo.ckpt_path or yolo.model_name}: sparse training left dead channels that are not cut yet. Run "
            "'yoloprune prune' first; an interrupted run goes on with 'yoloprune train-sparse ... resume'."
        )
    if not passed.get("resume"):
        passed["data"] = datasets.given_or_own(yolo, passed.get("data"), "finetune")
    if yaml_markers.entry_of(yolo) is None:
        console.warn("finetune: yoloprune did not prune this model; it is trained at the widths that it has")
    if request.distill == "parent":
        passed["distill_model"] = str(provenance.parent_file(yolo))
    require_teachable(yolo, passed)
    if passed.get("freeze") is not None:
        passed["freeze"] = host_arguments.frozen_layers(yolo.model, passed["freeze"])
    before = model_facts.widths(yolo.model)
    with interruptions.going_on(yolo, "finetune"):
        yolo.train(**passed)
    of_many_sets = isinstance(yolo.trainer.args, dict)  # on which Ultralytics reports
    if console.is_main_process() and not of_many_sets:
        folder = Path(yolo.trainer.save_dir)
        after = model_facts.widths(yolo.model)
        metrics = evaluation.metrics(yolo)
        data = {"command": "finetune", "widths_kept": before == after, "metrics": metrics}
        rows = [{"model": "fine-tuned", **metrics, **evaluation.measure(yolo.model, yolo.trainer.args.imgsz)}]
        run_report.write_report(folder, data, rows, [folder / "results.png"])
    return yolo


def require_teachable(yolo: ultralytics.YOLO, passed: Mapping[str, Any]) -> None:
    """Raise ArgumentError if a teacher is given to a model that Ultralytics cannot teach."""
    if passed.get("distill_model") and not model_facts.can_be_taught(yolo.model):
        raise ArgumentError(f"distill: Ultralytics teaches models with a detection head only, not {yolo.task} models.")
