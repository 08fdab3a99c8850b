"""A network by hand whose two batch-norms share three channels, for the tests of scores and of the dead."""

from __future__ import annotations

import numpy as np
from conftest import classes, conv, filled, noise
from torch import Tensor, nn

from yoloprune.planning.channel_graph import ChannelGraph


class Net(nn.Module):
    """a -> bn -> (+ b -> bn2) -> c: the two batch-norms share their three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a = filled(conv(2, 3), [[3, 4], [0, -1], [1, 1]], [9, 9, 9])
        self.bn = filled(nn.BatchNorm2d(3), [1, -2, 0], [9, 9, 9])
        self.b = filled(conv(3, 3), [[1, 2, 2], [0, 0, 5], [1, 1, 1]], [9, 9, 9])
        self.bn2 = filled(nn.BatchNorm2d(3), [-3, 4, 0], [9, 9, 9])
        self.c = filled(conv(3, 1), [7, 7, 7], [9])

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.a(x))
        return self.c(y + self.bn2(self.b(y)))


IMAGE = noise(1, 2, 4, 4)


def hidden(graph: ChannelGraph, values: np.ndarray) -> list[float]:
    """Values of the three shared channels."""
    return values[classes(graph, "a.outputs")].tolist()
