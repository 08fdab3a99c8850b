"""Which examples stand for all: pieces that are alike on the smallest image are told apart on a wider one."""

from __future__ import annotations

import pytest
import torch
from conftest import conv, cut_copy, cutting_alive, noise
from torch import Tensor, nn

from yoloprune.cutting.comparison import TOLERANCE, verify
from yoloprune.cutting.proof import prove
from yoloprune.errors import VerifyError
from yoloprune.probing.examples import Example
from yoloprune.probing.survey import survey
from yoloprune.tracing import trace


class Pooled(nn.Module):
    """As SPPF: what is pooled once, twice and three times lies side by side; on 4x4 cells twice is as good as once."""

    def __init__(self, window: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.pool, self.b = conv(3, 4), nn.MaxPool2d(window, 1, window // 2), conv(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        pieces = [self.a(x)]
        for _ in range(3):
            pieces.append(self.pool(pieces[-1]))
        return self.b(torch.cat(pieces, 1))


def images(size: int, batch: int) -> Example:
    return Example((noise(batch, 3, size, size),), f"{batch} of {size}")


def test_pieces_that_are_alike_on_a_small_image_are_told_apart() -> None:
    model = Pooled()
    probe = survey(model, images, 4, 64)
    plan = (graph := trace(model, probe)).plan(cutting_alive(graph, 0))
    child = cut_copy(model, plan)
    assert prove(model, child, plan, probe).error <= TOLERANCE
    first, second, third, fourth = child.b.weight.data.chunk(4, 1)
    child.b.weight.data = torch.cat([first, second, fourth, third], 1)
    assert verify(model, child, plan, probe.proving[0]) <= TOLERANCE
    with pytest.raises(VerifyError, match="differs"):
        prove(model, child, plan, probe)


@pytest.mark.parametrize(("window", "widths"), [(3, [4]), (5, [4, 8]), (13, [4, 16])])
def test_an_image_is_as_wide_as_the_windows_need(window: int, widths: list[int]) -> None:
    probe = survey(Pooled(window), images, 4, 64)
    assert [tuple(e.inputs[0].shape[2:]) for e in probe.proving] == [(4, w) for w in widths]
