"""Equal pieces of a concat: the next convolution reads one of them, with the sum of its weights for all.

Without a branch the block around it joins the same tensor twice. W1 x + W2 x = (W1 + W2) x, so that what is left is the
block with one repeat fewer, and equal up to rounding.
"""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from yoloprune.native.block_calls import Calls, Step

Sums = tuple[int, ...] | None
"""For each input channel of a module as it was, which one it is added to; None where all stay apart."""


def of(concat: Step, calls: Calls, block: nn.Module) -> Sums:
    """How the inputs of what reads a concat add up, None if all pieces differ or they cannot.

    That is done where nothing else reads the concat, and one convolution of the module that does.

    Args:
        concat (Step): A concat in a block.
        calls (Calls): All that the block does.
        block (nn.Module): The block.
    """
    (joined,) = concat.gives
    readers = [step for step in calls.steps if joined in step.takes]
    if len({*concat.takes}) == len(concat.takes) or joined == calls.result or len(readers) != 1:
        return None
    if readers[0].kind != "call" or _reading(block.get_submodule(readers[0].child), calls.widths[joined]) is None:
        return None
    starts: dict[int, int] = {}
    sums: list[int] = []
    for value in concat.takes:
        start = starts.setdefault(value, len({*sums}))
        sums += range(start, start + calls.widths[value])
    return tuple(sums)


def summed(module: nn.Module, sums: tuple[int, ...]) -> nn.Module:
    """A copy of a module whose inputs are added up."""
    name = _reading(module, len(sums))
    assert name is not None
    module = deepcopy(module)
    conv = module.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight.detach()
    count = max(sums) + 1
    added = weight.new_zeros(len(weight), count, *weight.shape[2:])
    if not weight.is_meta:  # of shapes without numbers torch would import its compiler, which takes half a second
        added.index_add_(1, weight.new_tensor(sums).long(), weight)
    conv.weight, conv.in_channels = nn.Parameter(added, requires_grad=conv.weight.requires_grad), count
    return module


def where(module: nn.Module, sums: tuple[int, ...]) -> str:
    """Name, in a module, of the convolution whose inputs are added up."""
    return _reading(module, len(sums)) or ""


def _reading(module: nn.Module, width: int) -> str | None:
    """The only layer of a module that takes so many channels, if it is a dense convolution."""
    taking = ("in_channels", "in_features")
    found = [(n, m) for n, m in module.named_modules() if any(getattr(m, key, None) == width for key in taking)]
    (name, layer), *more = found or [("", module)]
    return name if isinstance(layer, nn.Conv2d) and layer.groups == 1 and not more else None
