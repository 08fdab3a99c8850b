"""Pruning of any `torch.nn.Module`, not only of Ultralytics' models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.backend import compat, console
from yoloprune.checkpoint import saving
from yoloprune.cutting import comparison, proof, surgery
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.importance import criteria, dead_channels
from yoloprune.planning import greedy_selection
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import Example, Probe
from yoloprune.probing.survey import survey_around
from yoloprune.repair import constant_folding
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.requests import Criterion
from yoloprune.tracing import trace_network

DEFAULT_LIMITS = Limits()


@torch.inference_mode(False)
@torch.no_grad()
def prune_module(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    wanted: Budget,
    limits: Limits = DEFAULT_LIMITS,
    *,
    score: str = "l1",
    normalize: Literal["none", "mean", "max", "cost"] = "mean",
    outputs: bool = False,
    examples: Sequence[Any] = (),
) -> tuple[nn.Module, Plan]:
    """Prune any network, not only Ultralytics' own.

    Args:
        model (nn.Module): The parent, stays untouched.
        example (Tensor | tuple): Input, e.g. shape (1, 3, 224, 224), or all arguments of `forward` as a tuple; FLOPs
            are those at this size.
        wanted (Budget): What may remain; an empty one stands for all but the dead channels.
        limits (Limits): Rounding, floors, ceilings, and `keep`.
        score (str): Criterion, see `scoring.score`.
        normalize (str): "none", "mean" or "max" of the group, or "cost".
        outputs (bool): Whether the network's outputs may lose channels.
        examples (Sequence): Further inputs, on which the network takes other branches.

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
    Criterion(score, normalize=normalize)  # raises where there is no such word
    probe = survey_around(model, tuple(Example.of(one) for one in (example, *examples)))
    graph = trace_network.trace(model, probe, keep=trace_network.match(model, limits.keep), outputs=outputs)
    if wanted.empty:
        alive = _all_but_the_dead(model, graph, probe)
    else:
        per_cost = normalize == "cost"
        scores = criteria.score(model, graph, score, normalize="none" if normalize == "cost" else normalize)
        alive = greedy_selection.select(graph, scores, wanted, limits, per_cost=per_cost)
    if alive.all():
        raise BudgetError(f"There is nothing to cut: {_why_not(graph, wanted)}.")
    plan = graph.plan(alive)
    child = surgery.cut(copy.deepcopy(model), plan)
    proof.prove(model, child, plan, probe, outputs=outputs)
    if wanted.empty:
        folded = constant_folding.fold(model, child, plan, noise=_noise(probe))
        if folded.bordered:
            away = comparison.distance(model, child, probe.proving[0])
            console.warn(
                f"prune_module: dead channels emit constants, and {len(folded.bordered)} layers that read them pad "
                f"with zeros: near the border these cannot be moved exactly, and the outputs move by {away:.1%}"
            )
        else:
            comparison.verify(model, child, Plan({}), probe, outputs=outputs)
    if isinstance(child, compat.BaseModel):  # Ultralytics would train the network of its YAML in silence
        saving.mark_pruned(child, plan, saving.make_provenance(None, {"score": score, "normalize": normalize}))
    return child, plan


def _all_but_the_dead(model: nn.Module, graph: ChannelGraph, probe: Probe) -> np.ndarray:
    """Survivors when all goes that is dead and whose constants something can take over, shape (classes,)."""
    dead = dead_channels.dead(model, graph)
    while not (alive := greedy_selection.dead_only(graph, dead)).all():
        held = constant_folding.held_back(graph, constant_folding.stranded(model, graph.plan(alive), _noise(probe)))
        if not held.any():
            break
        dead = dead & ~held
    return alive


def _noise(probe: Probe) -> list[Example]:
    """The examples, and others like them: what is constant in all of these is constant."""
    generator = torch.Generator().manual_seed(0)

    def other(x: Tensor) -> Tensor:
        drawn = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
        return x + drawn * (x.std(correction=0) + 1e-3)

    return [*probe.proving, *(one.cast(other) for one in probe.proving for _ in range(2))]


def _why_not(graph: ChannelGraph, wanted: Budget) -> str:
    """Why all channels stay, in words."""
    if not graph.prunable.any():
        return f"every channel is held. {greedy_selection.held(graph)}"
    return "no channel is dead whose constant could be moved" if wanted.empty else f"the network already meets {wanted}"
