"""What to type next, ready to paste: by what a command made, and by how good that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune import shell_words
from yoloprune.backend import found_labels, model_builder, run_folders, yaml_markers
from yoloprune.commands import image_side
from yoloprune.native import candidates
from yoloprune.reporting import text_table
from yoloprune.reporting.text_table import headline
from yoloprune.reporting.verdict import BLIND, LITTLE, MUCH
from yoloprune.runtimes.deployment import Deployment
from yoloprune.runtimes.registry import TORCH
from yoloprune.settings import command_line, keys
from yoloprune.settings.commands import COMMANDS
from yoloprune.settings.requests import PruneRequest
from yoloprune.settings.slim_request import SlimRequest
from yoloprune.settings.trial_requests import SweepRequest
from yoloprune.settings.value_kinds import as_typed

Row = Mapping[str, Any]

TRAIN_FIRST = "train it first, or check that data= is what it was trained on"
"""What to do with a parent that finds next to nothing."""

AS_BEFORE = (
    *("batch", "nbs", "workers", "device", "seed", "cache", "amp", "fraction", "freeze", "single_cls"),
    *("distill_model", "dis", "quantize"),  # of which not every release has all
)
"""What a training that is done again takes as it was given."""

UNFINISHED = ".unfinished"
"""End of the name of a folder in which a stage of `slim` is being done."""

ANEW = "again"
"""Name under which a finished run is done again."""

NOISE = 0.005
"""By so much two runs differ that differ in nothing that counts."""


def typed(words: str, imgsz: Any = None, **told: Any) -> str:
    """A command with its keys; those that are None are left out. The side of the image is said where it is known: what
    is taken without it is not Ultralytics' default, but the side that a model was trained at.
    """
    return " ".join([words, *map(shell_words.quoted, command_line.pairs({**told, "imgsz": imgsz}))])


def again(command: str, folder: Path, words: str | None) -> list[str]:
    """What does a run again, from any folder: by the args.yaml in its own, and the command as it was typed if known."""
    if folder.name.endswith(UNFINISHED):  # a stage of a run, which is done again as a whole
        return [
            f"yoloprune slim {shell_words.quoted(f'cfg={(folder.parent / run_folders.ARGS).absolute()}')} name={ANEW}"
        ]
    by_file = f"yoloprune {command} {shell_words.quoted(f'cfg={(folder / run_folders.ARGS).absolute()}')}"
    return [by_file, *([words] if words and command_line.is_whole(words) else [])]


def without_next(said: str) -> str:
    """What a stage says but for the command that would come after it, which ends what is said: the next stage does."""
    lines = said.split("\n")
    return "\n".join(lines[: next((i for i, line in enumerate(lines) if line.startswith("next: ")), len(lines))])


def _predicted(export: Any, imgsz: int) -> str:
    """Use what was exported."""
    return f"yolo predict {shell_words.quoted(f'model={export}')} imgsz={imgsz} source=..."


def exported(file: Any, imgsz: Any, how: Deployment | None = None) -> str:
    """Export a model that is good enough, in the way in which it was timed."""
    timed = {} if how is None or how.format == TORCH else {"format": how.format, **how.arguments}
    words = map(shell_words.quoted, command_line.pairs(timed or {"format": "onnx"}))
    return " ".join([typed("yolo export", imgsz, model=file), *words])


def after_prune(
    models: tuple[ultralytics.YOLO, ultralytics.YOLO],
    request: PruneRequest,
    file: Path,
    choice: candidates.Choice,
    rows: Sequence[Row],
    *,
    data: Any,
    imgsz: int,
    unrepaired: bool,
) -> str:
    """Fine-tune; where nothing is left of what the model found, look how far a cut may go, or train that first.

    Args:
        models (tuple[YOLO, YOLO]): The parent and what was cut.
        request (PruneRequest): What was asked for.
        file (Path): The cut model.
        choice (Choice): Which widths it has.
        rows (Sequence[Row]): How good both are, where that is known.
        data (Any): The data set, None where there is none.
        imgsz (int): Side of the images.
        unrepaired (bool): Whether nothing was fitted to what is left of the weights, so that they have further to go.
    """
    parent, child = models
    source, images = request.model, request.images if child.task in found_labels.TASKS else None
    if (family := yaml_markers.untrainable(child.model)) is not None:
        return f"{typed('yolo val', imgsz, model=file)}\n      (pruned {family} models cannot be trained)"
    epochs = _epochs_of_a_sparse_run(parent)
    where = {"data": data or "..."} if images is None else {"images": images}
    told = {"model": file, **where, "epochs": epochs, "lr0": 0.002 if unrepaired else None}
    tune = typed("yoloprune finetune", imgsz, **told)
    key = headline(rows[0])
    had, has = rows[0].get(key), rows[-1].get(key)
    if had is not None and has is not None and isinstance(source, (str, Path)):
        if had < BLIND:
            train = "yolo train" if yaml_markers.entry_of(parent) is None else "yoloprune finetune"
            why = f"the parent itself has {key} {had:.4f}: {TRAIN_FIRST}"
            return f"{typed(train, imgsz, model=source, data=data)}\n      ({why})"
        look = typed("yoloprune sweep", imgsz, model=source, data=data)
        if has < BLIND:
            return f"{look}\n      (nothing is left to train on from: it tells how far a cut may go)"
        if 100 * (has - had) <= -MUCH:  # trainings bring most of it back
            shared = _with_the_image(request, *image_side.own_side(parent))
            return f"{tune}\n      (how far a cut may go: {look}){shared}"
    if choice.described is None:
        return tune
    since = f", from Ultralytics {model_builder.TAKES_OVER} on" if choice.described.carried else ""
    return f"{tune}\n      (stock 'yolo train' keeps the widths as well{since})"


def _with_the_image(request: PruneRequest | SlimRequest, own: int, stride: int) -> str:
    """A line with the same command and a side of the image that takes its share; empty where there is none."""
    if (shared := image_side.left_open(request, own, stride)) is None:
        return ""
    return f"\n      (less may be lost where the image takes its share: {command_line.written(shared)})"


def _epochs_of_a_sparse_run(yolo: ultralytics.YOLO) -> int | None:
    """What a fine-tuning takes after it; of a model that was trained otherwise nothing can be said."""
    found = (yolo.ckpt or {}).get("train_args") or {}
    return found.get("epochs") if yaml_markers.STATE_KEY in (yolo.model.yaml or {}) else None


def after_training(folder: Path, best: Path, start: Row, end: Row) -> str:
    """Export; where a fine-tuning ended below its start or finds next to nothing, train longer.

    Args:
        folder (Path): Of the run, whose args.yaml says how it was trained.
        best (Path): What it left.
        start (Row): How good the model was before, empty where that is not known.
        end (Row): How good it is.
    """
    args = run_folders.read_yaml(folder / run_folders.ARGS) if (folder / run_folders.ARGS).is_file() else {}
    key = headline(end)
    fell = start.get(key) is not None and end.get(key, 0) < start[key] - NOISE
    if not key or not args.get("model") or not (fell or end[key] < BLIND):
        return exported(best, args.get("imgsz"))
    told: dict[str, Any] = {"model": args["model"] if fell else best, "data": args.get("data")}
    told["epochs"] = 2 * int(args.get("epochs") or keys.host_defaults()["epochs"])
    told |= {k: args[k] for k in AS_BEFORE if args.get(k) not in (None, _defaults().get(k))}
    if args.get("time"):  # of which Ultralytics makes epochs, whatever is said
        told["time"] = 2 * args["time"]
    if fell and args.get("optimizer") not in (None, "auto") and args.get("lr0"):  # which chooses its own rate
        told |= {"optimizer": args["optimizer"], "lr0": args["lr0"] / 2}
    if fell:
        told |= args.get("finetune") or {}  # of which zeros are to become more
    return typed("yoloprune finetune", args.get("imgsz"), **told)


def _defaults() -> dict[str, Any]:
    """Ultralytics' arguments where nobody gives them to a fine-tuning."""
    return {**keys.host_defaults(), **COMMANDS["finetune"].own_defaults}


