"""What a gate on a residual branch does: out = x + g * (M(x) - x) at g = 1, for each channel that comes out of M."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from yoloprune.importance.reduction import Gates
from yoloprune.torch_internals import ConvNd


class BranchGates:
    """Sums g * dL/dg of such gates over passes, as is done for gates behind layers.

    Args:
        model (nn.Module): The network.
        names (Iterable[str]): Its branches.
        power (int): Of the mean over passes.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], power: int) -> None:
        self._modules = {name: model.get_submodule(name) for name in names}
        self._power, self._passes = power, 0
        self._given: dict[str, Tensor] = {}
        self._slopes: dict[str, Tensor] = {}  # of the running pass
        self._total: dict[str, Tensor] = {}

    def hooks(self) -> list[RemovableHandle]:
        """Watch all branches."""
        found = []
        for name, module in self._modules.items():
            found.append(module.register_forward_pre_hook(partial(self._enter, name)))
            found.append(module.register_forward_hook(partial(self._leave, name)))
        return found

    def _enter(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._given[name] = args[0].detach().clone()  # which the branch may change in place

    def _leave(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        added = output.detach() - self._given.pop(name)
        if output.requires_grad:
            output.register_hook(partial(self._slope, name, added))

    def _slope(self, name: str, added: Tensor, slope: Tensor) -> None:
        channel = _channel_dim(self._modules[name], slope.ndim)
        found = (slope * added).movedim(channel, 0).flatten(1).sum(1)
        self._slopes[name] = self._slopes[name] + found if name in self._slopes else found

    def end_pass(self) -> None:
        """What came back in one pass counts as one value of each gate."""
        for name, slope in self._slopes.items():
            value = slope.abs() ** self._power
            self._total[name] = self._total.get(name, torch.zeros_like(value)) + value
        self._slopes, self._passes = {}, self._passes + 1

    def means(self) -> Gates:
        """The power mean of each gate over all passes; branches that no gradient reached have none."""
        return {
            name: ((total / self._passes) ** (1 / self._power)).cpu().double().numpy()
            for name, total in self._total.items()
        }


def _channel_dim(branch: nn.Module, ndim: int) -> int:
    """Where a branch has its channels: second in maps; tokens, which a convolution of their own rank makes none of,
    have them last.
    """
    maps = any(isinstance(m, ConvNd) and len(m.kernel_size) == ndim - 2 for m in branch.modules())
    return 1 if maps or ndim != 3 else ndim - 1
