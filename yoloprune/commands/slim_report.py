"""What a `slim` came to: its page, and the words that it ends with, also where it is asked for again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune import csv_rows
from yoloprune.backend import class_labels, console, evaluation, run_folders, yaml_markers
from yoloprune.checkpoint import provenance, saving
from yoloprune.commands import following, side_by_side, slim_layers
from yoloprune.commands.slim_course import Outcome
from yoloprune.commands.slim_earlier import FACTS, FREE, changed_since, digest
from yoloprune.commands.slim_stages import Stage
from yoloprune.commands.slim_work import Work, of_classes
from yoloprune.planning.paired_bootstrap import Interval
from yoloprune.reporting import run_report, text_table, verdict
from yoloprune.reporting.facts import Report
from yoloprune.settings import command_line, keys
from yoloprune.settings.slim_request import SlimRequest
from yoloprune.settings.sparse_config import SparseConfig
from yoloprune.settings.value_kinds import as_typed
from yoloprune.sparse import callback

SHIPPED = Path("weights", "best.pt")
WORSENED = "fine-tuning took from what the cut had, which is shipped as it is in {}; more epochs= may turn that"
"""Told where the cut model is better than what was trained from it."""


@dataclass(frozen=True)
class SlimResult:
    """What a `slim` came to.

    Attributes:
        model (YOLO): The model that is shipped, with this object as its `figures`.
        file (Path): `<run>/weights/best.pt`.
        exported (Path | None): What `format=` asked for.
        way (str): "prune", "sparse" or "train".
        rows (list[dict]): The printed table: parent, pruned, fine-tuned, exported.
        rounds (list[dict]): One row per round of cutting and fine-tuning, where there were several.
        difference (Interval | None): mAP50-95 of the model less that of the parent, None where that is not known.
        next_step (str): What to type now.
    """

    model: ultralytics.YOLO
    file: Path
    exported: Path | None
    way: str
    rows: list[dict[str, Any]]
    rounds: list[dict[str, Any]]
    difference: Interval | None
    next_step: str

    def __repr__(self) -> str:
        """The table, and the next command."""
        return text_table.closing("", self.rows, [self.file], self.next_step).lstrip()


def write(
    work: Work,
    request: SlimRequest,
    folder: Path,
    rows: list[dict[str, Any]],
    facts: Mapping[str, Any],
    shown: Sequence[Stage],
    found: Outcome,
    known: ultralytics.YOLO | None,
) -> None:
    """Write the page and its data.

    Args:
        work (Work): What the stages did.
        request (SlimRequest): What was asked for.
        folder (Path): Of the run.
        rows (list[dict]): The table.
        facts (Mapping[str, Any]): What else goes to report.json.
        shown (Sequence[Stage]): Those of the table.
        found (Outcome): What the rounds came to.
        known (YOLO | None): The model before, with the classes that stay, where it knows those of the data.
    """
    layers = _layers(work, found)
    drawn = ("results.png",) if layers else ("widths.png", "results.png")  # the network is drawn from its layers
    pictures = [p for s in shown for name in drawn if (p := s.folder / name).is_file()]
    looks = _looks(work, shown[0], found, known)
    anew = replace(request, passed={**request.passed, "name": following.ANEW, "exist_ok": None})
    by_file, *typed = following.again("slim", folder, command_line.written(anew))
    report = Report(
        "slim",
        rows,
        facts,
        verdict.of(
            text_table.ends(rows), trained=found.tuned is not None and not found.worsened, interval=_interval(facts)
        ),
        looks.by_class,
        looks.images,
        layers,
        repeat=[f"{by_file} name={following.ANEW}", *typed],
        versions=provenance.versions(),
        notes=_told(request, rows, facts),
        pages={name: f"{name}/{run_report.HTML}" for name in facts["stages"] if _has_page(folder / name)},
    )
    run_report.write_report(folder, report, pictures)


def _interval(facts: Mapping[str, Any]) -> Interval | None:
    return None if facts["difference"] is None else Interval(**facts["difference"])


def _told(request: SlimRequest, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> list[str]:
    """What stands below the table: what happened on the way, whether budgets hold, how sure the difference is."""
    difference = _interval(facts)
    before = "trained" if any(row["model"] == "trained" for row in rows) else "parent"
    held = [] if difference is None else [f"mAP50-95 beside {before}: {difference}"]
    return [*facts["said"], *_budgets(request, rows), *held]


def _budgets(request: SlimRequest, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How far the model that is shipped keeps the budgets, by the figures of the table.

    That of channels is not in the table; those of FLOPs and of weights are proved where it is cut.
    """
    first, last = text_table.ends(rows)
    column = next((k for k in last if k.startswith("ms ") and first.get(k)), "ms")
    said = []
    for kind, figure in (("flops", "GFLOPs"), ("params", "params"), ("latency", column)):
        wanted = request.budgets.get(kind)
        if wanted is None or request.max_drop is not None or not first.get(figure) or last.get(figure) is None:
            continue
        share = last[figure] / first[figure]
        typed = as_typed(wanted)
        absolute = not isinstance(wanted, (int, float)) or wanted > 1
        beside = f"{text_table.cell(last[figure])} {figure}" if absolute else f"{share:.3f} of the parent's {figure}"
        said.append(f"{kind}={typed}: {beside}")
    return said


