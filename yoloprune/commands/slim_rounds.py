"""How a `slim` goes: its trainings and cuts in their order, and how far each of several rounds cuts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from yoloprune.backend import console
from yoloprune.commands import slim_search
from yoloprune.commands.slim_course import Outcome, cutting, fractions, left_of, row_of, tuning
from yoloprune.commands.slim_reach import TIGHT
from yoloprune.commands.slim_stages import Stage, Stages
from yoloprune.commands.slim_work import Work


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
        return slim_search.run(stages, work, Outcome(parent), epochs)
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
    last = fractions(work, found.parent.file, request.budgets) if len(plan) > 1 else {}
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
        found.pruned = stages.run("prune", cutting(work, model, budgets))
        left = left_of(left, found.pruned)
        while rounds and not budgets_at(rounds[0][0], last, left):  # the cut went further than it had to
            waiting += passed_over()
        found.tuned = stages.run("finetune", tuning(work, found.pruned, waiting))
        model, waiting = found.final, 0
        found.rounds.append(row_of(len(found.rounds) + 1, found, left))
    return found


def _told(budgets: Mapping[str, Any]) -> str:
    """Budgets as they are typed, in few digits."""
    return ", ".join(f"{'sparsity' if key == 'ratio' else key}={value:.3g}" for key, value in budgets.items())
