"""Set weights to zero: score, choose by a pattern, repair what is left, save, report."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ultralytics
from torch import Tensor

from yoloprune import files
from yoloprune.backend import (
    class_labels,
    compat,
    console,
    datasets,
    evaluation,
    head_task,
    host_arguments,
    moved_layers,
    run_folders,
    yaml_markers,
)
from yoloprune.checkpoint import saving
from yoloprune.commands import cut_and_repair, following, mask_table, side_by_side
from yoloprune.cutting import masks
from yoloprune.errors import ModelError, VerifyError
from yoloprune.planning.plan import Plan
from yoloprune.probing.forward import placed
from yoloprune.probing.random_draws import generators_kept
from yoloprune.repair import batch_norm_statistics, recipes
from yoloprune.reporting import run_report, text_table, verdict
from yoloprune.reporting.facts import Report
from yoloprune.selection import mask_choice, mask_scores
from yoloprune.selection.calibration import Calibration, Needs, calibration, data_for, place
from yoloprune.settings import command_line
from yoloprune.settings.mask_options import n_of_m
from yoloprune.settings.mask_request import MaskRequest


@dataclass(frozen=True)
class MaskResult:
    """What came of a mask.

    Attributes:
        model (YOLO): The masked model, loaded from its file.
        file (Path): `<run>/weights/masked.pt`.
        rows (list[dict]): The printed table: parent and masked.
        zeros (list[dict]): By layer, how many of its weights are zero.
    """

    model: ultralytics.YOLO
    file: Path
    rows: list[dict[str, Any]]
    zeros: list[dict[str, Any]]


@generators_kept()
def run(request: MaskRequest) -> MaskResult:
    """Mask, see `api.mask`."""
    compat.require("mask")
    host_arguments.require(request.host)
    host_arguments.require_openable(request.host)
    parent = saving.load(request.model)
    head_task.settle(parent, {}, asked=False)
    if (family := yaml_markers.untrainable(parent.model)) is not None:
        raise ModelError(f"yoloprune has no trainer for {family} models, which would fill the zeros of a mask.")
    run_folders.require_other(parent.task, "mask", request.host, "masked.pt", parent.ckpt_path)
    names, left = mask_choice.layers(parent.model, request.zeros)
    mask_choice.require_more(parent.model, names, request.zeros)
    needs = Needs(request.score, mask_scores.NEEDS[request.score], request.recover, "wanda")
    wished = "auto" in (request.score, request.recover)
    data = data_for(parent, request.passed.get("data"), request.images, needs, wished=wished, command="mask")
    imgsz = saving.image_size(parent, request.passed.get("imgsz"))
    with (
        saving.told_who_wrote(parent),
        class_labels.view(yaml_markers.kept_classes(parent), data) as seen,
    ):
        score = mask_scores.best(parent, seen, request.zeros.pattern) if request.score == "auto" else request.score
        scope = mask_choice.scope_of(request.zeros, score)
        request = replace(request, score=score, zeros=replace(request.zeros, scope=scope))  # as it is done
        seeing = sight(parent, seen, imgsz, request.passed, score, request.recover, images=request.images)
        scores = mask_scores.scored(parent, names, score, seeing)
    kept = mask_choice.choose(scores, request.zeros.pattern, request.zeros.sparsity, scope)
    child = masked(parent, kept, request.recover, seeing)
    unseen = {name: "no image runs through it" for name in names if name not in kept}
    return _saved(parent, child, request, data, imgsz, {**dict.fromkeys(kept), **left, **unseen})


def sight(
    parent: ultralytics.YOLO,
    data: Any,
    imgsz: int,
    passed: Mapping[str, Any],
    score: str,
    recover: str,
    *,
    images: str | None = None,
) -> Calibration:
    """The images that scores and repair look at; none are loaded where nothing does.

    Args:
        parent (YOLO): The model before it is masked.
        data (Any): The data set, as the model's classes see it.
        imgsz (int): Side of the images.
        passed (Mapping): Ultralytics' arguments, of which `device` and `seed` count.
        score (str): `score=`, settled.
        recover (str): `recover=`; with "auto" images are drawn where there are no others.
        images (str | None): `images=`.
    """
    looked_at = recover != "none" or mask_scores.NEEDS[score] == "images"
    if not looked_at:
        device, seed = passed.get("device"), passed.get("seed") or 0
        return Calibration(imgsz, data or None, device=place(device), seed=seed)
    return calibration(parent, data, imgsz, passed, folder=images, drawn=recover == "auto", command="mask")


def masked(parent: ultralytics.YOLO, kept: Mapping[str, Tensor], how: str, sight: Calibration) -> ultralytics.YOLO:
    """A masked copy, repaired in the way that `recover=` names.

    Args:
        parent (YOLO): The model, stays untouched.
        kept (Mapping[str, Tensor]): By layer, which weights stay, bool of the weight's shape. Layers that are masked
            already and not among them keep the zeros that they have.
        how (str): `recover=`.
        sight (Calibration): What the repair looks at; without images there is none.
    """
    child = saving.with_model(parent, copy.deepcopy(parent.model))
    masks.put_on(child.model, kept)
    before = (yaml_markers.masks_of(parent) or {"layers": {}})["layers"]
    kept = {**kept, **masks.found_in(child.model, before)}  # what was zero there already is not fitted
    steps = recipes.steps_of(how, images=bool(sight.repairing))
    if not sight.repairing or not {"bn", "lsq"}.intersection(steps):
        return child
    with placed(sight.device, parent.model, child.model):
        if "bn" in steps:
            batch_norm_statistics.reestimate(child.model, sight.repairing)
            return child
        cut_and_repair.refit(parent, child, Plan({}), sight.repairing, kept, command="mask")
    return child


def _saved(
    parent: ultralytics.YOLO,
    child: ultralytics.YOLO,
    request: MaskRequest,
    data: Any,
    imgsz: int,
    layers: Mapping[str, str | None],
) -> MaskResult:
    """Write checkpoint and page; `layers` says by name why one is not masked, None where it is."""
    taken = [name for name, why in layers.items() if why is None]
    told = {**request.kwargs(), "imgsz": imgsz, "data": data or request.passed.get("data")}
    arguments = {k: v for k, v in told.items() if v is not None}
    origin = (parent.ckpt_path or request.model) if isinstance(request.model, (str, Path)) else None
    facts = saving.make_provenance(origin, arguments)
    checkpoint = saving.pack_masked(
        child, pattern=request.zeros.pattern, layers=masks.zeros(child.model, taken), provenance=facts
    )
    with run_folders.new_run(parent.task, "mask", request.host) as folder:
        target = folder / "weights" / "masked.pt"
        checkpoint.require_room(target)
        with files.staged(folder) as part:
            file = part / target.relative_to(folder)
            checkpoint.write(file)
            saved = saving.load(file)
            _require_saved(child, saved, request.zeros.pattern, taken)
            of = str(origin or parent.model_name)
            run_folders.write_args(part, {"mode": "mask", "model": of, **arguments, "save_dir": folder})
            rows = [_row("parent", parent, imgsz), _row("masked", saved, imgsz)]
            validate = request.passed.get("val", None if request.passed.get("data") else False)
            with class_labels.view(yaml_markers.kept_classes(parent), data) as seen:
                passed = request.passed
                looks = side_by_side.look(
                    parent, saved, seen, imgsz, passed, validate=validate, command="mask", called="masked"
                )
            rows, zeros = looks.in_front(rows), mask_table.zeros(saved.model)
            said = _said((yaml_markers.masks_of(saved) or {})["pattern"], zeros)  # that of earlier masks as well
            said += f"\nquality was not measured: {looks.unseen}" if looks.unseen else ""
            called = moved_layers.names_of(parent.model).of
            repeat = following.again("mask", folder, command_line.written(request))
            report = Report(
                "mask",
                rows,
                {"pattern": request.zeros.pattern},
                verdict.of(rows, unseen=looks.unseen),
                looks.by_class,
                looks.images,
                zeros=zeros,
                frozen=[f"{why}: {', '.join(map(called, found))}" for why, found in _by_reason(layers).items()],
                repeat=repeat,
                versions=facts["versions"],
            )
            run_report.write_report(part, report)
    checkpoint.tidy(target)
    data = data or datasets.own(parent) or "..."
    step = following.typed("yoloprune finetune", imgsz, model=target, data=data)
    console.conclude("mask: ", text_table.closing(said, rows, [target, folder / run_report.HTML], step))
    return MaskResult(saving.load(target), target, rows, zeros)


def _row(name: str, yolo: ultralytics.YOLO, imgsz: int) -> dict[str, Any]:
    """How large a model is, and how many of its parameters are not zero."""
    size = evaluation.measure(yolo.model, imgsz)
    nonzero = sum(int((p != 0).sum()) for p in yolo.model.parameters())
    return {"model": name, "params": size.pop("params"), "nonzero": nonzero, **size}


def _said(pattern: str, zeros: list[dict[str, Any]]) -> str:
    """What is zero, in words."""
    zero, count = (sum(row[key] for row in zeros) for key in ("zeros", "weights"))
    mask_table.warn_of_empty(zeros, "mask")
    return f"pattern {pattern}: {zero:,} of {count:,} weights in {len(zeros)} layers are zero ({zero / count:.1%})"


def _by_reason(layers: Mapping[str, str | None]) -> dict[str, list[str]]:
    """Layers that are not masked, by why."""
    found: dict[str, list[str]] = {}
    for name, why in layers.items():
        if why is not None:
            found.setdefault(why, []).append(name)
    return found


def _require_saved(child: ultralytics.YOLO, saved: ultralytics.YOLO, pattern: str, names: list[str]) -> None:
    """Raise VerifyError unless a checkpoint, loaded again, holds what was masked, in the pattern that was asked for."""
    meant, theirs = saving.half(child.model).state_dict(), saved.model.state_dict()
    if wrong := [k for k, v in meant.items() if k not in theirs or not v.float().equal(theirs[k].float())]:
        raise VerifyError(f"The checkpoint does not hold what was masked: {wrong[0]} differs.")
    if (numbers := n_of_m(pattern)) is None:
        return
    weights = {name: saved.model.get_submodule(name).weight for name in names}
    if broken := next((name for name, w in weights.items() if not masks.is_n_of_m(w, *numbers)), None):
        raise VerifyError(f"{moved_layers.names_of(child.model).of(broken)} is not {pattern} along its input channels.")
