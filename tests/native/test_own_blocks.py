"""Blocks of users, some of which call, split or read what no rows can: these stay in the one row that they have."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import cut_copy, noise
from native_models import BACKBONE, model_of
from torch import Tensor, nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import Bottleneck, Conv

from yoloprune.checkpoint.rebuild import require_stock_build
from yoloprune.cutting.comparison import verify
from yoloprune.native import candidates
from yoloprune.native.block_calls import watch
from yoloprune.native.described import as_described
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.plan import Plan
from yoloprune.settings.budget import Limits


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


class WideInside(nn.Module):
    """What is split is made by a layer that is wider inside: 64 to 128 to 32."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.a, self.b, self.c = Bottleneck(c2, 32, False, e=4.0), Conv(16, 16), Conv(48, c2)

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.a(x).chunk(2, 1)
        y: Tensor = self.c(torch.cat([u, v, self.b(v)], 1))
        return y


def _rows_of(rows: list[list[object]], head: list[object], narrow: str) -> dict[int, list[int]]:
    """Layers that became several rows, once a group is half as wide; what the rows build computes the same."""
    model = model_of(rows, head)
    found = candidates.Channels(model, Limits(max_ratio=1.0, native=True), 64)

    def narrowed(graph: ChannelGraph) -> np.ndarray:
        alive = np.ones(graph.n_classes, dtype=bool)
        for tie in graph.ties:
            for g in tie.groups if narrow in {graph.groups[g].name for g in tie.groups} else ():
                alive[graph.classes(g)[graph.groups[g].size // 2 :]] = False
        return alive

    choice = found.choose(narrowed)
    assert choice.described is not None and not choice.alive.all()
    child = cut_copy(model, choice.plan)
    laid_out = as_described(child, choice.described)
    assert verify(child, laid_out, Plan({}), noise(2, 3, 64, 64)) == 0
    require_stock_build(copy.deepcopy(laid_out), choice.described.yaml)
    return choice.described.unrolled


@pytest.mark.slow
def test_pieces_of_a_layer_that_is_wider_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "WideInside", WideInside, raising=False)
    rows = [*BACKBONE[:4], [-1, 1, "WideInside", [64, 64]], [-1, 1, "Conv", [64, 3, 2]]]
    assert list(_rows_of(rows, [[2, 5], 1, "Detect", ["nc"]], "model.4.b.conv")) == [4]


@pytest.mark.slow
def test_a_block_that_reads_the_image_in_two_rows_stays_in_one() -> None:
    """Both halves of a C2f would read the image, which only the first row can: for the second -1 is the first."""
    rows = [[-1, 1, "C2f", [32, True]], *BACKBONE[1:]]
    assert _rows_of(rows, [[2, 4], 1, "Detect", ["nc"]], "model.0.m.0.cv1.conv") == {}
