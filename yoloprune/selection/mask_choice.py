"""Which weights a mask takes: scores, a pattern and a share to what stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from yoloprune.backend import model_facts, yolo_tracing
from yoloprune.cutting import masks
from yoloprune.errors import ArgumentError
from yoloprune.planning import weight_masks
from yoloprune.planning.weight_masks import Scope
from yoloprune.settings.mask_options import n_of_m
from yoloprune.settings.mask_request import Zeros


def layers(model: nn.Module, zeros: Zeros) -> tuple[list[str], dict[str, str]]:
    """Which layers of a network are masked.

    Args:
        model (nn.Module): An Ultralytics model.
        zeros (Zeros): Its `head`, `keep` and `pattern` count.

    Returns:
        (tuple): Names in the order of the network, and why others that have such weights are not.

    Raises:
        ArgumentError: If a `keep` pattern matches nothing, or no layer is left.
    """
    kept = yolo_tracing.kept_modules(model, zeros.keep)
    head, numbers = model_facts.head_name(model), n_of_m(zeros.pattern)
    taken, left = [], {}
    for name, module in model.named_modules():
        if not masks.maskable(module):
            continue
        inputs = module.weight.shape[1]
        if name in kept:
            left[name] = kept[name]
        elif ".dfl." in name:
            left[name] = "its weights are numbers that are never trained"
        elif not zeros.head and name.startswith(f"{head}."):
            left[name] = "head"
        elif numbers is not None and inputs % numbers[1]:
            left[name] = f"{inputs} input channels are no multiple of {numbers[1]}"
        else:
            taken.append(name)
    if not taken:
        raise ArgumentError(f"pattern={zeros.pattern}: no layer is left that it fits. Received: keep={zeros.keep}")
    return taken, left


def require_more(model: nn.Module, names: Sequence[str], zeros: Zeros) -> None:
    """Raise ArgumentError where nothing more would become zero: which others go says no score.

    Args:
        model (nn.Module): The network.
        names (Sequence[str]): Layers that are masked.
        zeros (Zeros): Its `pattern` and `sparsity` count.
    """
    if (numbers := n_of_m(zeros.pattern)) is not None:
        if masks.are_n_of_m(model, names, *numbers):
            raise ArgumentError(f"pattern={zeros.pattern}: all these layers have so many zeros already")
        return
    zero, count = (sum(found(model, names).values()) for found in (masks.zeros, masks.sizes))
    if round(zeros.sparsity * count) <= zero:
        raise ArgumentError(
            f"sparsity={zeros.sparsity:g}: must be above what is zero already, {zero / count:.1%} of these weights "
            f"({zero:,} of {count:,})"
        )


def scope_of(zeros: Zeros, score: str) -> Scope:
    """What is compared with `scope=auto`: what compares between layers, and single weights, all together."""
    if zeros.scope != "auto" or n_of_m(zeros.pattern) is not None:
        return zeros.scope
    return "global" if score == "taylor" or zeros.pattern == "unstructured" else "layer"


def choose(scores: Mapping[str, Tensor], pattern: str, sparsity: float, scope: Scope = "layer") -> dict[str, Tensor]:
    """What stays, bool of the shape of each weight, see `weight_masks.choose`."""
    kept = weight_masks.choose(scores, pattern, sparsity, scope)
    return {name: torch.from_numpy(stay.copy()) for name, stay in kept.items()}
