"""Numbers in which modules remember widths follow the cut where nothing reads them and the layers agree."""

from __future__ import annotations

import torch
from conftest import conv, cut_copy, noise
from torch import Tensor, nn

from yoloprune.cutting import remembered_widths
from yoloprune.planning.plan import Keep, Plan

PLAN = Plan(
    {
        "block.a": Keep(outputs=(0, 2, 3), of=(6, None)),
        "block.b": Keep(outputs=(1, 4), inputs=(0, 2, 3), of=(5, 6)),
        "last": Keep(inputs=(1, 4), of=(None, 5)),
    }
)


class Block(nn.Module):
    """Six channels inside, five go out, and nothing in it reads these numbers again but one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 6), conv(6, 5)
        self.hidden_channels, self.out_channels, self.in_channels, self.groups = 6, 5, 3, 6

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block, self.other, self.last = Block(), Block(), conv(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(x) + 0 * self.other(x)[:, :1])


def test_numbers_that_nothing_reads_follow_their_layers() -> None:
    model = Net()
    small = cut_copy(model, PLAN)
    block, other = small.block, small.other
    assert (block.hidden_channels, block.out_channels, block.in_channels) == (3, 2, 3)
    assert block.groups == 6  # its name does not speak of a width
    assert (other.hidden_channels, other.out_channels, other.in_channels) == (6, 5, 3)
    assert not remembered_widths.stale(model, small)
    assert small(noise(1, 3, 4, 4)).shape == (1, 2, 4, 4)


def test_a_number_on_which_the_layers_no_longer_agree_is_left_and_told() -> None:
    model = Net()
    model.block.c = conv(1, 5)  # which is not cut
    small = cut_copy(model, PLAN)
    assert small.block.out_channels == 5 and not remembered_widths.stale(model, small)  # one of them still agrees
    small.block.c.out_channels = 4
    assert remembered_widths.stale(model, small) == ["block.out_channels"]
