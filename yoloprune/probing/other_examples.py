"""Examples beside those that were given, on which a mistake shows that makes no difference on these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from yoloprune.probing.examples import Example
from yoloprune.probing.outputs import mapped, tensors


def varied(example: Example) -> Example | None:
    """An example with noise in place of tensors that are one number everywhere; None where it has none."""
    if not any(map(_is_flat, tensors(example.inputs))):
        return None
    noisy = mapped(example.inputs, lambda x: _noise(x) if _is_flat(x) else x)
    return replace(example, inputs=noisy, title="noise in place of the example")


def _is_flat(x: Tensor) -> bool:
    return _is_plain(x) and x.numel() > 1 and bool((x == x.flatten()[0]).all())


def _is_plain(x: Tensor) -> bool:
    """Whether one can count with the numbers of a tensor."""
    dense = x.layout == torch.strided and not x.is_nested and not x.is_quantized
    return dense and x.is_floating_point() and x.dtype.itemsize > 1


def _noise(x: Tensor) -> Tensor:
    """From a tenth of the number that a flat tensor is to all of it, which is in its range; below 1 in place of 0."""
    drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32) * 0.9 + 0.1
    whole = x.flatten()[:1]
    return drawn.to(x) * torch.where(whole == 0, torch.ones_like(whole), whole)


def other_batches(example: Example) -> list[Example]:
    """The example with twice as many images, of other ones or, where these may not do, of the same, or with one of
    several; none where no tensor has a first dimension.
    """
    counts = [t.shape[0] for t in tensors(example.inputs) if t.ndim > 1]
    if not counts:
        return []
    count = counts[0]

    def each(x: Tensor, other: Callable[[Tensor], Tensor]) -> Tensor:
        if x.ndim < 1 or x.shape[0] != count:
            return x
        return torch.cat([x, other(x)]) if count == 1 else x[:1]

    title = "another number of images"
    ways = (_darker, _shuffled, torch.clone) if count == 1 else (torch.clone,)
    return [replace(example, inputs=mapped(example.inputs, partial(each, other=way)), title=title) for way in ways]


def _shuffled(x: Tensor) -> Tensor:
    """The numbers of a tensor in another order, so that they are in its range."""
    if not _is_plain(x) or x.ndim < 2:
        return x
    order = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0))
    return x.flatten()[order.to(x.device)].reshape(x.shape)


def _darker(x: Tensor) -> Tensor:
    """The same, half as large: also what is the same for all orders differs."""
    return 0.5 * _shuffled(x) if _is_plain(x) and x.ndim > 1 else x
