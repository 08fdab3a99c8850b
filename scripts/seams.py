"""Where pieces are joined and split in a network, and which batch-norm follows which layer: found by running it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from yoloprune.probing.examples import Example
from yoloprune.probing.forward import hooked, running
from yoloprune.probing.held_state import preserved

CAT = (torch.cat, torch.concat, torch.concatenate)
SPLIT = (torch.chunk, torch.split, Tensor.chunk, Tensor.split)


@dataclass
class Seams:
    """What one run shows.

    Attributes:
        norms (dict[str, str]): Layer to the batch-norm that reads its output.
        joined (dict[str, tuple[int, ...]]): Layer that reads a concat of channels, to the widths of the pieces.
        split (dict[str, tuple[int, ...]]): Layer whose channels are split, to the widths of the pieces.
    """

    norms: dict[str, str] = field(default_factory=dict)
    joined: dict[str, tuple[int, ...]] = field(default_factory=dict)
    split: dict[str, tuple[int, ...]] = field(default_factory=dict)


def seams(model: nn.Module, example: Example) -> Seams:
    """Run a network and see where its channels are joined and split."""
    found = Seams()
    with preserved(model), running(model, False), hooked() as hooks, _Watch(found):
        for name, module in model.named_modules():
            if not any(module.children()):
                hooks.append(module.register_forward_hook(_Mark(found, name)))
        example(model)
    return found


class _Mark:
    """Hook behind an innermost module: notes on its output which layer made it."""

    def __init__(self, found: Seams, name: str) -> None:
        self.found, self.name = found, name

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not args or not isinstance(args[0], Tensor) or not isinstance(output, Tensor):
            return
        if isinstance(module, _ConvNd | nn.Linear):
            if (pieces := getattr(args[0], "pieces", None)) and getattr(module, "groups", 1) == 1:
                self.found.joined[self.name] = pieces
            made_by: str | None = self.name
        else:
            made_by = getattr(args[0], "made_by", None)
            if isinstance(module, _BatchNorm) and made_by:
                self.found.norms[made_by] = self.name
            elif type(module).__module__ != activation.__name__ and not isinstance(module, nn.Identity):
                return
        if made_by:
            output.made_by = made_by  # type: ignore[attr-defined]  # it lives and dies with the tensor


class _Watch(TorchFunctionMode):
    """Sees joins and splits along the channels."""

    def __init__(self, found: Seams) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in CAT and kwargs.get("dim", args[1] if len(args) > 1 else 0) == 1:
            out.pieces = tuple(t.shape[1] for t in args[0])
        if func in SPLIT and kwargs.get("dim", args[2] if len(args) > 2 else 0) == 1 and hasattr(args[0], "made_by"):
            self.found.split[args[0].made_by] = tuple(t.shape[1] for t in out)
        return out
