"""Which channels count as dead: those that zero scales of batch-norm silence, and no others."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from conftest import classes, conv, filled
from torch import Tensor, nn
from two_norms import IMAGE, Net, hidden

from yoloprune.importance.dead_channels import dead, removable_by_gamma
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.tracing.trace_network import trace


def with_gammas(bn: Sequence[float], bn2: Sequence[float]) -> tuple[Net, ChannelGraph]:
    model = Net()
    filled(model.bn, bn)
    filled(model.bn2, bn2)
    return model, trace(model, IMAGE)


def test_dead_are_those_whose_members_are_all_zero() -> None:
    model, graph = with_gammas([0, 0, 1], [0, 1, 0])
    assert hidden(graph, dead(model, graph)) == [True, False, False]
    assert dead(model, graph).sum() == 1


def test_almost_zero_is_not_dead() -> None:
    model, graph = with_gammas([0, -1e-30, 0], [0, 0, 1e-30])
    assert hidden(graph, dead(model, graph)) == [True, False, False]


def test_channels_that_may_not_be_cut_are_not_dead() -> None:
    model, _ = with_gammas([0, 0, 0], [0, 0, 0])
    assert not dead(model, trace(model, IMAGE, keep={"a": "keep=a"})).any()


class Partly(nn.Module):
    """bn(a) + b: a zero gamma silences only one of the two that make these channels."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.bn, self.b, self.c = conv(2, 3), nn.BatchNorm2d(3), conv(2, 3), conv(3, 1)
        self.how, self.l = how, nn.Linear(2, 3)
        self.bn.weight.data.zero_()
        self.free = nn.BatchNorm2d(3, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "no norm":
            return self.c(self.b(x))
        if self.how == "no scale":
            return self.c(self.bn(self.a(x)) + self.free(self.b(x)))
        if self.how == "linear":
            return self.c(self.bn(self.a(x)) + self.l(x.mean((2, 3)))[..., None, None])
        return self.c(self.bn(self.a(x)) + self.b(x))


@pytest.mark.parametrize("how", ["no norm", "no scale", "linear", "residual"])
def test_channels_that_batch_norm_cannot_silence_are_never_dead(how: str) -> None:
    """Even with every gamma at zero, what another layer makes without batch-norm is alive."""
    model = Partly(how).eval()
    graph = trace(model, IMAGE)
    made = classes(graph, "b.outputs" if how != "linear" else "a.outputs")
    assert not removable_by_gamma(model, graph)[made].any()
    assert not dead(model, graph)[made].any()


def test_a_norm_over_more_than_the_channels_it_follows() -> None:
    """Normalised after a concat, as DenseNet does it: one of the two readers sees the channels without the norm."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.bn, self.c, self.d = (
                conv(2, 3),
                conv(2, 3),
                nn.BatchNorm2d(6),
                conv(6, 1),
                conv(3, 1),
            )
            self.bn.weight.data.zero_()

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            return self.c(self.bn(torch.cat([a, self.b(x)], 1))) + self.d(a)

    model = Dense().eval()
    graph = trace(model, IMAGE)
    assert not dead(model, graph)[classes(graph, "a.outputs")].any()


def test_a_norm_after_a_second_reader_does_not_silence() -> None:
    """bn follows a, but d reads a before the norm: cutting the channel would change d."""

    class Before(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bn, self.c, self.d = conv(2, 3), nn.BatchNorm2d(3), conv(3, 1), conv(3, 1)
            self.bn.weight.data.zero_()

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            return self.c(self.bn(a)) + self.d(a)

    model = Before().eval()
    graph = trace(model, IMAGE)
    assert not dead(model, graph).any()


# Filters of zeros -----------------------------------------------------------------------------------------------------
def test_filters_of_zeros_are_dead_whatever_follows() -> None:
    """Of two layers that make the same channels both filters have to be zero; batch-norms may do as they like."""
    model = Net()
    for norm in (model.bn, model.bn2):
        norm.weight.data.fill_(1.0)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.out_channels == 3]
    for conv_layer in layers:
        conv_layer.weight.data[:2] = 0
    layers[-1].weight.data[1] = 1e-30
    graph = trace(model, IMAGE)
    assert hidden(graph, dead(model, graph)) == [True, len(layers) == 1, False]


def test_channels_without_filters_are_not_dead() -> None:
    model, graph = with_gammas([1, 1, 1], [1, 1, 1])
    assert not dead(model, graph).any()
