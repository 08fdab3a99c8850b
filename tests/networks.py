"""Small plain networks that the tests of tracing share, and the check that what a trace allows is cut exactly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from conftest import assert_exact, assert_held, conv, noise, settle
from torch import Tensor, nn

from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.tracing.trace_network import trace

IMAGE = noise(1, 3, 6, 6)
OUTPUT, INPUT = {"network output"}, {"fixed input"}
FREE = {None}


class Net(nn.Module):
    """Named layers and a function of them and the image."""

    def __init__(self, body: Callable[..., object], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> object:
        return self.body(self, x)


def net(body: Callable[..., object], **layers: object) -> Net:
    """A network with seeded weights; layers given as (inputs, outputs) are 1x1 convolutions."""
    torch.manual_seed(0)
    made = {k: conv(*v) if isinstance(v, tuple) else v for k, v in layers.items()}
    return settle(Net(body, **made)).eval()  # type: ignore[arg-type, return-value]


def exact(model: nn.Module, image: Tensor = IMAGE) -> ChannelGraph:
    """Trace, and check that random plans are cut exactly, also on a larger batch than the traced one."""
    graph = trace(model, image)
    assert_exact(model, graph, torch.cat([image, image.flip(-1) * 2]))
    return graph


def held(model: nn.Module, image: Tensor = IMAGE) -> ChannelGraph:
    """Trace, and check that no channel at all may go."""
    graph = trace(model, image)
    assert_held(model, graph, torch.cat([image, image.flip(-1) * 2]))
    return graph


def chain() -> Net:
    """Convolution, batch-norm, ReLU, convolution."""
    return net(
        lambda m, x: m.b(m.bn(m.a(x)).relu()), a=conv(3, 4, 3, bias=False), bn=nn.BatchNorm2d(4), b=conv(4, 2, 3)
    )


def halves(m: Net, x: Tensor) -> Tensor:
    """As in C2f: two halves, one of which goes through another layer and is added to itself."""
    u, v = m.a(x).chunk(2, 1)
    return m.c(torch.cat([u, v, m.b(v) + v], 1))
