"""Small networks with residual branches, weights by hand where a test asks for it."""

from __future__ import annotations

import torch
from conftest import conv, noise, settle
from torch import Tensor, nn


class Residual(nn.Module):
    """x + b(relu(norm(a(x)))), or without the shortcut."""

    def __init__(self, width: int, hidden: int, *, shortcut: bool = True) -> None:
        super().__init__()
        self.a, self.norm, self.b = conv(width, hidden, 3), nn.BatchNorm2d(hidden), conv(hidden, width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(torch.relu(self.norm(self.a(x))))
        return x + y if self.shortcut else y


class Rectified(Residual):
    """ResNet's: an activation behind the sum."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


class Around(nn.Module):
    """A branch with channels of its own around another: x + c(inner(b(x)))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.b, self.inner, self.c = conv(width, hidden), Residual(hidden, 4), conv(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.c(self.inner(self.b(x)))
        return y


class Stream(nn.Module):
    """A stem, some modules one after the other, and a head."""

    def __init__(self, width: int, **blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = conv(3, width, 3), nn.Sequential(), conv(width, 2)
        for name, block in blocks.items():
            self.blocks.add_module(name, block)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.blocks(self.stem(x)))
        return y


IMAGE = noise(2, 3, 6, 6)


def stream(width: int = 8, **blocks: nn.Module) -> nn.Module:
    """A seeded stream in evaluation mode."""
    torch.manual_seed(0)
    return settle(Stream(width, **blocks), IMAGE).eval()
