"""What a layer makes of inputs that are constant."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

CONSTANT = 1e-5
"""A channel is constant if its spread is at most this share of its largest absolute value: float32 rounding."""


def pads_with_zeros(module: nn.Module) -> bool:
    """Whether a layer sees less of its input at the border."""
    if isinstance(module, nn.Linear):
        return False
    padded = module.padding == "same" or (module.padding != "valid" and any(module.padding))
    return isinstance(module, _ConvTransposeNd) or (padded and module.padding_mode == "zeros")


def kernel_sum(module: nn.Module) -> Tensor:
    """Output per input that is constant, far from the border, shape (outputs, inputs), float64."""
    return _sums(module).mean(2)


def _sums(module: nn.Module) -> Tensor:
    """The same by the positions within a stride of a transposed convolution, shape (outputs, inputs, positions)."""
    weight = module.weight.detach().cpu().double()
    if not isinstance(module, _ConvTransposeNd):
        return weight.flatten(2).sum(2, keepdim=True) if weight.ndim > 2 else weight[..., None]
    starts = itertools.product(*map(range, module.stride))  # each output position meets one tap in stride
    taps = [weight[(..., *(slice(s, None, n) for s, n in zip(at, module.stride, strict=True)))] for at in starts]
    return torch.stack([t.flatten(2).sum(2).T for t in taps], 2)


def is_level(module: nn.Module) -> Tensor:
    """Mask of the inputs that, where constant, give the same at all positions, shape (inputs,)."""
    sums = _sums(module)
    return (sums.amax(2) - sums.amin(2) <= CONSTANT * sums.abs().amax(2)).all(0)
