"""Operations and layers without a rule, and what mixes channels: exactly what they touch is frozen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import classes, conv, noise, reasons
from networks import FREE, IMAGE, INPUT, Net, exact, held, net
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.tracing.trace_network import trace


class Bounded(nn.Module):
    """No channel is longer than 1: no rule, and rightly so."""

    def forward(self, x: Tensor) -> Tensor:
        return x.renorm(2, 1, 1.0)


class Triangle(nn.Module):
    """The upper triangle of each map: there might be a rule."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu()


@pytest.mark.parametrize("module, op", [(Bounded(), "renorm"), (Triangle(), "triu")])
def test_unknown_operation_freezes_exactly_what_it_touches(module: nn.Module, op: str) -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).relu()
        return m.d(torch.cat([m.c(m.odd(m.b(y))), m.e(y)], 1))

    graph = exact(net(body, a=(3, 4), b=(4, 5), odd=module, c=(5, 6), e=(4, 3), d=(9, 2)))
    assert graph.unknown == {op: "odd"}
    assert reasons(graph, "b.outputs") == {f"no rule for {op} in odd"}
    assert reasons(graph, "c.inputs") == INPUT  # what comes out has no channel identity
    for name, width in (("a", 4), ("c", 6), ("e", 3)):
        assert reasons(graph, f"{name}.outputs") == FREE
        assert len(set(classes(graph, f"{name}.outputs"))) == width


def test_the_code_of_the_network_itself_has_no_name_but_is_told() -> None:
    graph = exact(
        net(
            lambda m, x: m.b(m.a(x).renorm(2, 1, 1.0)) + m.c(x),
            a=(3, 4),
            b=(4, 2),
            c=nn.Sequential(conv(3, 4), conv(4, 2)),
        )
    )
    assert graph.unknown == {"renorm": "the network's own code"}
    assert reasons(graph, "a.outputs") == {"no rule for renorm in the network's own code"}


def test_unknown_operation_on_two_maps_freezes_both() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        return m.c(torch.cdist(m.a(x), m.b(x)))

    graph = held(net(body, a=(3, 4), b=(3, 4), c=(4, 2)))
    assert list(graph.unknown) == ["_cdist_forward"]
    assert None not in reasons(graph, "a.outputs") | reasons(graph, "b.outputs")


@pytest.mark.parametrize(
    "mix",
    [
        lambda y: y.softmax(1),
        lambda y: y - y.mean(1, keepdim=True),
        lambda y: y / y.norm(dim=1, keepdim=True),
        lambda y: y * y.sum(1, keepdim=True),
        lambda y: F.normalize(y),
        lambda y: y - y.mean(),
        lambda y: y * y.amax(),
        lambda y: F.layer_norm(y, y.shape[1:]),
        lambda y: F.group_norm(y, 2),
        lambda y: y.sort(1)[0],
        lambda y: F.max_pool2d(y.transpose(1, 3), 3, 1, 1).transpose(1, 3),
        lambda y: F.avg_pool3d(y[:, None], 3, 1, 1)[:, 0],
        lambda y: F.local_response_norm(y, 3),
    ],
    ids=[
        "softmax",
        "mean",
        "norm",
        "sum",
        "normalize",
        "all",
        "max",
        "layer_norm",
        "group_norm",
        "sort",
        "pool",
        "3d",
        "lrn",
    ],
)
def test_mixing_channels_is_frozen(mix: Callable[[Tensor], Tensor]) -> None:
    graph = exact(net(lambda m, x: m.c(m.b(mix(m.a(x)))), a=(3, 4), b=(4, 5), c=(5, 2)))
    assert None not in reasons(graph, "a.outputs")
    assert reasons(graph, "b.outputs") == FREE


def test_parameters_of_an_unknown_layer_are_frozen_with_it() -> None:
    norm = nn.LayerNorm([4, 6, 6])
    graph = exact(net(lambda m, x: m.c(m.b(m.norm(m.a(x)))), a=(3, 4), norm=norm, b=(4, 5), c=(5, 2)))
    assert reasons(graph, "b.outputs") == FREE
    for axis in map(str, graph.axes):
        assert not axis.startswith("norm") or None not in reasons(graph, axis)


class Own(nn.Module):
    """A layer that keeps its weights itself."""

    def __init__(self, *shape: int, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(noise(*shape)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


def test_convolution_of_an_unknown_class() -> None:
    own = Own(5, 4, 1, 1, function=F.conv2d)
    graph = exact(net(lambda m, x: m.c(m.own(m.b(m.a(x)))), a=(3, 6), b=(6, 4), own=own, c=(5, 2)))
    assert reasons(graph, "a.outputs") == FREE


def test_linear_layer_of_an_unknown_class() -> None:
    own = Own(5, 4, function=lambda x, w: F.linear(x.mean((2, 3)), w))
    graph = exact(net(lambda m, x: m.c(m.own(m.b(m.a(x)))), a=(3, 6), b=(6, 4), own=own, c=nn.Linear(5, 2)))
    assert reasons(graph, "a.outputs") == FREE


def test_two_weights_in_one_module() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Parameter(noise(6, 4, 1, 1)), nn.Parameter(noise(5, 6, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(F.conv2d(x, self.first).relu(), self.second)

    graph = exact(net(lambda m, x: m.c(m.two(m.b(m.a(x)))), a=(3, 6), b=(6, 4), two=Two(), c=(5, 2)))
    assert reasons(graph, "a.outputs") == FREE


def test_computed_weights_are_frozen() -> None:
    def standardised(m: Net, x: Tensor) -> Tensor:
        w = m.b.weight
        return m.c(F.conv2d(m.a(x), (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)))

    graph = held(net(standardised, a=(3, 4), b=(4, 5), c=(5, 2)))
    assert reasons(graph, "a.outputs") == {"computed weights of convolution in the network's own code"}


def test_network_input_is_frozen_where_it_joins_channels() -> None:
    graph = held(net(lambda m, x: m.b(m.a(x) + x), a=(3, 3), b=(3, 2)))
    assert None not in reasons(graph, "a.outputs")


def test_what_a_module_hands_on_without_channels_has_its_width_all_the_same() -> None:
    """A convolution along the channels, as in ECA: nothing of them can go, and layers behind it know how many come."""

    def body(m: Net, x: Tensor) -> Tensor:
        return m.b(m.eca(m.a(x)))

    class Eca(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.conv(x.mean((2, 3))[:, None]).transpose(1, 2)[..., None].sigmoid()

    graph = trace(net(body, a=(3, 6), eca=Eca(), b=(6, 2)), IMAGE, handing_on=["a", "eca"])
    assert len(classes(graph, "eca.count")) == len(classes(graph, "a.count")) == 6
    assert None not in reasons(graph, "eca.count")


def test_statistics_along_positions_tell_two_things_of_each_channel() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        variance, mean = torch.var_mean(y, (2, 3), keepdim=True)
        return m.b((y - mean) / (variance + 1).sqrt())

    assert reasons(exact(net(body, a=(3, 4), b=(4, 2))), "a.outputs") == FREE
