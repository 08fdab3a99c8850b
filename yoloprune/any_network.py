"""Pruning of any `torch.nn.Module`, not only of Ultralytics' models."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from yoloprune import budget, handoff, host, proof, scoring, surgery, tracing
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.limits import Budget, Limits
from yoloprune.plans import Plan

DEFAULT_LIMITS = Limits()


def prune_module(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    wanted: Budget,
    limits: Limits = DEFAULT_LIMITS,
    *,
    score: str = "l1",
    normalize: str = "mean",
    outputs: bool = False,
) -> tuple[nn.Module, Plan]:
    """Prune any network, not only Ultralytics' own.

    Args:
        model (nn.Module): The parent, stays untouched.
        example (Tensor | tuple): Input, e.g. shape (1, 3, 224, 224); FLOPs are those at this size.
        wanted (Budget): What may remain; an empty one stands for all but the dead channels.
        limits (Limits): Rounding, floors, ceilings, and `keep`.
        score (str): Criterion, see `scoring.score`.
        normalize (str): "none", "mean" or "max" of the group, or "cost".
        outputs (bool): Whether the network's outputs may lose channels.

    Returns:
        (tuple[nn.Module, Plan]): The smaller network and what was cut.

    Raises:
        ArgumentError: If the limits ask for native widths, or an argument is of another type.
        BudgetError: If the budget is out of reach, or leaves nothing to cut.
        VerifyError: If the cut model does not compute what its masked parent computes.
    """
    if limits.native:
        raise ArgumentError("native=True: only models built from a model YAML have one. Use prune().")
    for name, value, kinds in (("wanted", wanted, (Budget,)), ("example", example, (Tensor, tuple))):
        if not isinstance(value, kinds):
            allowed = " or a ".join(kind.__name__ for kind in kinds)
            raise ArgumentError(f"{name}: must be a {allowed}. Received: {value!r}")
    graph = tracing.trace(model, example, keep=tracing.match(model, limits.keep), outputs=outputs)
    if wanted.empty:
        alive = budget.dead_only(graph, scoring.dead(model, graph))
    else:
        per_cost = normalize == "cost"
        scores = scoring.score(model, graph, score, normalize="none" if per_cost else normalize)
        alive = budget.select(graph, scores, wanted, limits, per_cost=per_cost)
    if alive.all():
        why = "no channel is dead" if wanted.empty else f"the network already meets {wanted}"
        raise BudgetError(f"There is nothing to cut: {why}.")
    plan = graph.plan(alive)
    child = surgery.cut(copy.deepcopy(model), plan)
    proof.prove(model, child, plan, example)
    if isinstance(child, host.BaseModel):  # Ultralytics would train the network of its YAML in silence
        handoff.mark_pruned(child, plan, handoff.make_provenance(None, {"score": score, "normalize": normalize}))
    return child, plan
