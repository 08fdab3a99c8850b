"""Circular padding in steps that a trace can follow: torch writes into an empty tensor, which has no channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def padded(x: Tensor, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Tensor | None:
    """What `functional.pad` gives, to the last bit; None where it is not circular, or more than once around.

    Args:
        x (Tensor): Shape (B, C, ...), or without a batch dimension.
        pad (Sequence[int]): How many positions before and behind, the last dimension first.
        mode (str): As of `functional.pad`.
        value (float | None): The same, of no use here.
    """
    sides = list(zip(pad[::2], pad[1::2], strict=False))
    if mode != "circular" or any(not 0 <= n <= x.shape[-1 - i] for i, both in enumerate(sides) for n in both):
        return None
    for i, (before, behind) in enumerate(sides):
        dim = x.ndim - 1 - i
        pieces = x.narrow(dim, x.shape[dim] - before, before), x, x.narrow(dim, 0, behind)
        x = torch.cat([piece for piece in pieces if piece.shape[dim]], dim)
    return x
