"""A cut model as it is saved: in the rows of its YAML where that can say it, and looked at again afterwards."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import ultralytics

from yoloprune.backend import console
from yoloprune.checkpoint import saving
from yoloprune.cutting import comparison
from yoloprune.errors import PlanError, VerifyError
from yoloprune.native import candidates
from yoloprune.native.described import as_described
from yoloprune.planning.plan import Plan


def packed(
    cut: ultralytics.YOLO, choice: candidates.Choice, facts: Mapping[str, Any], *, insists: bool
) -> tuple[candidates.Choice, ultralytics.YOLO, saving.Checkpoint]:
    """What is saved, in the rows of its YAML; with the parent's where that was not asked for and is built otherwise."""
    try:
        child, layers = _in_rows(cut, choice)
        made = saving.pack(child, plan=choice.plan, provenance=facts, native=choice.yaml, layers=layers)
    except PlanError as e:
        if choice.described is None:
            raise
        if insists:
            raise PlanError(f"{e} Use native=False.") from e
        candidates.warn_of_free_widths(e)
        choice, child = choice.freed(), cut
        made = saving.pack(child, plan=choice.plan, provenance=facts)
    return choice, child, made


def _in_rows(child: ultralytics.YOLO, choice: candidates.Choice) -> tuple[ultralytics.YOLO, dict[str, list[str]]]:
    """The child in the rows of its YAML, and where the parent's modules went if some blocks became several rows."""
    if choice.described is None:
        return child, {}
    if unrolled := choice.described.unrolled:
        names = choice.graph.names
        told = ", ".join(f"{names.of(f'model.{layer}')} as {len(rows)}" for layer, rows in unrolled.items())
        console.log("prune: ", f"blocks written as several rows of the model YAML: {told} (names stay the parent's)")
    model = as_described(child.model, choice.described)
    if any(origin.sums is not None for origin in choice.described.origins):
        try:
            comparison.verify(child.model, model, Plan({}), choice.probe)
        except VerifyError as e:
            raise PlanError(f"The rows of the model YAML compute something else. ({e})") from e
    return saving.with_model(child, model), choice.described.modules()


def require_saved(child: ultralytics.YOLO, saved: ultralytics.YOLO, choice: candidates.Choice) -> None:
    """Raise VerifyError unless a checkpoint, loaded again, is the model that was saved, at half precision."""
    meant = saving.half(child.model)
    theirs = saved.model.state_dict()
    wrong = [k for k, v in meant.state_dict().items() if k not in theirs or not v.float().equal(theirs[k].float())]
    if wrong:
        raise VerifyError(f"The checkpoint does not hold what was proved: {wrong[0]} differs.")
    one = choice.probe.proving[0]
    comparison.compare(meant.float().eval(), copy.deepcopy(saved.model).float().eval(), Plan({}), one, training=False)
