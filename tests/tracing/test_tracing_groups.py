"""Layers in groups, and numbers that stand beside the channels: buffers, positions, grids."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import conv, cut_copy, filled, noise, reasons, without
from networks import FREE, IMAGE, Net, exact, held, net
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.cutting import comparison
from yoloprune.errors import PlanError
from yoloprune.planning import steps
from yoloprune.planning.plan import Keep, Plan
from yoloprune.settings.budget import Limits
from yoloprune.tracing.trace_network import trace


# Groups ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("layer", "out"),
    [
        (conv(8, 8, 3, groups=4), 8),
        (conv(8, 12, 3, groups=2), 12),
        (conv(8, 16, 3, groups=8), 16),
        (nn.ConvTranspose2d(8, 8, 2, 2, groups=8), 8),
        (nn.ConvTranspose2d(8, 16, 3, groups=8, bias=False), 16),
        (nn.ConvTranspose2d(8, 12, 2, 2, groups=4), 12),
        (nn.ConvTranspose2d(8, 6, 3), 6),
    ],
    ids=["groups", "wider", "multiplied", "transposed", "transposed wider", "transposed groups", "transposed dense"],
)
def test_whole_groups_go(layer: nn.Conv2d, out: int) -> None:
    layers = {"a": conv(3, 8), "g": layer, "bn": nn.BatchNorm2d(out), "b": conv(out, 2)}
    graph = exact(net(lambda m, x: m.b(m.bn(m.g(m.a(x))).relu()), **layers))
    assert reasons(graph, "a.outputs") == reasons(graph, "g.outputs") == FREE


def test_a_group_of_the_image_stays() -> None:
    graph = held(net(lambda m, x: m.b(m.g(x)), g=conv(3, 6, groups=3), b=(6, 2)))
    assert reasons(graph, "g.outputs") == {"fixed input"}


def test_a_group_is_cut_by_hand() -> None:
    """Two groups of two; the first goes: what is left reads inputs 2 and 3 with the weights of outputs 2 and 3."""
    weight = [[1, 2], [3, 4], [5, 6], [7, 8]]
    grouped = filled(conv(4, 4, groups=2), weight, [0, 0, 1, 2])
    model = Net(lambda m, x: m.b(m.g(m.a(x))), a=conv(3, 4), g=grouped, b=conv(4, 2))
    graph = trace(model, IMAGE)
    plan = graph.plan(without(graph, "g.outputs", [0, 1]))
    small = cut_copy(model, plan)
    assert small.g.weight.flatten().tolist() == [5, 6, 7, 8]
    assert small.g.bias.tolist() == [1, 2]
    assert (small.g.groups, small.g.in_channels, small.g.out_channels, small.a.out_channels) == (1, 2, 2, 2)
    comparison.verify(model, small, plan, IMAGE)
    with pytest.raises(PlanError, match="whole groups of 2"):
        cut_copy(model, Plan({"g": Keep(outputs=(1, 2, 3), of=(4, None))}))


def test_widths_of_groups_are_rounded_as_channels() -> None:
    graph = trace(net(lambda m, x: m.b(m.g(m.a(x))), a=(3, 32), g=conv(32, 32, groups=8), b=(32, 2)), IMAGE)
    (tie,) = graph.ties
    assert tie.packs == (4,)
    assert steps.allowed(tie, Limits(round_to=8, min_width=8, max_ratio=1), graph) == [6, 4, 2]


# Numbers beside the channels ------------------------------------------------------------------------------------------
class Frozen(nn.Module):
    """Batch-norm whose numbers are all buffers, as in torchvision."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for seed, key in enumerate(("weight", "bias", "mean", "var")):
            self.register_buffer(key, noise(width, seed=seed).abs() + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.var + 1e-5).rsqrt()
        return x * scale.reshape(1, -1, 1, 1) + (self.bias - self.mean * scale)[:, None, None]


def test_buffers_follow_the_channels() -> None:
    graph = exact(net(lambda m, x: m.b(m.n(m.a(x)).relu()), a=(3, 6), n=Frozen(6), b=(6, 2)))
    assert reasons(graph, "a.outputs") == FREE
    plan = graph.plan(without(graph, "a.outputs", [1, 4]))
    assert plan.keep["n.mean"].outputs == (0, 2, 3, 5)


def test_buffers_of_the_image_and_of_positions_are_constants() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x - m.mean) + m.columns + m.rows
        return m.b(y * m.gain) + m.columns.sum()

    model = net(body, a=(3, 6), b=(6, 2), rows=nn.Parameter(noise(1, 1, 6, 1)), gain=nn.Parameter(noise(6, 1, 1)))
    model.register_buffer("mean", noise(1, 3, 1, 1))
    model.register_buffer("columns", noise(6))
    graph = exact(model)
    assert reasons(graph, "a.outputs") == FREE
    assert None not in reasons(graph, "columns.outputs") | reasons(graph, "mean.outputs") | reasons(
        graph, "rows.outputs"
    )


def test_a_buffer_that_meets_channels_and_something_else_holds_them() -> None:
    model = net(lambda m, x: m.b(m.a(x) * m.scale[:, None, None]) + m.scale.cumsum(0)[-1], a=(3, 6), b=(6, 2))
    model.register_buffer("scale", noise(6))
    assert None not in reasons(held(model), "a.outputs")


def test_a_grid_is_read_and_its_channels_stay() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        return m.b(F.grid_sample(m.a(x), m.offset(x).permute(0, 2, 3, 1).tanh(), align_corners=False))

    graph = exact(net(body, a=(3, 6), offset=(3, 2), b=(6, 2)))
    assert reasons(graph, "a.outputs") == FREE
    assert None not in reasons(graph, "offset.outputs")


@pytest.mark.parametrize(
    "act",
    [
        lambda y: F.mish(y, inplace=True),
        lambda y: F.threshold(y, 0.1, 0.7, inplace=True),
        lambda y: F.rrelu(y, training=False),
        lambda y: F.rrelu(y, training=False, inplace=True),
        lambda y: F.logsigmoid(y),
        lambda y: y.masked_fill(y < 0, 0.3),
        lambda y: y.masked_fill_(y.detach() < 0, -1.0),
        lambda y: torch.where(y > 0, y, 0.1),
        lambda y: y.floor_divide_(0.3),
        lambda y: torch.polar(y.abs(), y).abs(),
        lambda y: F.interpolate(y.unsqueeze(2), scale_factor=2, mode="trilinear").amax(2),
        lambda y: F.interpolate(y.flatten(2), scale_factor=2, mode="linear")[..., None],
        lambda y: F.adaptive_avg_pool3d(y.unsqueeze(2), 1)[:, :, 0],
        lambda y: F.interpolate(y, scale_factor=2, mode="bicubic", antialias=True),
    ],
)
def test_forms_of_element_wise_operations(act: Callable[[Tensor], Tensor]) -> None:
    graph = exact(net(lambda m, x: m.b(act(m.a(x))), a=(3, 6), b=(6, 2)))
    assert reasons(graph, "a.outputs") == FREE
