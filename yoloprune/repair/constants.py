"""Constants that cut channels leave: measured where they arrive, and added to what can take them."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from yoloprune.planning.plan import Keep, Plan
from yoloprune.probing.forward import in_batch, input_of
from yoloprune.torch_internals import BatchNorm, ConvNd, ConvTransposeNd

Layer = ConvNd | nn.Linear

CONSTANT = 1e-5
"""A channel is constant if its spread is at most this share of its largest absolute value: float32 rounding."""


class CutInputs:
    """Hook before a consumer in the parent: sum, least and largest value of each of its cut inputs, shape (cut,)."""

    def __init__(self, keep: Keep) -> None:
        kept = set(keep.inputs or ())
        self.cut = [i for i in range(keep.of[1] or 0) if i not in kept]
        self.total, self.count = torch.zeros(len(self.cut), dtype=torch.float64), 0
        self.low = torch.full((len(self.cut),), torch.inf)
        self.high = -self.low

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = in_batch(module, input_of(args, kwargs))
        x = x.movedim(-1 if isinstance(module, nn.Linear) else 1, 0)[self.cut].flatten(1).float()
        if not x.shape[1]:
            return  # as of a second stage for which the first one finds nothing
        self.total += x.mean(1).cpu().double() * x.shape[1]
        self.count += x.shape[1]
        self.low, self.high = torch.minimum(self.low, x.amin(1).cpu()), torch.maximum(self.high, x.amax(1).cpu())

    @property
    def mean(self) -> Tensor:
        """Mean of each cut input, shape (cut,)."""
        return self.total / self.count

    def contributes(self, module: Layer) -> Tensor:
        """Mask of the cut inputs that are not zero throughout and that some weight reads, shape (cut,)."""
        weight = module.weight.detach().cpu().movedim(0 if isinstance(module, ConvTransposeNd) else 1, 0).flatten(1)
        return ((self.low != 0) | (self.high != 0)) & (weight[self.cut] != 0).any(1)

    def constant(self) -> Tensor:
        """Mask of the cut inputs that never changed, shape (cut,)."""
        return self.high - self.low <= CONSTANT * torch.maximum(self.low.abs(), self.high.abs())


def layer_of(model: nn.Module, name: str) -> Layer:
    """The layer of a name, which is a convolution or a linear one: nothing else has inputs to cut or is fitted."""
    layer = model.get_submodule(name)
    assert isinstance(layer, (ConvNd, nn.Linear))
    return layer


def norm_of(model: nn.Module, name: str) -> BatchNorm:
    """The batch-norm of a name that `follow` found."""
    norm = model.get_submodule(name)
    assert isinstance(norm, BatchNorm)
    return norm


def running_mean_of(model: nn.Module, name: str) -> Tensor:
    """Its running mean; `follow` finds none that has none."""
    mean = norm_of(model, name).running_mean
    assert mean is not None
    return mean


def pads_with_zeros(module: Layer) -> bool:
    """Whether a layer reads zeros beyond the border, or spreads less there."""
    if isinstance(module, nn.Linear):
        return False
    padded = module.padding == "same" or (module.padding != "valid" and any(module.padding))
    return isinstance(module, ConvTransposeNd) or (padded and module.padding_mode == "zeros")


def kernel_sum(module: Layer) -> Tensor:
    """Output per input that is constant, far from the border, shape (outputs, inputs), float64."""
    return _sums(module).mean(2)


def _sums(module: Layer) -> Tensor:
    """The same by the positions within a stride of a transposed convolution, shape (outputs, inputs, positions)."""
    weight = module.weight.detach().cpu().double()
    if not isinstance(module, ConvTransposeNd):
        return weight.flatten(2).sum(2, keepdim=True) if weight.ndim > 2 else weight[..., None]
    whole = slice(None)
    starts = itertools.product(*map(range, module.stride))  # each output position meets one tap in stride
    taps = [(whole, whole, *(slice(s, None, n) for s, n in zip(at, module.stride, strict=True))) for at in starts]
    return torch.stack([weight[tap].flatten(2).sum(2).T for tap in taps], 2)


def is_level(module: Layer) -> Tensor:
    """Mask of the inputs that, where constant, give the same at all positions, shape (inputs,)."""
    sums = _sums(module)
    return (sums.amax(2) - sums.amin(2) <= CONSTANT * sums.abs().amax(2)).all(0)


def kept(values: Tensor, plan: Plan, name: str) -> Tensor:
    """From values per output of a module of the parent to those of the cut model, shape (outputs,)."""
    outputs = plan.keep.get(name, Keep()).outputs
    return values if outputs is None else values[list(outputs)]


def add_constant(model: nn.Module, name: str, shift: Tensor, follower: str | None) -> str | None:
    """Add a constant to the outputs of a layer, shape (outputs,); the name of what took it, None if nothing can."""
    bias = layer_of(model, name).bias
    if bias is not None:
        bias.data += shift.to(bias)
        return f"{name}.bias"
    if follower is not None:
        mean = running_mean_of(model, follower)
        mean -= shift.to(mean)
        return f"{follower}.running_mean"
    return None
