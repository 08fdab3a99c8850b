"""How a `slim` goes: how far each round cuts, and a search for the smallest network that holds a drop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ultralytics

from yoloprune.backend import class_rows, console, yolo_tracing
from yoloprune.commands import following, slim_reach
from yoloprune.commands.slim_reach import TIGHT
from yoloprune.commands.slim_stages import Done, Stage, Stages
from yoloprune.commands.slim_work import Work
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.planning import paired_bootstrap
from yoloprune.planning.cost import Cost
from yoloprune.reporting import text_table
from yoloprune.settings.slim_request import SlimRequest

FIRST_STEP, SMALLEST_STEP = 0.3, 0.03
"""Share of what is left that a search takes away at first, and below which it is over."""


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


def follow(stages: Stages, work: Work, parent: Stage, chosen: str) -> Outcome:
    """Run the stages of a way.

    Raises:
        BudgetError: If a budget is out of reach.
    """
    epochs = work.request.trainings(chosen)
    if chosen == "sparse":
        first, last = epochs
        faded = stages.run("train-sparse", lambda part: work.train_sparse(part, parent.file, first))
        pruned = stages.run("prune", lambda part: work.prune(part, faded, {}))
        tuned = stages.run("finetune", lambda part: work.finetune(part, pruned, last))
        return Outcome(parent, pruned, tuned)
    if chosen == "train":
        (first, *epochs), start = epochs, parent.file
        parent = stages.run("train", lambda part: work.train(part, start, first))
    if work.request.max_drop is not None:
        return _searched(stages, work, Outcome(parent), epochs)
    return _stepped(stages, work, Outcome(parent), epochs)


def shares(rounds: int, schedule: str) -> list[float]:
    """How much of the whole cut is done after each round; the last is 1.

    Args:
        rounds (int): At least 1.
        schedule (str): "even", or "cubic": 1 - (1 - t)^3 (Zhu and Gupta 2017, arXiv 1710.01878, equation 1).
    """
    times = [(i + 1) / rounds for i in range(rounds)]
    return times if schedule == "even" else [1 - (1 - t) ** 3 for t in times]


def budgets_at(share: float, last: Mapping[str, float], left: Mapping[str, float]) -> dict[str, Any]:
    """Budgets of a round by the keys of `prune`, which counts from the model that it is given.

    Args:
        share (float): How much of the whole cut is to be done.
        last (Mapping[str, float]): Fractions of the parent that are wanted in the end; of "ratio" what goes.
        left (Mapping[str, float]): Fractions of the parent that the model of this round has.
    """
    found = {}
    for key, value in last.items():
        kept = 1 - share * (value if key == "ratio" else 1 - value)
        fraction = kept / left["channels" if key == "ratio" else key]
        if fraction < TIGHT:
            found[key] = round(1 - fraction if key == "ratio" else fraction, 6)
    return found


def _stepped(stages: Stages, work: Work, found: Outcome, epochs: Sequence[int]) -> Outcome:
    """Cut to the budgets in one round or several, and fine-tune after each."""
    request = work.request
    plan = shares(request.rounds, request.schedule)
    last = _fractions(work, found.parent.file, request.budgets) if len(plan) > 1 else {}
    left, model = dict.fromkeys(("flops", "params", "channels", "latency"), 1.0), found.parent
    rounds, waiting = deque(zip(plan, epochs, strict=True)), 0

    def passed_over() -> int:
        """The epochs of the next round, which has too little to cut for a cut of its own."""
        stages.total -= 2
        return rounds.popleft()[1]

    while rounds:
        budgets = budgets_at(rounds[0][0], last, left) if len(plan) > 1 else dict(request.budgets)
        if not budgets:
            waiting += passed_over()
            continue
        waiting += rounds.popleft()[1]
        if len(plan) > 1:
            at = f"round {len(plan) - len(rounds)} of {len(plan)}"
            console.log("slim: ", f"{at}: {_told(budgets)} of what {model.folder.name} left")
        found.pruned = stages.run("prune", _cut(work, model, budgets))
        left = _left(left, found.pruned)
        while rounds and not budgets_at(rounds[0][0], last, left):  # the cut went further than it had to
            waiting += passed_over()
        found.tuned = stages.run("finetune", _tune(work, found.pruned, waiting))
        model, waiting = found.final, 0
        found.rounds.append(_row(len(found.rounds) + 1, found, left))
    return found


def _searched(stages: Stages, work: Work, found: Outcome, epochs: Sequence[int]) -> Outcome:
    """Go on from what holds the drop with steps of one size, and back off to half of it where it does not."""
    request = work.request
    (kind, end), *_ = [*_fractions(work, found.parent.file, request.budgets).items(), ("flops", 0.0)]
    seen, end = ("channels", 1 - end) if kind == "ratio" else (kind, end)
    everything = dict.fromkeys(("flops", "params", "channels", "latency"), 1.0)
    left, model, step = everything, found.parent, FIRST_STEP
    lengths = [*epochs]
    while lengths and step >= SMALLEST_STEP and left[seen] * TIGHT > end:
        fraction = max(1 - step, end / left[seen])
        budgets = {kind: round(1 - fraction if kind == "ratio" else fraction, 6)}
        try:
            pruned = stages.run("prune", _cut(work, model, budgets))
        except BudgetError as e:
            stages.skip()
            console.log("slim: ", f"{fraction:.0%} of what is left is out of reach: {e}")
            step /= 2
            continue
        tuned = stages.run("finetune", _tune(work, pruned, lengths.pop(0)))
        this, tried = Outcome(found.parent, pruned, tuned), _left(left, pruned)
        held, told = _holds(found.parent, this.final, request)
        found.rounds.append({**_row(len(found.rounds) + 1, this, tried), "held": held})
        console.log("slim: ", f"{told}: {'held' if held else f'more than max_drop={request.max_drop:g}'}")
        if held:
            found.pruned, found.tuned, left, model = pruned, tuned, tried, this.final
        else:
            step /= 2
    reached = f"{left['flops']:.0%} of the FLOPs hold max_drop={request.max_drop:g}"
    none = f"no cut held max_drop={request.max_drop:g}"
    why = "that is the budget" if left[seen] * TIGHT <= end else _why(lengths)
    found.said.append(f"{none if found.tuned is None else reached}; {why}")
    return found


def _why(lengths: Sequence[int]) -> str:
    """Why a search is over that did not come to its budget."""
    if not lengths:
        return "the epochs are over, and more of them may take it further"
    return "smaller steps are not worth a round"


def _holds(parent: Stage, tuned: Stage, request: SlimRequest) -> tuple[bool, str]:
    """Whether a network lost no more than it may, and that in words."""
    assert request.max_drop is not None
    key = text_table.headline(parent.row)
    drop = 100 * (parent.row[key] - tuned.row[key])
    where = f"{abs(drop):.2f} points {'below' if drop >= 0 else 'above'} the parent's"
    told = f"{key} {tuned.row[key]:.4f}, {where}"
    if request.confidence is None:
        return drop <= request.max_drop + 1e-9, told
    interval = paired_bootstrap.between(
        parent.found, tuned.found, (parent.row[key], tuned.row[key]), request.confidence
    )
    if interval is None:
        raise ArgumentError(
            f"confidence={request.confidence:g}: there is no interval, because the two were not validated on the same "
            "images. Give another name=, without confidence="
        )
    return -interval.low <= request.max_drop + 1e-9, f"{told} ({interval})"


def _fractions(work: Work, model: Path, budgets: Mapping[str, Any]) -> dict[str, float]:
    """Budgets as fractions of what a model has with the classes that stay."""
    if not any(v >= 1 for k, v in budgets.items() if k != "latency"):
        return dict(budgets)
    network = ultralytics.YOLO(model).model
    if (classes := work.request.classes) is not None:
        network = class_rows.only(network, class_rows.chosen(network, classes))
    return slim_reach.fractions(budgets, Cost(yolo_tracing.trace_yolo(network, imgsz=work.imgsz, keep=())))


def _told(budgets: Mapping[str, Any]) -> str:
    """Budgets as they are typed, in few digits."""
    return ", ".join(f"{'sparsity' if key == 'ratio' else key}={value:.3g}" for key, value in budgets.items())


def _left(before: Mapping[str, float], pruned: Stage) -> dict[str, float]:
    """Fractions of the first parent after one more cut."""
    return {k: v * pruned.kept.get(k, 1.0) for k, v in before.items()}


def _row(number: int, found: Outcome, left: Mapping[str, float]) -> dict[str, Any]:
    """One round for the report."""
    shown = {k: round(left[k], 4) for k in ("flops", "params")}
    return {"round": number, **shown, **found.final.row, "folder": found.final.folder.name}


def _cut(work: Work, before: Stage, budgets: Mapping[str, Any]) -> Callable[[Path], Done]:
    def cut(part: Path) -> Done:
        return work.prune(part, before, budgets)

    return cut


def _tune(work: Work, pruned: Stage, epochs: int) -> Callable[[Path], Done]:
    def tune(part: Path) -> Done:
        return work.finetune(part, pruned, epochs)

    return tune
