"""What the stages of a `slim` do: each is one of the other commands, and a look at what came of it."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune.backend import class_labels, compat, evaluation, model_facts, per_image, run_folders, yaml_markers
from yoloprune.backend.found_labels import Labeller
from yoloprune.checkpoint import saving, trainer_files
from yoloprune.commands import finetune, parent_labels, prune, side_by_side, train_sparse
from yoloprune.commands.image_side import Side, time_left
from yoloprune.commands.slim_earlier import DATA, WEIGHTS, digest
from yoloprune.commands.slim_stages import Done, Stage
from yoloprune.planning.paired_bootstrap import Findings
from yoloprune.planning.quality import is_quality
from yoloprune.reporting import run_report
from yoloprune.runtimes.deployment import Deployment
from yoloprune.settings import checking
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.request import Request
from yoloprune.settings.requests import FinetuneRequest, PruneRequest, TrainSparseRequest
from yoloprune.settings.slim_request import OF_THE_RUN, SlimRequest

BY_CLASS = "by_class"
PLAIN = "auto"  # Ultralytics' own choice of an optimizer, for weights that are not trained on the data yet


@dataclass(frozen=True)
class Seen:
    """What a validation found.

    Attributes:
        row (dict[str, float]): Figures by name.
        found (Findings | None): What was found in each image.
        classes (Figures): Figures by class.
    """

    row: dict[str, float] = field(default_factory=dict)
    found: Findings | None = None
    classes: side_by_side.Figures = ({}, None)

    def more(self) -> dict[str, Any]:
        """What a stage keeps of it."""
        return {BY_CLASS: list(self.classes)} if self.classes[0] else {}


def of_classes(stage: Stage) -> side_by_side.Figures:
    """Figures by class that a stage kept."""
    figures, boxes = stage.more.get(BY_CLASS) or ({}, None)
    return figures, boxes


@dataclass(frozen=True)
class Work:
    """Does the stages of one request.

    Attributes:
        request (SlimRequest): What was asked for.
        data (str | Path): The data set.
        side (Side): Image size at which models are measured and validated, and at which the parent is.
        deployment (Deployment): Where times are met.
        looks (list[float]): Seconds of each validation of its own.
    """

    request: SlimRequest
    data: Any
    side: Side
    deployment: Deployment
    looks: list[float] = field(default_factory=list)

    @property
    def imgsz(self) -> int:
        """Image size of all but the parent."""
        return self.side.imgsz

    @property
    def training(self) -> dict[str, Any]:
        """Ultralytics' arguments of all trainings."""
        other = {*OF_THE_RUN, "format", *self.request.shipped}
        return {"data": self.data, **{k: v for k, v in self.request.passed.items() if k not in other}}

    def parent(self, part: Path, whole: ultralytics.YOLO, seen: ultralytics.YOLO | None, names: Any) -> Done:
        """Figures of the model that it begins with.

        Args:
            part (Path): The stage's folder, where a model is saved that is in no checkpoint: a live one, or a YAML.
            whole (YOLO): The model.
            seen (YOLO | None): What is validated of it: with `classes=` these alone. None where it knows others than
                the data has, so that there are only sizes.
            names (list[str] | None): Those classes.
        """
        file = Path(str(whole.ckpt_path))
        if whole.ckpt_path is None or not isinstance(self.request.model, (str, Path)):
            file = part / "weights" / "parent.pt"
            file.parent.mkdir(parents=True, exist_ok=True)
            whole.ckpt = whole.ckpt or {}  # without one, older releases cannot save
            whole.save(file)
        live = {} if isinstance(self.request.model, (str, Path)) else {WEIGHTS: model_facts.digest(whole.model)}
        known = Seen() if seen is None else self._validated(seen, names, self.side.parent)
        more = {
            "sha256": digest(file),
            DATA: digest(Path(str(self.request.passed.get("data")))),
            **live,
            **known.more(),
        }
        sizes = evaluation.measure(whole.model, self.side.parent)
        return Done(file, {**known.row, **sizes}, known.found, more=more)

    def train(self, part: Path, model: Path, epochs: int) -> Done:
        """Train at the widths that there are."""
        told = {**self.training, **self._share(epochs), "optimizer": self.request.passed.get("optimizer") or PLAIN}
        return self._trained(part, FinetuneRequest, {**told, "model": model}, partial(finetune.run, pruned=False))

    def train_sparse(self, part: Path, model: Path, epochs: int) -> Done:
        """Train while channels fade."""
        own = {o.name for o in COMMANDS["train-sparse"].options}
        limits = {k: v for k, v in vars(self.request.limits).items() if k in own}
        budget = {"sparsity" if k == "ratio" else k: v for k, v in self.request.budgets.items()}
        told = {**self.training, **self._share(epochs), **limits, **budget, "model": model}
        return self._trained(part, TrainSparseRequest, told, train_sparse.run)

    def finetune(self, part: Path, pruned: Stage, epochs: int) -> Done:
        """Train a pruned model on, which was validated as it was cut."""
        told = {**self.training, **self._share(epochs), "distill": self.request.distill, "model": pruned.file}
        known = {k: v for k, v in pruned.row.items() if is_quality(k)}
        return self._trained(part, FinetuneRequest, told, partial(finetune.run, known=known))

    def prune(self, part: Path, before: Stage, budgets: Mapping[str, Any]) -> Done:
        """Cut what a stage made under budgets by the keys of `prune`, without any exactly the dead."""
        shutil.rmtree(part, ignore_errors=True)
        request, own = self.request, {o.name for o in COMMANDS["prune"].options}
        told = {k: v for k, v in request.settings.items() if k in own - {"flops", "params", "ratio", "latency"}}
        told = {
            **told,
            **budgets,
            "model": before.file,
            "data": self.data,
            "images": None,
            "val": False,
            **_place(part),
        }
        told.update({k: v for k in ("imgsz", "device", "seed") if (v := request.passed.get(k)) is not None})
        if yaml_markers.kept_classes(saving.load(before.file)) is not None:
            told["classes"] = None  # they were left alone before
        if timed := budgets.get("latency") is not None:
            told["latency"] = self._latency(before, budgets["latency"])
        told.update(request.shipped if timed else {})
        told["threads"] = request.threads if timed else None
        seen = Seen()

        def judge(cut: ultralytics.YOLO) -> side_by_side.Looks:
            nonlocal seen
            seen = self._validated(cut)
            classes = side_by_side.by_class({"parent": of_classes(before), "pruned": seen.classes})
            return side_by_side.Looks(({k: before.row.get(k) for k in seen.row}, seen.row), classes)

        done = prune.run(checking.build(PruneRequest, told), judge, timed=True)
        kept = dict(json.loads((part / run_report.JSON).read_text(encoding="utf-8"))["kept"])
        if timed:
            kept["latency"] = done.rows[1]["ms"] / done.rows[0]["ms"]
            if told["latency"] != budgets["latency"]:  # which counts at the parent's own side
                kept["latency"] *= budgets["latency"] / told["latency"]
        more = {"budgets": dict(budgets), "outputs_moved": done.cut.moved, "next": done.next_step, **seen.more()}
        sizes = evaluation.measure(done.model.model, self.imgsz)
        return Done(done.file, {**seen.row, **sizes}, seen.found, kept, more)

    def _latency(self, before: Stage, wanted: float | str) -> float | str:
        """What a cut may take at the side of the images, of what its parent takes there."""
        if self.side.imgsz == self.side.parent:
            return wanted
        return time_left(saving.load(before.file), wanted, self.side, self.deployment, "slim")

    def _share(self, epochs: int) -> dict[str, Any]:
        """How long one of several trainings is."""
        hours = self.request.passed.get("time")
        return {"epochs": epochs} if hours is None else {"epochs": epochs, "time": hours * epochs / self.request.epochs}

    def _trained(
        self, part: Path, kind: type[Request], told: Mapping[str, Any], run: Callable[[Any], ultralytics.YOLO]
    ) -> Done:
        """Train, or go on with what an interruption left."""
        last = part / "weights" / "last.pt"
        if last.is_file() and saving.goes_on(last):
            kept = {k: told[k] for k in ("trainer", "device", "workers") if told.get(k) is not None}
            run(checking.build(kind, {"model": last, "resume": True, **kept}))
        elif not last.is_file():
            shutil.rmtree(part, ignore_errors=True)
            run(checking.build(kind, {**told, **_place(part)}))
        file = trainer_files.best_or_last(part)
        if not (part / run_report.JSON).is_file():
            self._end(part, kind, told)
        yolo = saving.load(file)
        seen, sizes = self._validated(yolo), evaluation.measure(yolo.model, self.imgsz)
        more = {"epochs": told["epochs"], **seen.more()}
        return Done(file, {**seen.row, **sizes}, seen.found, more=more)

    def _end(self, part: Path, kind: type[Request], told: Mapping[str, Any]) -> None:
        """What a training does behind its last epoch, where it was killed in that."""
        with trainer_files.saving_at_once():
            for file in (part / "weights").glob("*.pt"):
                compat.strip_optimizer(file)
        if told.get("plots", True):
            compat.plot_results(part / "results.csv")
        yolo = saving.load(trainer_files.best_or_last(part))
        if kind is TrainSparseRequest:
            train_sparse.report(part, yolo, checking.build(TrainSparseRequest, told).config)
        else:
            sizes = evaluation.measure(yolo.model, self.imgsz)
            finetune.report(part, {}, self._validated(yolo).row, sizes, self.imgsz, widths_kept=True)

    def _validated(self, yolo: ultralytics.YOLO, names: list[str] | None = None, imgsz: int | None = None) -> Seen:
        """How good a model is, and what it finds in each image; `names` are its classes where it knew more once."""
        passed = {k: v for k, v in self.request.passed.items() if k in finetune.LIKE_THE_END and v is not None}
        if not isinstance(passed.get("batch", 1), int) or passed.get("batch", 1) < 1:
            del passed["batch"]  # which a training finds out
        probe = saving.with_model(yolo, copy.deepcopy(yolo.model))  # validation fuses the one it runs
        began = time.perf_counter()
        with (
            class_labels.view(names or yaml_markers.kept_classes(yolo), self.data) as seen,
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            per_image.watched(probe) as watch,
        ):
            place = {"project": folder, "name": "val", "data": seen, "imgsz": imgsz or self.imgsz, "verbose": False}
            evaluation.validate(probe, {**passed, **place})
        self.looks.append(time.perf_counter() - began)
        return Seen(evaluation.metrics(probe), watch.findings(), evaluation.by_class(probe))


def labelled(part: Path, request: SlimRequest, by: Labeller, model: str) -> Done:
    """Label images by what a model finds in them; the file is the YAML of a data set."""
    folder = part / run_folders.PARENT_LABELS
    return Done(parent_labels.write("slim", (by, model), str(request.images), folder, request.passed), {})


def _place(part: Path) -> dict[str, Any]:
    """Where a command writes: the folder of its stage."""
    return {"project": str(part.parent), "name": part.name, "exist_ok": False}
