"""Repairs between the cut and any fine-tuning: constants folded, batch-norm statistics measured anew.

Both see a model through its plan and forward hooks only, and know no block. `refit` is the third.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from yoloprune.examples import Example
from yoloprune.groups import ChannelGraph
from yoloprune.kernel_sums import CONSTANT, is_level, kernel_sum, pads_with_zeros
from yoloprune.plans import Keep, Plan
from yoloprune.watching import Readers, feed, follow, hooked, preserved, running


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
        module = parent.get_submodule(name)
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
        module = parent.get_submodule(name)
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
) -> tuple[dict[str, _Inputs], dict[str, str]]:
    """What arrives at the cut inputs of every consumer, and which batch-norm follows it and alone reads its output."""
    modules = dict(parent.named_modules())
    # A loose parameter has no inputs, and what a depthwise convolution loses its consumers lose: it has outputs only.
    lost = {name: _Inputs(keep) for name, keep in plan.keep.items() if keep.inputs is not None and name in modules}
    with running(parent), hooked() as hooks, Readers() as readers:
        hooks += [modules[name].register_forward_pre_hook(inputs, with_kwargs=True) for name, inputs in lost.items()]
        followers = follow(parent, lost, _BatchNorm, hooks)
        if batches is not None:
            feed(parent, batches)
        for example in noise if batches is None else ():
            with preserved(parent):
                example(parent)
    return lost, {name: norm for name, norm in followers.items() if name not in readers.others}


def reestimate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure all batch-norm statistics anew (Li et al. 2020, EagleEye, arXiv 2007.02491, section 3).

    Means and variances are averaged over the batches with equal weight. A channel has B·H·W samples per batch, fewest
    at the coarsest stride: 16 images at imgsz 320 give 16·10·10 = 1600, even if independent a standard error of 3.5 %
    of the variance, and 8 such batches 1.3 %. More small batches do not replace large ones, because a batch's variance
    leaves out how batches differ; the size used in training has the bias that the parent's statistics have.

    Args:
        model (nn.Module): The cut model; only running means and variances change.
        batches (Iterable[Tensor]): Images of shape (B, C, H, W), not augmented.

    Raises:
        DataError: If `batches` is empty.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    before = [(m, m.momentum, m.num_batches_tracked.clone()) for m in layers]
    try:
        with running(model):
            for m in layers:
                m.train()
                m.momentum = None  # cumulative average, weighed by the counter
                m.num_batches_tracked.zero_()
            feed(model, batches)
    finally:
        for m, momentum, count in before:
            m.momentum = momentum
            m.num_batches_tracked.copy_(count)


class _Inputs:
    """Hook before a consumer in the parent: sum, least and largest value of each of its cut inputs, shape (cut,)."""

    def __init__(self, keep: Keep) -> None:
        kept = set(keep.inputs or ())
        self.cut = [i for i in range(keep.of[1] or 0) if i not in kept]
        self.total, self.count = torch.zeros(len(self.cut), dtype=torch.float64), 0
        self.low, self.high = torch.full((2, len(self.cut)), torch.inf) * torch.tensor([[1], [-1]])

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next(iter((*args, *kwargs.values())))
        x = x.movedim(-1 if isinstance(module, nn.Linear) else 1, 0)[self.cut].flatten(1).float()
        self.total += x.mean(1).cpu().double() * x.shape[1]
        self.count += x.shape[1]
        self.low, self.high = torch.minimum(self.low, x.amin(1).cpu()), torch.maximum(self.high, x.amax(1).cpu())

    @property
    def mean(self) -> Tensor:
        """Mean of each cut input, shape (cut,)."""
        return self.total / self.count

    def contributes(self, module: nn.Module) -> Tensor:
        """Mask of the cut inputs that are not zero throughout and that some weight reads, shape (cut,)."""
        weight = module.weight.detach().cpu().movedim(0 if isinstance(module, _ConvTransposeNd) else 1, 0).flatten(1)
        return ((self.low != 0) | (self.high != 0)) & (weight[self.cut] != 0).any(1)

    def constant(self) -> Tensor:
        """Mask of the cut inputs that never changed, shape (cut,)."""
        return self.high - self.low <= CONSTANT * torch.maximum(self.low.abs(), self.high.abs())


def kept(values: Tensor, plan: Plan, name: str) -> Tensor:
    """From values per output of a module of the parent to those of the cut model, shape (outputs,)."""
    outputs = plan.keep.get(name, Keep()).outputs
    return values if outputs is None else values[list(outputs)]


def add_constant(model: nn.Module, name: str, shift: Tensor, follower: str | None) -> str | None:
    """Add a constant to the outputs of a layer, shape (outputs,); the name of what took it, None if nothing can."""
    bias = model.get_submodule(name).bias
    if bias is not None:
        bias.data += shift.to(bias)
        return f"{name}.bias"
    if follower is not None:
        mean = model.get_submodule(follower).running_mean
        mean -= shift.to(mean)
        return f"{follower}.running_mean"
    return None
