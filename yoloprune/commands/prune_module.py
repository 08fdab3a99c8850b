"""Pruning of any `torch.nn.Module`, not only of Ultralytics' models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.backend import compat, console, records
from yoloprune.checkpoint import saving
from yoloprune.commands.module_arguments import Batches, check
from yoloprune.commands.module_repair import Recover, repair
from yoloprune.cutting import comparison, proof, remembered_widths, surgery, trial_cut
from yoloprune.cutting.width_attributes import corrected_numbers
from yoloprune.errors import ArgumentError, BudgetError
from yoloprune.importance import criteria, dead_channels
from yoloprune.planning import greedy_selection, steps
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import Example, Probe
from yoloprune.probing.held_state import copied
from yoloprune.probing.other_examples import varied
from yoloprune.probing.random_draws import generators_kept
from yoloprune.probing.survey import survey_around
from yoloprune.repair import constant_folding
from yoloprune.settings.budget import Budget, Limits
from yoloprune.settings.requests import Criterion
from yoloprune.tracing import named_layers, residual_branches, trace_network

DEFAULT_LIMITS = Limits()
DESCRIPTIONS = ("yaml", "module_defs")
"""Attributes of a network from which trainers of YOLOv5, v7, YOLOR and Darknet's heirs build it anew."""


class PruneResult(tuple[nn.Module, Plan]):
    """The smaller network and what was cut, also as two values: `child, plan = prune_module(...)`.

    Attributes:
        model (nn.Module): The smaller network.
        plan (Plan): What was cut; `plan.save(file)` keeps it, `rebuild(fresh, file)` gives a fresh network its widths.
        error (float): How far the cut was from its masked parent before the repair, see `comparison.apart`.
        before (dict[str, float]): Parameters, FLOPs and prunable channels of the parent.
        after (dict[str, float]): Those of the smaller network.
        moved (dict[str, float]): How far the outputs are from the parent's, "cut" and "repaired": root mean square of
            the difference over that of the outputs, of the one that is furthest.
        repaired (str): What was done after the cut, in words.
    """

    model: nn.Module
    plan: Plan
    error: float
    before: dict[str, float]
    after: dict[str, float]
    moved: dict[str, float]
    repaired: str

    def __new__(cls, model: nn.Module, plan: Plan, **told: Any) -> PruneResult:
        made = super().__new__(cls, (model, plan))
        made.__dict__.update(model=model, plan=plan, **told)
        return made

    def __repr__(self) -> str:
        lines = [f"{kind}: {n:,.0f} of {self.before[kind]:,.0f}" for kind, n in self.after.items()]
        away = f"outputs moved by {self.moved['cut']:.1%}, repaired by {self.moved['repaired']:.1%}: {self.repaired}"
        return "\n".join([f"PruneResult: {len(self.plan)} modules cut, error {self.error:.1e}", *lines, away])


