"""Which weights a mask takes: scores, a pattern and a share to what stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from yoloprune.backend import model_facts, yolo_tracing
from yoloprune.cutting.masks import maskable
from yoloprune.errors import ArgumentError
from yoloprune.settings.mask_options import n_of_m
from yoloprune.settings.mask_request import MaskRequest

Scope = Literal["auto", "global", "layer", "output"]


def layers(model: nn.Module, request: MaskRequest) -> tuple[list[str], dict[str, str]]:
    """Which layers of a network are masked.

    Args:
        model (nn.Module): An Ultralytics model.
        request (MaskRequest): Its `head`, `keep` and `pattern` count.

    Returns:
        (tuple): Names in the order of the network, and why others that have such weights are not.

    Raises:
        ArgumentError: If a `keep` pattern matches nothing, or no layer is left.
    """
    kept = yolo_tracing.kept_modules(model, request.keep)
    head, numbers = model_facts.head_name(model), n_of_m(request.pattern)
    taken, left = [], {}
    for name, module in model.named_modules():
        if not maskable(module):
            continue
        inputs = module.weight.shape[1]
        if name in kept:
            left[name] = kept[name]
        elif ".dfl." in name:
            left[name] = "its weights are numbers that are never trained"
        elif not request.head and name.startswith(f"{head}."):
            left[name] = "head"
        elif numbers is not None and inputs % numbers[1]:
            left[name] = f"{inputs} input channels are no multiple of {numbers[1]}"
        else:
            taken.append(name)
    if not taken:
        raise ArgumentError(f"pattern={request.pattern}: no layer is left that it fits. Received: keep={request.keep}")
    return taken, left


def scope_of(request: MaskRequest, score: str) -> Scope:
    """What is compared with `scope=auto`: what compares between layers, and single weights, all together."""
    if request.scope != "auto" or n_of_m(request.pattern) is not None:
        return request.scope
    return "global" if score == "taylor" or request.pattern == "unstructured" else "layer"


def choose(scores: Mapping[str, Tensor], pattern: str, sparsity: float, scope: Scope = "layer") -> dict[str, Tensor]:
    """Keep what has the highest scores.

    Args:
        scores (Mapping[str, Tensor]): By layer, of the shape of its weight, none below 0.
        pattern (str): `pattern=`.
        sparsity (float): Share of the weights, kernels or filters that goes; what n:m takes is in its numbers.
        scope (str): What is compared: "global", "layer" or "output".

    Returns:
        (dict[str, Tensor]): By layer, what stays, bool of the shape of its weight.
    """
    if (numbers := n_of_m(pattern)) is not None:
        return {name: _n_of_m(score, *numbers) for name, score in scores.items()}
    units = {name: _units(score, pattern) for name, score in scores.items()}
    if scope == "global":
        flat = _highest(torch.cat([u.flatten() for u in units.values()]), sparsity)
        parts = flat.split([u.numel() for u in units.values()])
        stay = {name: part.reshape(units[name].shape) for name, part in zip(units, parts, strict=True)}
    elif scope == "output":
        stay = {name: torch.stack([_highest(row, sparsity) for row in u]) for name, u in units.items()}
    else:
        stay = {name: _highest(u, sparsity) for name, u in units.items()}
    return {
        name: s.reshape(*s.shape, *(1 for _ in range(scores[name].ndim - s.ndim))).expand_as(scores[name])
        for name, s in stay.items()
    }


def _units(score: Tensor, pattern: str) -> Tensor:
    """One value for what lives or dies together, the mean: (outputs,) of filters, (outputs, inputs) of kernels."""
    if pattern == "filter":
        return score.flatten(1).mean(1)
    return score.flatten(2).mean(2) if pattern == "kernel" and score.ndim > 2 else score


def _highest(values: Tensor, sparsity: float) -> Tensor:
    """What stays of values that are compared, by torch's own rule for a share of them, bool."""
    mask: Tensor = prune.L1Unstructured(amount=sparsity).compute_mask(values, torch.ones_like(values))
    return mask.bool()


def _n_of_m(score: Tensor, n: int, m: int) -> Tensor:
    """The n highest of every m neighbours along the input channels, for each output and tap; bool, as `score`."""
    groups = score.unflatten(1, (-1, m))
    best = groups.topk(n, dim=2).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, best, value=True).flatten(1, 2)