def _layers(work: Work, found: Outcome) -> Sequence[Mapping[str, Any]]:
    """Where channels, FLOPs and time went: from the page of the only cut, or by layers of the model before several."""
    if found.pruned is None:
        return ()
    if len(found.rounds) > 1:
        models = saving.load(found.parent.file), saving.load(found.final.file)
        return slim_layers.over_rounds(*models, work.imgsz, evaluation.device(work.request.passed.get("device")))
    told = json.loads((found.pruned.folder / run_report.JSON).read_text(encoding="utf-8"))
    layers: list[Mapping[str, Any]] = told["layers"]
    return layers


def _has_page(stage: Path) -> bool:
    return (stage / run_report.HTML).is_file()


def _looks(work: Work, first: Stage, found: Outcome, known: ultralytics.YOLO | None) -> side_by_side.Looks:
    """The model before and the one that is shipped by class, and what they find in the same images.

    The one before is the one that drops are counted from, where it knows the classes of the data.
    """
    before, after = found.parent, found.final
    if found.tuned is None or not of_classes(before)[0]:
        return side_by_side.Looks()
    name = "parent" if before.folder == first.folder else "trained"
    shipped = "pruned" if found.worsened else "fine-tuned"
    classes = side_by_side.by_class({name: of_classes(before), shipped: of_classes(after)})
    models = saving.load(before.file) if known is None or name == "trained" else known, saving.load(after.file)
    sides = work.side.parent if name == "parent" else work.imgsz, work.imgsz
    with class_labels.view(yaml_markers.kept_classes(models[1]), work.data) as seen:
        passed = {"data": seen, "device": work.request.passed.get("device")}
        return side_by_side.Looks(by_class=classes, images=side_by_side.shown(*models, passed, sides, "slim"))


def finished(request: SlimRequest, parent: ultralytics.YOLO, arguments: Mapping[str, Any]) -> Path | None:
    """The folder of the same run where it is over, None where there is none: of a live model nobody can tell.

    Args:
        request (SlimRequest): What was asked for.
        parent (YOLO): The model.
        arguments (Mapping): All that was asked for, `model` and `data` among it.
    """
    if not isinstance(request.model, (str, Path)):
        return None
    told = run_folders.as_written({"mode": "slim", **arguments})
    for folder in run_folders.earlier_runs(parent.task, "slim", request.passed):
        before = run_folders.read_yaml(folder / run_folders.ARGS)
        first = next(folder.glob(f"*-parent/{FACTS}"), None)
        if first is None or not (folder / run_report.JSON).is_file() or not (folder / SHIPPED).is_file():
            continue
        sha256 = Stage.read(first.parent).more.get("sha256")
        same = all(before.get(k) == told.get(k) for k in {*before, *told} - FREE) and not changed_since(folder, told)
        if same and (parent.ckpt_path is None or digest(Path(str(parent.ckpt_path))) == sha256):
            return folder.resolve()
    return None


def _enough(folder: Path) -> int:
    """Epochs of a run in whose half for sparse training channels can fade, 0 where there is no such half."""
    logs = [file for file in folder.glob(f"*/{callback.LOG}") if (file.parent / FACTS).is_file()]
    history = [row for file in logs for row in csv_rows.read_numbers(file)]
    return 2 * callback.epochs_enough(history[-1]["steps"] / len(history), SparseConfig) if history else 0


def concluded(request: SlimRequest, folder: Path) -> SlimResult:
    """Say what a finished run came to, and return it.

    Args:
        request (SlimRequest): What was asked for.
        folder (Path): Of the run.
    """
    told = json.loads((folder / run_report.JSON).read_text(encoding="utf-8"))
    rows, rounds = told["table"], told["rounds"]
    imgsz = told.get("imgsz") or request.passed.get("imgsz") or keys.host_defaults()["imgsz"]
    difference = None if told["difference"] is None else Interval(**told["difference"])
    exported = None if told["exported"] is None else Path(told["exported"]["file"])
    file, page = folder / SHIPPED, folder / run_report.HTML
    step = following.after_slim(request, rows, file, exported, imgsz, _enough(folder))
    console.conclude("slim: ", f"imgsz {imgsz}\n{text_table.table(text_table.with_change(rows))}")
    if len(rounds) > 1:
        console.conclude("slim: ", f"rounds\n{text_table.table(rounds)}")
    for said in told.get("notes", ()):
        console.conclude("slim: ", said)
    made = [file, *([exported] if exported else []), page]
    shipped = f"shipped is the {text_table.ends(rows)[1]['model']} model"
    console.conclude("slim: ", text_table.closing(f"{told['verdict']} {shipped}".strip(), [], made, step))
    model = saving.load(file)
    result = SlimResult(model, file, exported, told["way"], rows, rounds, difference, step)
    vars(model)["figures"] = result
    return result