def after_slim(
    request: SlimRequest, rows: Sequence[Row], file: Path, export: Path | None, imgsz: int, enough: int = 0
) -> str:
    """Predict with what was exported, or export; where much was lost, or fine-tuning took from what the cut had and
    that is shipped, the same with twice the epochs, and with `enough` at least.
    """
    first, last = text_table.ends(rows)
    worsened = last["model"] == "pruned" and any(row["model"] == "fine-tuned" for row in rows)
    key = headline(last)
    if key and last.get(key) is not None:
        lost = 100 * (first[key] - last[key]) if first.get(key) is not None else 0.0
        if last[key] < BLIND or lost > LITTLE or worsened:
            more = max(2 * request.epochs, enough)
            hours = {k: v * more / request.epochs for k, v in request.passed.items() if k == "time" and v}
            request = replace(request, passed={**request.passed, "exist_ok": None})  # this run keeps its folder
            longer = replace(request, passed={**request.passed, "epochs": more, **hours})
            too_few = "\n      (in fewer epochs channels have no time to fade)" if enough > 2 * request.epochs else ""
            is_own = lost > LITTLE and request.passed.get("imgsz") is None  # the side that the parent was trained at
            shared = _with_the_image(request, imgsz, image_side.STRIDE) if is_own else ""
            return f"{command_line.written(longer)}{too_few}{shared}"
    if export is not None:
        return _predicted(export, imgsz)
    return f"yolo export {shell_words.quoted(f'model={file}')} imgsz={imgsz} format=onnx"


