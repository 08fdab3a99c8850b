"""Masks of weights: put on a network, found in it by its zeros, and held there while an optimizer steps.

A mask is not kept beside a weight: it is where the weight is not zero. So a masked network is one of stock classes, and
its mask is in every copy and file of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.torch_internals import ConvNd


def maskable(module: nn.Module) -> bool:
    """Whether a layer has weights of shape (outputs, inputs of a group, ...) that can be masked."""
    plain = isinstance(module, nn.Linear) or (isinstance(module, ConvNd) and not module.transposed)
    return plain and isinstance(module.weight, nn.Parameter)


def put_on(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Set weights to zero in place.

    Args:
        model (nn.Module): The network.
        kept (Mapping[str, Tensor]): By layer, which weights stay, bool of the weight's shape.
    """
    with torch.no_grad():
        for name, stay in kept.items():
            weight = _weight(model, name)
            weight.masked_fill_(~stay.to(weight.device), 0.0)


def found_in(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    """By layer, which weights are not zero, bool of the weight's shape."""
    return {name: _weight(model, name).detach() != 0 for name in names}


def zeros(model: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """By layer, how many weights are zero."""
    return {name: int((~kept).sum()) for name, kept in found_in(model, names).items()}


def sizes(model: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """By layer, how many weights it has."""
    return {name: _weight(model, name).numel() for name in names}


def is_n_of_m(weight: Tensor, n: int, m: int) -> bool:
    """Whether at most n of every m neighbours along the input channels are not zero, for each output and tap alike.

    That is the layout of NVIDIA's sparse tensor cores (Mishra et al. 2021, arXiv 2104.08378): TensorRT takes a weight
    of shape (K, C, R, S) for 2:4 where it holds for the channels 4 i to 4 i + 3 of every k, r and s.

    Args:
        weight (Tensor): Shape (outputs, inputs, ...), the number of inputs a multiple of m.
        n (int): Most that are not zero.
        m (int): Of so many neighbours.
    """
    return bool(((weight != 0).unflatten(1, (-1, m)).sum(2) <= n).all())


def are_n_of_m(model: nn.Module, names: Iterable[str], n: int, m: int) -> bool:
    """Whether the weights of all these layers are `is_n_of_m`."""
    return all(is_n_of_m(_weight(model, name), n, m) for name in names)


class Holder:
    """Hook behind an optimizer's step: what is zero when it is made is zero after every step.

    It comes before the EMA is updated, which so averages zeros only. A step that moved a masked weight is undone, with
    whatever optimizer, momentum and decay it was made.

    Attributes:
        weights (dict[str, Tensor]): By layer.
        gone (dict[str, Tensor]): By layer, what is held at zero, bool of the weight's shape.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.gone = {name: ~kept for name, kept in found_in(model, names).items()}
        self.weights = {name: _weight(model, name) for name in self.gone}

    def __call__(self, *_: Any) -> None:
        with torch.no_grad():
            for name, gone in self.gone.items():
                self.weights[name].masked_fill_(gone, 0.0)

    def take(self, kept: Mapping[str, Tensor]) -> None:
        """Hold more at zero: what does not stay; what is held already is held on.

        Args:
            kept (Mapping[str, Tensor]): By layer, which weights stay, bool of the weight's shape.
        """
        for name, stay in kept.items():
            self.gone[name] |= ~stay.to(self.gone[name].device)


def _weight(model: nn.Module, name: str) -> Tensor:
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight
