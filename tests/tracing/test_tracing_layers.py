"""Channel identity through layers: what a chain, a sum, a concatenation and each kind of layer unite or repeat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import classes, conv, cut_copy, noise, partners, reasons, without
from networks import FREE, IMAGE, INPUT, OUTPUT, Net, chain, exact, held, net
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.errors import PlanError


def test_chain() -> None:
    graph = exact(chain())
    assert [str(a) for a in graph.axes] == ["a.outputs", "a.inputs", "bn.outputs", "b.outputs", "b.inputs"]
    assert [a.width for a in graph.axes] == [4, 3, 4, 2, 4]
    hidden = classes(graph, "a.outputs")
    assert len(set(hidden)) == 4
    assert hidden == classes(graph, "bn.outputs") == classes(graph, "b.inputs")
    assert reasons(graph, "a.outputs") == FREE
    assert reasons(graph, "a.inputs") == INPUT
    assert reasons(graph, "b.outputs") == OUTPUT
    assert {g.name: g.size for g in graph.groups} == {"a": 4, "a.inputs": 3, "b": 2}
    assert next(g.axes for g in graph.groups if g.name == "a") == ("a.outputs", "bn.outputs", "b.inputs")
    assert partners(graph, "a.outputs") == [(4,)]
    assert graph.unknown == {}


def test_residual_add_unites() -> None:
    graph = exact(net(lambda m, x: m.c((y := m.a(x)) + m.b(y).relu()), a=(3, 4), b=(4, 4), c=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs") == classes(graph, "b.inputs")
    assert classes(graph, "a.outputs") == classes(graph, "c.inputs")
    assert [g.size for g in graph.groups if g.frozen is None] == [4]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_concat_keeps_positions(order: tuple[str, str]) -> None:
    graph = exact(net(lambda m, x: m.c(torch.cat([getattr(m, k)(x) for k in order], 1)), a=(3, 4), b=(3, 3), c=(7, 2)))
    assert classes(graph, "c.inputs") == classes(graph, f"{order[0]}.outputs") + classes(graph, f"{order[1]}.outputs")
    assert sorted(partners(graph, "c.inputs")) == [(3,), (4,)]


def test_concat_of_one_group_four_times_repeats_its_positions() -> None:
    def sppf(m: Net, x: Tensor) -> Tensor:
        y = [m.a(x)]
        y += [p := F.max_pool2d(y[0], 3, 1, 1), F.max_pool2d(p, 3, 1, 1), F.max_pool2d(p, 5, 1, 2)]
        return m.b(torch.cat(y, 1))

    graph = exact(net(sppf, a=(3, 4), b=(16, 2)))
    assert classes(graph, "b.inputs") == classes(graph, "a.outputs") * 4
    plan = graph.plan(without(graph, "a.outputs", [1, 3]))
    assert plan.keep["a"].outputs == (0, 2)
    assert plan.keep["b"].inputs == (0, 2, 4, 6, 8, 10, 12, 14)


def test_concat_along_space_unites_channel_by_channel() -> None:
    graph = exact(net(lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 2)), a=(3, 4), b=(3, 4), c=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs")


def test_concat_of_a_learned_token() -> None:
    """As in a vision transformer: a parameter of as many channels, put before the positions of the image."""

    def tokens(m: Net, x: Tensor) -> Tensor:
        y = torch.cat([m.token.expand(len(x), -1, -1), m.a(x).flatten(2).transpose(1, 2)], 1)
        return m.b(y)

    graph = exact(net(tokens, a=(3, 4), token=nn.Parameter(noise(1, 1, 4)), b=nn.Linear(4, 2)), torch.cat([IMAGE] * 2))
    assert classes(graph, "token.outputs") == classes(graph, "a.outputs") == classes(graph, "b.inputs")
    assert reasons(graph, "a.outputs") == FREE


def test_concat_with_a_constant_freezes_its_positions_only() -> None:
    def coordinates(m: Net, x: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, x.shape[3]).expand(len(x), 1, x.shape[2], x.shape[3])
        return m.b(torch.cat([m.a(x), ramp, -ramp], 1))

    graph = exact(net(coordinates, a=(3, 4), b=(6, 2)))
    assert classes(graph, "b.inputs")[:4] == classes(graph, "a.outputs")
    assert reasons(graph, "a.outputs") == FREE
    with pytest.raises(PlanError, match="fixed input"):
        graph.plan(without(graph, "b.inputs", [5]))


def test_depthwise_passes_channels_on() -> None:
    graph = exact(net(lambda m, x: m.b(m.d(m.a(x))), a=(3, 4), d=conv(4, 4, 3, groups=4), b=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "d.outputs") == classes(graph, "b.inputs")
    assert "d.inputs" not in {str(a) for a in graph.axes}


def test_depthwise_with_multiplier() -> None:
    model = net(lambda m, x: m.b(m.d(m.a(x))), a=(3, 4), d=conv(4, 8, 3, groups=4), b=(8, 2))
    graph = exact(model)
    assert classes(graph, "d.outputs") == np.repeat(classes(graph, "a.outputs"), 2).tolist()
    small = cut_copy(model, graph.plan(without(graph, "a.outputs", [0, 2])))
    assert (small.d.groups, small.d.in_channels, small.d.out_channels) == (2, 2, 4)
    assert torch.equal(small.d.weight, model.d.weight[[2, 3, 6, 7]])


def test_depthwise_on_the_image_is_frozen() -> None:
    graph = held(net(lambda m, x: m.b(m.d(x)), d=conv(3, 6, 3, groups=3), b=(6, 2)))
    assert reasons(graph, "d.outputs") == INPUT


def test_grouped_convolution_keeps_whole_groups() -> None:
    graph = exact(net(lambda m, x: m.c(m.g(m.a(x))), a=(3, 4), g=conv(4, 4, 3, groups=2), c=(4, 2)))
    a = classes(graph, "a.outputs")
    assert a == classes(graph, "g.outputs") == [a[0], a[0], a[2], a[2]]


def test_transposed_convolution() -> None:
    model = net(lambda m, x: m.b(m.t(m.a(x)).relu()), a=(3, 4), t=nn.ConvTranspose2d(4, 5, 2, 2), b=(5, 2))
    graph = exact(model)
    assert classes(graph, "t.inputs") == classes(graph, "a.outputs")
    assert classes(graph, "t.outputs") == classes(graph, "b.inputs")
    assert len(set(classes(graph, "t.outputs"))) == 5


def test_flatten_into_a_linear_layer() -> None:
    model = net(lambda m, x: m.l(F.adaptive_avg_pool2d(m.a(x), 7).flatten(1)), a=(3, 4), l=nn.Linear(4 * 49, 5))
    graph = exact(model, noise(1, 3, 14, 14))
    assert classes(graph, "l.inputs") == np.repeat(classes(graph, "a.outputs"), 49).tolist()
    small = cut_copy(model, graph.plan(without(graph, "a.outputs", [1])))
    assert small.l.in_features == 3 * 49
    assert torch.equal(small.l.weight, model.l.weight[:, [*range(49), *range(98, 196)]])


def test_linear_layers_on_tokens() -> None:
    def tokens(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        t = y.flatten(2).transpose(1, 2)
        t = t + m.l2(m.bn(m.l1(t).transpose(1, 2)).transpose(1, 2).relu())
        return m.b(t.transpose(1, 2).reshape(y.shape))

    layers = {"l1": nn.Linear(4, 8), "bn": nn.BatchNorm1d(8), "l2": nn.Linear(8, 4)}
    graph = exact(net(tokens, a=(3, 4), b=(4, 2), **layers))
    assert classes(graph, "a.outputs") == classes(graph, "l1.inputs") == classes(graph, "l2.outputs")
    assert classes(graph, "l1.outputs") == classes(graph, "bn.outputs") == classes(graph, "l2.inputs")


# Layers that are given numbers of their own, or have their channels elsewhere ---------------------------------------
class Shifted(nn.Conv2d):
    """Its bias is a parameter of another name."""

    def __init__(self, c: int) -> None:
        super().__init__(c, c, 1, bias=False)
        self.shift = nn.Parameter(noise(c))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.shift)


class Offset(nn.Linear):
    """The same for vectors."""

    def __init__(self, c: int) -> None:
        super().__init__(c, c, bias=False)
        self.shift = nn.Parameter(noise(c))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.shift)


class Gained(nn.BatchNorm2d):
    """Scale and shift beside statistics that it has from torch."""

    def __init__(self, c: int) -> None:
        super().__init__(c, affine=False)
        self.gain, self.shift = nn.Parameter(noise(c)), nn.Parameter(noise(c, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.gain, self.shift)


@pytest.mark.parametrize("layer, own", [(Shifted(4), "shift"), (Gained(4), "gain")], ids=lambda v: type(v).__name__)
def test_numbers_that_come_with_the_input_follow_the_channels(layer: nn.Module, own: str) -> None:
    graph = exact(net(lambda m, x: m.b(m.odd(m.a(x)).relu()), a=(3, 4), odd=layer, b=(4, 2)))
    assert classes(graph, f"odd.{own}.outputs") == classes(graph, "odd.outputs") == classes(graph, "b.inputs")
    assert reasons(graph, "odd.outputs") == FREE


def test_a_shift_of_vectors_follows_the_channels() -> None:
    graph = exact(net(lambda m, x: m.b(m.odd(m.a(x).mean((2, 3)))), a=(3, 4), odd=Offset(4), b=nn.Linear(4, 2)))
    assert classes(graph, "odd.shift.outputs") == classes(graph, "odd.outputs") == classes(graph, "b.inputs")
    assert reasons(graph, "odd.outputs") == FREE


def test_numbers_of_no_tensor_that_is_cut_hold_the_channels() -> None:
    fixed = noise(4)
    graph = exact(
        net(
            lambda m, x: m.c(F.batch_norm(m.a(x), fixed, fixed.exp()) + 0 * m.b(x)),
            a=(3, 4),
            b=nn.Sequential(conv(3, 5), conv(5, 4)),
            c=(4, 2),
        )
    )
    assert reasons(graph, "a.outputs") == {
        "a tensor of fixed width is given to aten::native_batch_norm in the network's own code"
    }


class Pair(nn.Conv2d):
    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return super().forward(x), None


class Last(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).permute(0, 2, 3, 1)


class Styled(nn.Conv2d):
    def forward(self, style: Tensor, x: Tensor) -> Tensor:
        return super().forward(x * style)


@pytest.mark.parametrize(
    "odd, use",
    [
        (Pair, lambda layer, y: layer(y)[0]),
        (Last, lambda layer, y: layer(y).permute(0, 3, 1, 2)),
        (Styled, lambda layer, y: layer(y.new_ones(()), y)),
    ],
)
def test_layers_that_have_their_channels_elsewhere_keep_them(odd: type[nn.Conv2d], use: Callable[..., Tensor]) -> None:
    graph = exact(
        net(
            lambda m, x: m.b(use(m.odd, m.a(x).relu()).relu()),
            a=nn.Sequential(conv(3, 5), conv(5, 4)),
            odd=odd(4, 6, 1),
            b=(6, 2),
        )
    )
    why = f"{odd.__name__} odd has its channels elsewhere than torch's own layer"
    assert reasons(graph, "odd.inputs" if odd is Styled else "odd.outputs") == {why}


def test_a_product_per_channel_unites_the_two() -> None:
    graph = exact(net(lambda m, x: m.b(m.a(x) @ m.c(x).transpose(2, 3)), a=(3, 4), c=(3, 4), b=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "c.outputs") == classes(graph, "b.inputs")
    assert reasons(graph, "a.outputs") == FREE


@pytest.mark.parametrize("scale", [None, nn.Parameter(noise(4))], ids=["plain", "scaled"])
def test_instances_are_normalised_channel_by_channel(scale: nn.Parameter | None) -> None:
    layers = {} if scale is None else {"scale": scale}
    graph = exact(
        net(
            lambda m, x: m.b(F.instance_norm(m.a(x), weight=getattr(m, "scale", None)).relu()),
            a=(3, 4),
            b=(4, 2),
            **layers,
        )
    )
    assert reasons(graph, "a.outputs") == FREE


def test_channels_last_and_pooling_to_one_pixel() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(y * m.e(F.adaptive_avg_pool2d(y, 1)).sigmoid())

    model = net(body, a=(3, 8), e=(8, 8), b=(8, 2)).to(memory_format=torch.channels_last)
    graph = exact(model)
    assert reasons(graph, "a.outputs") == FREE and graph.unknown == {}
