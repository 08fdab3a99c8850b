"""The residual branches of a traced network, with the channels that live inside each alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from yoloprune.planning.branch import Branch
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.probing.examples import Probe
from yoloprune.probing.residual_modules import residual_modules


def with_branches(model: nn.Module, graph: ChannelGraph, probe: Probe, held: Iterable[str] = ()) -> ChannelGraph:
    """A graph that knows which parts of the network may go as a whole.

    One that holds no channels of its own is left out: that it is gone could not be said by widths. So is one that holds
    no other channels than those inside it, which are items themselves, such as several in a row.

    Args:
        model (nn.Module): The traced network.
        graph (ChannelGraph): Its channels.
        probe (Probe): What it was traced on.
        held (Iterable[str]): Modules and parameters that stay; a branch that holds or lies in one of them does too.
    """
    held = list(held)
    run_through = [(axis.module, _groups(graph, i)) for i, axis in enumerate(graph.axes)]
    found = [
        branch
        for name in residual_modules(model, probe)
        if (branch := Branch(name, _private(run_through, name))).groups
        if not any(branch.holds(other) or name.startswith(f"{other}.") for other in held)
    ]
    return replace(graph, branches=tuple(b for b in found if not _is_sum(b, found)))


def _groups(graph: ChannelGraph, axis: int) -> set[int]:
    """Groups that run through an axis."""
    return {*graph.group_of[graph.class_of[axis]].tolist()}


def _private(run_through: Iterable[tuple[str, set[int]]], name: str) -> tuple[int, ...]:
    """Groups all of whose axes lie in a module, from the module of each axis and the groups that run through it."""
    inside: set[int] = set()
    outside: set[int] = set()
    branch = Branch(name, ())
    for module, groups in run_through:
        (inside if branch.holds(module) else outside).update(groups)
    return tuple(sorted(inside - outside))


def _is_sum(branch: Branch, found: list[Branch]) -> bool:
    """Whether a branch has no channels beside those of the branches in it."""
    inner = {g for b in found if b is not branch and branch.holds(b.name) for g in b.groups}
    return inner.issuperset(branch.groups)
