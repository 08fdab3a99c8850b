"""What the rounds of a `slim` share: what they came to so far, and how a round is asked for and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune.backend import class_rows, yolo_tracing
from yoloprune.commands import following, slim_reach
from yoloprune.commands.slim_stages import Done, Stage
from yoloprune.commands.slim_work import Work
from yoloprune.planning.cost import Cost
from yoloprune.reporting import text_table


@dataclass
class Outcome:
    """What the rounds came to.

    Attributes:
        parent (Stage): What drops are counted from: the model, or what training made of it first.
        pruned (Stage | None): The last cut that was kept; None where none was.
        tuned (Stage | None): What fine-tuning made of it.
        rounds (list[dict]): One row per round, for the report.
        said (list[str]): What is to be told at the end.
    """

    parent: Stage
    pruned: Stage | None = None
    tuned: Stage | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def final(self) -> Stage:
        """The model that is shipped: fine-tuned, or as it was cut where fine-tuning only took from it."""
        if self.tuned is None or self.pruned is None:
            return self.parent
        key = text_table.headline(self.tuned.row)
        before, after = (stage.row.get(key) for stage in (self.pruned, self.tuned))
        return (
            self.pruned if before is not None and after is not None and after < before - following.NOISE else self.tuned
        )

    @property
    def worsened(self) -> bool:
        """Whether fine-tuning took from the cut model, which is shipped therefore."""
        return self.pruned is not None and self.final is self.pruned


def fractions(work: Work, model: Path, budgets: Mapping[str, Any]) -> dict[str, float]:
    """Budgets as fractions of what a model has with the classes that stay."""
    if not any(v >= 1 for k, v in budgets.items() if k != "latency"):
        return dict(budgets)
    network = ultralytics.YOLO(model).model
    if (classes := work.request.classes) is not None:
        network = class_rows.only(network, class_rows.chosen(network, classes))
    return slim_reach.fractions(budgets, Cost(yolo_tracing.trace_yolo(network, imgsz=work.imgsz, keep=())))


def left_of(before: Mapping[str, float], pruned: Stage) -> dict[str, float]:
    """Fractions of the first parent after one more cut."""
    return {k: v * pruned.kept.get(k, 1.0) for k, v in before.items()}


def row_of(number: int, found: Outcome, left: Mapping[str, float]) -> dict[str, Any]:
    """One round for the report."""
    shown = {k: round(left[k], 4) for k in ("flops", "params")}
    return {"round": number, **shown, **found.final.row, "folder": found.final.folder.name}


def cutting(work: Work, before: Stage, budgets: Mapping[str, Any]) -> Callable[[Path], Done]:
    def cut(part: Path) -> Done:
        return work.prune(part, before, budgets)

    return cut


def tuning(work: Work, pruned: Stage, epochs: int) -> Callable[[Path], Done]:
    def tune(part: Path) -> Done:
        return work.finetune(part, pruned, epochs)

    return tune
