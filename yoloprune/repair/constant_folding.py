"""The first repair: what cut channels contributed on average moves into biases and batch-norms.

It sees a model through its plan and forward hooks only, and knows no block.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import Example
from yoloprune.probing.forward import Readers, feed, follow, hooked, running
from yoloprune.probing.held_state import preserved
from yoloprune.repair.constants import CutInputs, add_constant, is_level, kept, kernel_sum, layer_of, pads_with_zeros
from yoloprune.torch_internals import BatchNorm


@dataclass(frozen=True)
class Folded:
    """What `fold` did.

    Attributes:
        into (dict[str, str]): By consumer, the bias or batch-norm that took over what its cut inputs contributed.
        channels (int): Cut inputs whose mean was moved, summed over the consumers in `into`.
        dropped (int): Cut inputs of these that are not constant and simply went; 0 with data.
        skipped (dict[str, str]): By consumer, why nothing was moved.
        bordered (tuple[str, ...]): Consumers that pad with zeros, where the parent sees less of what was moved.
    """

    into: dict[str, str]
    channels: int
    dropped: int
    skipped: dict[str, str]
    bordered: tuple[str, ...] = ()


def fold(
    parent: nn.Module,
    model: nn.Module,
    plan: Plan,
    batches: Iterable[Tensor] | None = None,
    *,
    noise: Sequence[Example] = (),
) -> Folded:
    """Move what the cut inputs of a layer contribute on average into its bias, or the batch-norm that follows it.

    A channel with gamma = 0 still emits a constant, e.g. SiLU(beta). A consumer with weights W and kernel taps k loses
    sum_i (sum_k W[o, i, k]) * mean_i over its cut inputs i, and gets it back in its bias or, with the opposite sign, in
    the running mean of the batch-norm that takes its very output (Ye et al. 2018, arXiv 1802.00124, do so for ReLU).

    The means are those that arrive at the consumer in the running parent, so residual sums, upsampling, concatenation
    and pooling need no rule of their own. They also make the corrections independent of each other: if every kept input
    of a consumer is what it is in the parent, adding the parent's missing contribution makes its kept outputs what they
    are in the parent, and so on layer by layer. Means taken in the cut model would depend on the corrections before.

    This is exact for constant channels where the kernel lies inside the image. At a zero-padded border the parent sees
    less of the constant, and the cut model gets too much. A transposed convolution gets the average over the positions
    of its stride. A batch-norm takes a correction only where it alone reads what the consumer puts out.

    Args:
        parent (nn.Module): The model before the cut.
        model (nn.Module): The model after the cut, changed in place.
        plan (Plan): The plan that was cut.
        batches (Iterable[Tensor] | None): Images of shape (B, C, H, W). Without them, noise finds the channels that are
            the same at all positions of all its images, and only those are moved.
        noise (Sequence[Example]): That noise, two images at least.

    Returns:
        (Folded): What went where.

    Raises:
        DataError: If `batches` is empty.
    """
    lost, followers = _lost(parent, plan, batches, noise)
    into: dict[str, str] = {}
    skipped: dict[str, str] = {}
    bordered: list[str] = []
    moved = dropped = 0
    for name, inputs in lost.items():
        if not inputs.count:
            skipped[name] = "does not run"
            continue
        known = inputs.constant() if batches is None else torch.ones(len(inputs.cut), dtype=torch.bool)
        module = layer_of(parent, name)
        shift = kernel_sum(module)[:, inputs.cut] @ torch.where(known, inputs.mean, 0)
        place = add_constant(model, name, kept(shift, plan, name), followers.get(name))
        if place is None:
            skipped[name] = "has no bias, and no batch-norm takes its output"
            continue
        into[name] = place
        moved, dropped = moved + int(known.sum()), dropped + int((~known).sum())
        if pads_with_zeros(module) and inputs.contributes(module)[known].any():
            bordered.append(name)
    return Folded(into, moved, dropped, skipped, tuple(bordered))


def stranded(parent: nn.Module, plan: Plan, noise: Sequence[Example]) -> dict[str, list[int]]:
    """What a cut of dead channels would lose, because nothing can take its place.

    Args:
        parent (nn.Module): The model before the cut.
        plan (Plan): What is to be cut.
        noise (Sequence[Example]): Two images at least.

    Returns:
        (dict[str, list[int]]): By consumer, the cut inputs that are no constant, or whose constant neither a bias nor a
            batch-norm takes; inputs that are zero, or that no weight reads, lose nothing.
    """
    lost, followers = _lost(parent, plan, None, noise)
    found = {}
    for name, inputs in lost.items():
        module = layer_of(parent, name)
        if inputs.count:
            movable = inputs.constant() & (module.bias is not None or name in followers) & is_level(module)[inputs.cut]
            kept_fast = (~movable & inputs.contributes(module)).tolist()
            found[name] = [i for i, held in zip(inputs.cut, kept_fast, strict=True) if held]
    return {name: positions for name, positions in found.items() if positions}


def held_back(graph: ChannelGraph, lost: Mapping[str, Sequence[int]]) -> np.ndarray:
    """Mask of the classes at some input positions, by consumer, shape (classes,)."""
    held = np.zeros(graph.n_classes, dtype=bool)
    for axis, classes in zip(graph.axes, graph.class_of, strict=True):
        if axis.side == "inputs":
            held[classes[list(lost.get(axis.module, ()))]] = True
    return held


def _lost(
    parent: nn.Module, plan: Plan, batches: Iterable[Tensor] | None, noise: Sequence[Example]
) -> tuple[dict[str, CutInputs], dict[str, str]]:
    """What arrives at the cut inputs of every consumer, and which batch-norm follows it and alone reads its output."""
    modules = dict(parent.named_modules())
    # A loose parameter has no inputs, and what a depthwise convolution loses its consumers lose: it has outputs only.
    lost = {name: CutInputs(keep) for name, keep in plan.keep.items() if keep.inputs is not None and name in modules}
    with running(parent), hooked() as hooks, Readers() as readers:
        hooks += [modules[name].register_forward_pre_hook(inputs, with_kwargs=True) for name, inputs in lost.items()]
        followers = follow(parent, lost, BatchNorm, hooks)
        if batches is not None:
            feed(parent, batches)
        for example in noise if batches is None else ():
            with preserved(parent):
                example(parent)
    return lost, {name: norm for name, norm in followers.items() if name not in readers.others}
