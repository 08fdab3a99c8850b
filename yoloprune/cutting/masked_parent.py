"""The masked parent: the reference that a cut has to equal. It knows the plan only, nothing of how it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.planning.plan import REMOVED, Plan
from yoloprune.probing.residual_modules import zeroed
from yoloprune.torch_internals import channel_dim


@contextlib.contextmanager
def masked(model: nn.Module, plan: Plan, written: float = 0.0) -> Iterator[nn.Module]:
    """While active, the channels that the plan cuts are zero wherever a planned module reads them, and `written`
    wherever one writes them. Of a branch that it removes, all parameters are zero.
    """
    handles, modules = [], dict(model.named_modules())
    for name, keep in plan.keep.items():
        if (module := modules.get(name)) is None or keep == REMOVED:
            continue  # a loose parameter multiplies or adds channels that are zero on both sides
        dim = channel_dim(module)
        outputs, inputs = keep.of
        if keep.inputs is not None and inputs is not None:
            mask = _Mask(keep.inputs, inputs, dim, 0.0)
            handles.append(module.register_forward_pre_hook(mask.inputs, with_kwargs=True))
        if keep.outputs is not None and outputs is not None:
            mask = _Mask(keep.outputs, outputs, dim, written)
            handles.append(module.register_forward_hook(mask.outputs))
    try:
        with zeroed(*(modules[name] for name in plan.removed)):
            yield model
    finally:
        for handle in handles:
            handle.remove()


class _Mask:
    """Fills the masked channels of a tensor."""

    def __init__(self, kept: Sequence[int], width: int, dim: int, fill: float) -> None:
        rows = np.zeros(width, dtype=bool)  # by numpy: there are hundreds of them, several times in a proof
        rows[list(kept)] = True
        self.kept = torch.from_numpy(rows)
        self.dim, self.fill = dim, fill

    def __call__(self, x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[self.dim] = -1
        return x.where(self.kept.to(x.device).reshape(shape), self.fill)

    def inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hook for a module's input, its first argument."""
        if args:
            return (self(args[0]), *args[1:]), kwargs
        first = next(iter(kwargs))
        return args, {**kwargs, first: self(kwargs[first])}

    def outputs(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Hook for a module's output."""
        return self(output)
