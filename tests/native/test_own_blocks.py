"""Blocks of users, some of which call, split or read what no rows can: these stay in the one row that they have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv

from yoloprune.native.block_calls import watch


class Join(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], 1)


class Pair(nn.Module):
    """Two convolutions of the same, a join, and one more."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.join, self.c = Conv(4, 4), Conv(4, 4), Join(), Conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(self.join(self.a(x), self.b(x)))
        return y


class Named(Pair):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(torch.cat([self.a(x=x), self.b(x)], 1))
        return y


class Switched(Pair):
    """Beside the tensor a switch that the layer's default is not."""

    class Twice(Conv):
        def forward(self, x: Tensor, twice: bool = False) -> Tensor:
            y: Tensor = self.act(self.bn(self.conv(x)))
            return y * 2 if twice else y

    def __init__(self) -> None:
        super().__init__()
        self.a = self.Twice(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(torch.cat([self.a(x, twice=True), self.b(x)], 1))
        return y


class InHalves(Pair):
    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.cat([x, x], 1).chunk(2, 1)
        y: Tensor = self.c(torch.cat([self.a(first), self.b(second)], 1))
        return y


@pytest.mark.parametrize("block", [Pair, Named, Switched, InHalves])
def test_what_a_row_cannot_be_given_no_rows_say(block: type[nn.Module]) -> None:
    """A row gets one tensor and nothing more, and only what a layer makes can be made in pieces."""
    assert watch(block(), 4) is None
