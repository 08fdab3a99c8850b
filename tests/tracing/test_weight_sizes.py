"""Sizes that code asks of a layer's weight: those of its kernel are plain numbers, the others count its channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import conv, noise, reasons
from networks import FREE, Net, exact, held, net
from torch import Tensor, nn
from torch.nn import functional as F


class Same(nn.Conv2d):
    """Pads as TensorFlow does, as the convolutions of EfficientDet: by the kernel and the stride."""

    def forward(self, x: Tensor) -> Tensor:
        across = max((-(-x.shape[-1] // self.stride[0]) - 1) * self.stride[0] + self.weight.shape[-1] - x.shape[-1], 0)
        x = F.pad(x, (across // 2, across - across // 2, across // 2, across - across // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, groups=self.groups)


@pytest.mark.parametrize("groups", [1, 4, 8], ids=["dense", "in groups", "depthwise"])
def test_padding_asks_for_the_kernel(groups: int) -> None:
    graph = exact(
        net(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=Same(8, 8, 3, 2, groups=groups, bias=False), c=conv(8, 2))
    )
    assert reasons(graph, "a.outputs") == reasons(graph, "b.outputs") == FREE


class Asking(nn.Conv2d):
    """Does something with the sizes of its weight."""

    asked: Callable[[Tensor, Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.asked(self.weight, super().forward(x))


def asking(layer: nn.Module, asked: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    layer.asked = asked
    return layer


def test_the_width_of_a_weight_follows_the_cut() -> None:
    """Its own channels, seen as two halves by their number."""

    def pairs(w: Tensor, y: Tensor) -> Tensor:
        return y.view(y.shape[0], w.shape[0], -1).view(y.shape)

    def by_input(w: Tensor, y: Tensor) -> Tensor:
        return y + w.new_zeros(1, w.shape[0], 1, 1)

    for asked in (pairs, by_input):
        layers = {"a": conv(3, 8), "b": asking(Asking(8, 6, 1), asked), "c": conv(6, 2)}
        graph = exact(net(lambda m, x: m.c(m.b(m.a(x))), **layers))
        assert reasons(graph, "a.outputs") == reasons(graph, "b.outputs") == FREE


@pytest.mark.parametrize(("dim", "stays", "goes"), [(0, "b.outputs", "a.outputs"), (1, "a.outputs", "b.outputs")])
def test_a_width_that_is_used_as_a_number_stays(dim: int, stays: str, goes: str) -> None:
    """As a scale by the fan-in: of each side only what was asked for."""
    layer = asking(Asking(8, 6, 1), lambda w, y: y / w.shape[dim] ** 0.5)
    graph = exact(net(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=layer, c=conv(6, 2)))
    assert reasons(graph, stays) == {"width used as a number"} and reasons(graph, goes) == FREE


def test_transposed_and_linear_layers() -> None:
    class Up(nn.ConvTranspose2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (self.weight.shape[0] / self.weight.size(-1))

    class Mix(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.weight.shape[1]

    graph = exact(net(lambda m, x: m.c(m.b(m.a(x))), a=conv(3, 8), b=Up(8, 6, 2, 2), c=conv(6, 2)))
    assert reasons(graph, "a.outputs") == {"width used as a number"} and reasons(graph, "b.outputs") == FREE
    layers = {"a": nn.Linear(3, 8), "b": Mix(8, 6), "c": nn.Linear(6, 2)}
    graph = exact(net(lambda m, x: m.c(m.b(m.a(x))), **layers), noise(5, 3))
    assert reasons(graph, "a.outputs") == {"width used as a number"} and reasons(graph, "b.outputs") == FREE


def test_a_layer_that_is_asked_and_not_run_stays() -> None:
    """Nobody knows then who reads what it makes: on a larger image it may be run."""

    class Sometimes(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.weight.shape[-1] > 1 else x

    def body(m: Net, x: Tensor) -> Tensor:
        return m.c(m.b(m.a(x)))

    assert held(net(body, a=conv(3, 8), b=Sometimes(8, 8, 1), c=conv(8, 2)))


def test_weights_that_something_else_reads_still_hold_their_layer() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.c(m.b(y) + F.conv2d(y, m.b.weight) * m.b.weight.shape[-1])

    held(net(body, a=conv(3, 8), b=conv(8, 8), c=conv(8, 2)))
