"""A block that keeps numbers about its widths, between two convolutions, for the tests of such numbers."""

from __future__ import annotations

from typing import Any

import torch
from conftest import cut_copy, without
from networks import IMAGE, net
from torch import Tensor, nn

from yoloprune.cutting import comparison
from yoloprune.tracing.trace_network import trace


class Keeps(nn.Module):
    """Numbers by name, and a function of them and a map."""

    def __init__(self, body: Any, **numbers: Any) -> None:
        super().__init__()
        self.body = body
        for name, value in numbers.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def between(body: Any, **numbers: Any) -> nn.Module:
    """Such a block between two convolutions, eight channels wide."""
    return net(lambda m, x: m.out(m.keeps(m.a(x))), a=(3, 8), keeps=Keeps(body, **numbers), out=(8, 2))


def narrowed(model: nn.Module, gone: list[int]) -> nn.Module:
    """The network without some channels of the first layer, compared with its masked parent."""
    graph = trace(model, IMAGE)
    plan = graph.plan(without(graph, "a.outputs", gone))
    small = cut_copy(model, plan)
    comparison.verify(model, small, plan, torch.cat([IMAGE, IMAGE * 2]))
    return small
