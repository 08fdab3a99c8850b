"""The smallest network that holds a drop of mAP: cuts of one size, which is halved where the drop was not held."""

from __future__ import annotations

from collections.abc import Sequence

from yoloprune.backend import console
from yoloprune.commands import following, sweep_table
from yoloprune.commands.slim_course import Outcome, cutting, fractions, left_of, row_of, tuning
from yoloprune.commands.slim_reach import TIGHT
from yoloprune.commands.slim_stages import Stage, Stages
from yoloprune.commands.slim_work import Work
from yoloprune.errors import ArgumentError, BudgetError, DataError
from yoloprune.planning import paired_bootstrap
from yoloprune.reporting import text_table
from yoloprune.reporting.verdict import BLIND
from yoloprune.settings.slim_request import SlimRequest

FIRST_STEP, SMALLEST_STEP = 0.3, 0.03
"""Share of what is left that a search takes away at first, and below which it is over."""


def run(stages: Stages, work: Work, found: Outcome, epochs: Sequence[int]) -> Outcome:
    """Go on from what holds the drop with steps of one size, and back off to half of it where it does not."""
    request = work.request
    _require_drop(found.parent, request)
    (kind, end), *_ = [*fractions(work, found.parent.file, request.budgets).items(), ("flops", 0.0)]
    seen, end = ("channels", 1 - end) if kind == "ratio" else (kind, end)
    everything = dict.fromkeys(("flops", "params", "channels", "latency"), 1.0)
    left, model, step = everything, found.parent, FIRST_STEP
    lengths = [*epochs]
    while lengths and step >= SMALLEST_STEP and left[seen] * TIGHT > end:
        fraction = max(1 - step, end / left[seen])
        budgets = {kind: round(1 - fraction if kind == "ratio" else fraction, 6)}
        try:
            pruned = stages.run("prune", cutting(work, model, budgets))
        except BudgetError as e:
            stages.skip()
            console.log("slim: ", f"{fraction:.0%} of what is left is out of reach: {e}")
            step /= 2
            continue
        tuned = stages.run("finetune", tuning(work, pruned, lengths.pop(0)))
        this, tried = Outcome(found.parent, pruned, tuned), left_of(left, pruned)
        held, told = holds(found.parent, this.final, request)
        found.rounds.append({**row_of(len(found.rounds) + 1, this, tried), "held": held})
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


def holds(parent: Stage, tuned: Stage, request: SlimRequest) -> tuple[bool, str]:
    """Whether a network lost no more than it may, and that in words."""
    assert request.max_drop is not None
    key = text_table.headline(parent.row)
    most = sweep_table.may_lose(request.max_drop, parent.row[key])
    drop = 100 * (parent.row[key] - tuned.row[key])
    where = f"{abs(drop):.2f} points {'below' if drop >= 0 else 'above'} the parent's"
    told = f"{key} {tuned.row[key]:.4f}, {where}"
    if request.confidence is None:
        return drop <= most + 1e-9, told
    interval = paired_bootstrap.between(
        parent.found, tuned.found, (parent.row[key], tuned.row[key]), request.confidence
    )
    if interval is None:
        raise ArgumentError(
            f"confidence={request.confidence:g}: there is no interval, because the two were not validated on the same "
            "images. Give another name=, without confidence="
        )
    return -interval.low <= most + 1e-9, f"{told} ({interval})"


def _require_drop(parent: Stage, request: SlimRequest) -> None:
    """Look at the parent before the first cut.

    Raises:
        BudgetError: If it finds next to nothing, or no more than may be lost.
        DataError: If its images are too few for an interval that is asked for.
    """
    assert request.max_drop is not None
    key = text_table.headline(parent.row)
    if (had := parent.row[key]) < BLIND or 100 * had <= request.max_drop:
        raise BudgetError(
            f"max_drop={request.max_drop:g}: the parent itself has {key} {had:.4f}, of which nothing can be held: "
            f"{following.TRAIN_FIRST}"
        )
    if request.confidence is not None and parent.found is not None and parent.found.count < paired_bootstrap.FEWEST:
        raise DataError(
            f"confidence={request.confidence:g}: of {parent.found.count} validation images there is no interval, it "
            f"takes {paired_bootstrap.FEWEST} at least. Leave confidence= out"
        )
    if (most := sweep_table.may_lose(request.max_drop, had)) < request.max_drop:
        console.warn(f"slim: the parent has {key} {had:.4f}, so at most {most:.2f} points are taken from it")
