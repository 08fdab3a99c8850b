"""Importance of single weights, for masks: one value for each, of the shape of the weight; never below 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.errors import DataError
from yoloprune.importance.data_criteria import differentiable, own_loss, with_gradient
from yoloprune.planning.weight_masks import LEAST
from yoloprune.probing.forward import feed, hooked, in_batch, input_of, running
from yoloprune.torch_internals import ConvNd

Scores = dict[str, Tensor]
"""By layer, values of the shape of its weight, float32 on the CPU; a weight that is zero has 0, no other has."""


def weight_of(model: nn.Module, name: str) -> Tensor:
    """The weight of a layer."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def magnitude(model: nn.Module, names: Iterable[str]) -> Scores:
    """|w|."""
    return {name: weight_of(model, name).abs().float().cpu() for name in names}


def random(model: nn.Module, names: Iterable[str], seed: int = 0) -> Scores:
    """A control that looks at nothing but what is zero already."""
    generator = torch.Generator().manual_seed(seed)
    weights = {name: weight_of(model, name).cpu() for name in names}
    return {name: _beside_zeros(torch.rand(w.shape, generator=generator), w) for name, w in weights.items()}


def taylor(model: nn.Module, names: Sequence[str], batches: Iterable[Any]) -> Scores:
    """First-order estimate of how much the loss changes without a weight (Molchanov et al. 2019, arXiv 1906.10771,
    section 3.1): |w · dL/dw|, averaged over batches.

    Args:
        model (nn.Module): `model(batch)` is the loss, or a tuple that begins with it, as in Ultralytics.
        names (Sequence[str]): Layers; those that no batch runs through get no scores.
        batches (Iterable): What the model makes a loss of.

    Raises:
        DataError: If `batches` is empty, or the loss does not depend on weights.
    """
    total: Scores = {}
    fed = 0
    with differentiable(model):
        for batch in batches:
            with_gradient(own_loss(model, batch)).sum().backward()
            for name in names:
                weight = model.get_parameter(f"{name}.weight")
                if weight.grad is not None:
                    found = (weight.detach() * weight.grad).abs().float().cpu()
                    total[name] = total[name] + found if name in total else found
            model.zero_grad()
            fed += 1
    if not fed:
        raise DataError("There are no images to rank weights on.")
    return {name: _beside_zeros(value / fed, weight_of(model, name)) for name, value in total.items()}


def wanda(model: nn.Module, names: Iterable[str], batches: Iterable[Tensor]) -> Scores:
    """|w| times the norm of what it reads (Sun et al. 2023, arXiv 2306.11695, section 3): the root mean square of its
    input channel over images and positions, so that layers of different resolutions compare.

    Args:
        model (nn.Module): The network.
        names (Iterable[str]): Convolutions and linear layers; those that do not run get no scores.
        batches (Iterable[Tensor]): Images of shape (B, C, H, W).

    Raises:
        DataError: If `batches` is empty.
    """
    squares: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = in_batch(module, input_of(args, kwargs)).movedim(1 if isinstance(module, ConvNd) else -1, 0).flatten(1)
        if not x.shape[1]:
            return  # as of a second stage for which the first one finds nothing
        squares[name] = squares.get(name, torch.zeros(())) + x.float().square().sum(1).cpu()
        counts[name] = counts.get(name, 0) + x.shape[1]

    with running(model), hooked() as hooks:
        hooks += [
            model.get_submodule(name).register_forward_pre_hook(partial(watch, name), with_kwargs=True)
            for name in names
        ]
        feed(model, batches)
    return {name: _by_input(model, name, (squares[name] / counts[name]).sqrt()) for name in names if name in counts}


def _by_input(model: nn.Module, name: str, norms: Tensor) -> Tensor:
    """|w| times the norm of its input channel, shape (inputs,) of the layer; a group of outputs reads its own ones."""
    weight = weight_of(model, name).abs().float().cpu()
    groups = getattr(model.get_submodule(name), "groups", 1)
    read = norms.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)  # (outputs, inputs of its group)
    return _beside_zeros(weight * read.reshape(*read.shape, *(1 for _ in weight.shape[2:])), weight)


def _beside_zeros(score: Tensor, weight: Tensor) -> Tensor:
    """A score that tells weights that are zero from others on which nothing hangs either."""
    return score.clamp_min(LEAST).masked_fill(weight.cpu() == 0, 0.0)