@generators_kept()
@torch.inference_mode(False)
@torch.no_grad()
def prune_module(
    model: nn.Module,
    example: Tensor | tuple[Any, ...],
    wanted: Budget,
    limits: Limits = DEFAULT_LIMITS,
    *,
    keep: str | Sequence[str] = (),
    score: str = "l1",
    normalize: Literal["none", "mean", "max", "cost"] = "mean",
    outputs: bool = False,
    examples: Sequence[Any] = (),
    batches: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    recover: Recover = "auto",
) -> PruneResult:
    """Prune any network, not only Ultralytics' own.

    To train it elsewhere, keep the plan: a trainer that builds networks from a description (`model.yaml`,
    `model.module_defs`) builds the full one, until `rebuild(fresh, plan)` gives that the widths.

    Args:
        model (nn.Module): The parent, stays untouched.
        example (Tensor | tuple): Input, e.g. shape (1, 3, 224, 224), or all arguments of `forward` as a tuple; FLOPs
            are those at this size.
        wanted (Budget): What may remain; an empty one stands for all but the dead channels.
        limits (Limits): Rounding, floors, ceilings, and `keep`.
        keep (str | Sequence[str]): Further names or patterns of layers whose outputs stay.
        score (str): Criterion, see `criteria.importance`; "activation" and "taylor" are measured on `batches`.
        normalize (str): "none", "mean" or "max" of the group, or "cost".
        outputs (bool): Whether the network's outputs may lose channels.
        examples (Sequence): Further inputs, on which the network takes other branches.
        batches (Iterable | None): Inputs, each a tensor or all arguments as a tuple; with `loss`, pairs of these and
            targets.
        loss (Callable | None): From what the network gives and the targets to the loss.
        recover (str): What is done after the cut: "fold" moves what cut channels gave on average into biases and
            batch-norms, "lsq" fits the weights as well (one input tensor), "auto" the best that the batches allow.

    Returns:
        (PruneResult): The smaller network and what was cut.

    Raises:
        ArgumentError: If the limits ask for native widths, or an argument is not what it should be.
        BudgetError: If the budget is out of reach, or leaves nothing to cut.
        DataError: If `batches` is empty.
        VerifyError: If the cut model does not compute what its masked parent computes.
    """
    check(model, example, wanted, limits, keep)
    if isinstance(model, compat.BaseModel):
        records.require_unmasked(model)
    Criterion(score, normalize=normalize)  # raises where there is no such word
    if recover not in get_args(Recover) or (recover in {"fold", "lsq"} and batches is None):
        allowed = f"one of {', '.join(get_args(Recover))}; fold and lsq come with batches="
        raise ArgumentError(f"recover={recover}: must be {allowed}. Received: {recover}")
    data = Batches.of(batches, loss)
    if data is not None:
        data.require_taken(model)
    limits = replace(limits, keep=(*limits.keep, *([keep] if isinstance(keep, str) else keep)))
    probe = survey_around(model, tuple(Example.of(one) for one in (example, *examples)))
    if probe.proving[0] is probe.examples[0] and varied(probe.examples[0]) is not None:
        console.warn(
            "prune_module: the example is one number everywhere, on which most mistakes make no difference, and the "
            "network takes no noise in its place. Give an example with other values, as an image is"
        )
    held = named_layers.match(model, limits.keep)
    traced = trace_network.trace(model, probe, keep=held, sized=corrected_numbers, outputs=outputs)
    graph = trial_cut.sound(model, traced, probe, outputs=outputs)
    if told := trial_cut.told(graph):
        console.warn(f"prune_module: {told}")
    if limits.depth:
        graph = residual_branches.with_branches(model, graph, probe, held)
    graph = steps.with_ceilings(graph, named_layers.shares(model, limits.layers))
    if wanted.empty:
        alive = _all_but_the_dead(model, graph, probe)
    else:
        per_cost = normalize == "cost"
        scaled: Any = "none" if normalize == "cost" else normalize
        given = None if data is None else data.for_score(score)
        found = criteria.importance(
            model, graph, score, normalize=scaled, batches=given, loss=None if data is None else data.loss_of
        )
        alive = greedy_selection.select(
            graph, found.channels, wanted, limits, per_cost=per_cost, branches=found.branches
        )
    if alive.all():
        raise BudgetError(f"There is nothing to cut: {_why_not(graph, wanted)}.")
    plan = graph.plan(alive)
    child = surgery.cut(copied(model), plan)
    proved = proof.prove(model, child, plan, probe, outputs=outputs)
    moved = {"cut": comparison.distance(model, child, probe.proving[0])}
    repaired = repair(model, child, plan, recover, None if data is None else data.inputs)
    if wanted.empty and data is None:
        repaired = _fold_the_dead(model, child, plan, probe, outputs)
    moved["repaired"] = comparison.distance(model, child, probe.proving[0])
    _warn(model, child)
    if isinstance(child, compat.BaseModel):  # Ultralytics would train the network of its YAML in silence
        saving.mark_pruned(child, plan, saving.make_provenance(None, {"score": score, "normalize": normalize}))
    cost, kinds = Cost(graph), ("params", "flops", "channels")
    widths = graph.widths(alive).astype(float)
    return PruneResult(
        child,
        plan,
        error=proved.error,
        before={kind: cost.parent(kind) for kind in kinds},
        after={kind: cost.of(kind, widths) for kind in kinds},
        moved=moved,
        repaired=repaired,
    )


def _fold_the_dead(model: nn.Module, child: nn.Module, plan: Plan, probe: Probe, outputs: bool) -> str:
    """Move the constants of dead channels on: then nothing has changed, which is shown; what was done, in words."""
    folded = constant_folding.fold(model, child, plan, noise=_noise(probe))
    if folded.bordered:
        away = comparison.distance(model, child, probe.proving[0])
        console.warn(
            f"prune_module: dead channels emit constants, and {len(folded.bordered)} layers that read them pad "
            f"with zeros: near the border these cannot be moved exactly, and the outputs move by {away:.1%}"
        )
    else:
        comparison.verify(model, child, Plan({}), probe, outputs=outputs)
    return "constants of dead channels moved on"


def _warn(model: nn.Module, child: nn.Module) -> None:
    """Say what the cut network carries that is about its parent."""
    if stale := remembered_widths.stale(model, child):
        named = ", ".join(stale[:8]) + (f" and {len(stale) - 8} more" if len(stale) > 8 else "")
        console.warn(f"prune_module: these numbers still are widths from before the cut: {named}")
    described = [key for key in DESCRIPTIONS if getattr(model, key, None)]
    if described and not isinstance(model, compat.BaseModel):
        console.warn(
            f"prune_module: the network carries .{described[0]}, and a trainer that builds it anew from that trains "
            "the full network. Give the fresh one the pruned widths first: yoloprune.rebuild(fresh, plan)"
        )


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
