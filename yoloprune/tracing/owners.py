"""Which layer each tensor of a network belongs to, and which belong to none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor, nn

from yoloprune.torch_internals import BatchNorm, ConvNd, WeakIdKeyDictionary

LAYERS = (ConvNd, nn.Linear, BatchNorm, nn.GroupNorm)
SLICED = frozenset({"weight", "bias", "running_mean", "running_var"})
"""Modules that a cut slices, and which of their tensors; all other parameters are loose."""


def owners(
    modules: Mapping[str, nn.Module],
) -> tuple[WeakIdKeyDictionary[Tensor, str], WeakIdKeyDictionary[Tensor, str]]:
    """Names of layers by the tensors that a cut slices, and names of loose tensors; shared ones are in neither."""
    sliced: WeakIdKeyDictionary[Tensor, str] = WeakIdKeyDictionary()
    loose: WeakIdKeyDictionary[Tensor, str] = WeakIdKeyDictionary()
    held = [
        (name, module, key, tensor)
        for name, module in modules.items()
        for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    ]
    shared = Counter(id(tensor) for *_, tensor in held)
    for name, module, key, tensor in held:
        if shared[id(tensor)] > 1:
            continue
        if isinstance(module, LAYERS) and key in SLICED:
            sliced[tensor] = name
        elif tensor.is_floating_point():
            loose[tensor] = f"{name}.{key}".lstrip(".")
    return sliced, loose