def after_comparing(
    yolo: ultralytics.YOLO,
    rows: Sequence[Row],
    row: Row,
    *,
    data: Any,
    imgsz: int,
    export: tuple[str, int] | None = None,
    how: Deployment | None = None,
) -> str | None:
    """Export the last model, or predict with an export that is there; where it is far below the best one, train it on.

    Args:
        yolo (YOLO): The last checkpoint.
        rows (Sequence[Row]): Of all models.
        row (Row): Of that one.
        data (Any): The data set.
        imgsz (int): Its side of the images.
        export (tuple[str, int] | None): The last one that is an export, and its side; None where none is.
        how (Deployment | None): How checkpoints were timed.
    """
    file, key = getattr(yolo, "ckpt_path", None), headline(row)
    if not file or len(rows) < 2:
        return None
    best = max((found for r in rows if (found := r.get(key)) is not None), default=0.0)
    if key and row[key] > max(BLIND, best - MUCH / 100):
        return exported(file, imgsz, how) if export is None else _predicted(*export)
    pruned = yaml_markers.entry_of(yolo) is not None
    return typed("yoloprune finetune", imgsz, model=file, data=data) if pruned else None


def after_sweep(request: SweepRequest, passed: Mapping[str, Any], budget: str | None) -> str | None:
    """The cut or mask that a sweep recommends, as it was made in it."""
    if budget is None:
        return None
    target = "prune" if request.masks is None else "mask"
    same = command_line.taken(target, command_line.changed(request))
    for key in (request.kind, "threads"):  # that said what was tried, and how it was timed
        same.pop(key, None)
    if same.get("pattern") == "unstructured":  # which a mask is anyway
        del same["pattern"]
    given = command_line.pairs({"model": run_folders.rooted(as_typed(request.model)), "data": passed["data"]})
    same = {**{key: passed.get(key) for key in ("imgsz", "seed", "device")}, **same}  # which draw and see the images
    words = (*given, budget, *command_line.pairs(same))
    return f"yoloprune {target} {' '.join(map(shell_words.quoted, words))}"
