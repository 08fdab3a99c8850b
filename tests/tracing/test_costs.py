"""What a trace counts: parameters and FLOPs by axis, growth with the image, readers of bare channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import conv
from networks import IMAGE, Net, chain, net
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from yoloprune.planning.channel_graph import ChannelGraph, Term
from yoloprune.probing.examples import Example
from yoloprune.tracing.flop_scaling import growths
from yoloprune.tracing.trace_network import trace


def told(graph: ChannelGraph, terms: list[Term]) -> dict[tuple[str, ...], float]:
    """Factors by the names of the axes."""
    return {tuple(str(graph.axes[a]) for a in term.axes): term.factor for term in terms}


def test_parameters_by_axis() -> None:
    """A weight of 3 x 3 taps counts 9 for each pair of channels, biases and batch-norms one for each output."""
    graph = trace(chain(), IMAGE)
    assert told(graph, graph.params) == {
        ("a.outputs", "a.inputs"): 9.0,
        ("bn.outputs",): 2.0,
        ("b.outputs", "b.inputs"): 9.0,
        ("b.outputs",): 1.0,
    }


def test_parameters_of_a_linear_layer_by_axis() -> None:
    graph = trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False)), IMAGE.mean((2, 3)))
    assert told(graph, graph.params) == {
        ("0.outputs", "0.inputs"): 1.0,
        ("0.outputs",): 1.0,
        ("1.outputs", "1.inputs"): 1.0,
    }


def positions(m: Net, x: Tensor) -> Tensor:
    """Every position by every other, (1, 36, 4) x (1, 4, 36)."""
    y = m.a(x).flatten(2)
    return m.b((y @ (y.transpose(1, 2) @ y)).unflatten(2, (6, 6)))


def test_flops_of_a_product_of_activations_are_shared_out_among_its_channels() -> None:
    """(1, 36, 4) x (1, 4, 36) takes 2 · 36 · 36 per channel, and so does (1, 4, 36) x (1, 36, 36)."""
    graph = trace(net(positions, a=(3, 4), b=(4, 2)), IMAGE)
    per_channel = [t.factor for t in graph.flops if len(t.axes) == 1 and "product" in str(graph.axes[t.axes[0]])]
    assert per_channel == [2 * 36 * 36, 2 * 36 * 36]


def pooled(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    products = (y.flatten(2).transpose(1, 2) @ y.flatten(2)).mean()
    return m.l(y.mean((2, 3))) + products


def test_work_grows_with_the_area_its_square_or_not_at_all() -> None:
    """A convolution four times, each position by each other sixteen times, a layer behind the pooling once."""
    model = net(pooled, a=(3, 4), l=nn.Linear(4, 2))
    with FlopCounterMode(display=False) as counted:
        assert growths(model, Example.of(IMAGE), 4.0) == pytest.approx([4, 16, 1])
    assert counted.get_total_flops() == 0  # shapes tell
    assert growths(model, Example.of(IMAGE), 9.0) == pytest.approx([9, 81, 1])
    assert growths(model, Example.of(IMAGE), 1.0) == []


def test_work_of_a_network_that_divides_by_what_it_sees() -> None:
    model = net(lambda m, x: m.b(m.a(x)[..., :: int(m.a(x).max() * 0 + 1) // bool(m.a(x).any())]), a=(3, 4), b=(4, 2))
    assert growths(model, Example.of(IMAGE), 4.0) == pytest.approx([4, 4, 4, 4])


@pytest.mark.parametrize("chosen", [lambda s: s > 9, lambda s: s > 4, lambda s: s < 4], ids=["no", "large", "small"])
def test_work_on_nothing_tells_nothing_of_how_it_grows(chosen: Callable[[Tensor], Tensor]) -> None:
    """Images whose values sum up to enough or to little: the sum of the small one is 2, that of the large one 8."""
    model = net(lambda m, x: m.l(m.a(x).mean((2, 3))[chosen(x.sum((1, 2, 3)))]), a=(3, 4), l=nn.Linear(4, 2))
    bright = torch.full_like(IMAGE, 2 / IMAGE.numel())
    assert growths(model, Example.of(bright), 4.0) == pytest.approx([4, 4])
    assert growths(model, Example.of(bright), 9.0) == pytest.approx([9, 9])
    trace(model, bright, area=4.0)


FLAT: dict[str, nn.Module] = {"a": nn.Linear(3, 4), "bn": nn.BatchNorm1d(4), "b": nn.Linear(4, 2), "c": nn.Linear(4, 2)}
MAPS: dict[str, nn.Module] = {"a": conv(3, 4), "bn": nn.BatchNorm2d(4), "b": conv(4, 2), "c": conv(4, 2)}


@pytest.mark.parametrize("layers", [MAPS, FLAT], ids=["maps", "flat"])
@pytest.mark.parametrize("way", ["to a norm", "to a norm and elsewhere"])
def test_channels_that_are_read_as_a_layer_made_them(way: str, layers: dict[str, nn.Module]) -> None:
    """A batch-norm alone may make a channel dead; where something else reads it before, it is not."""

    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(m.bn(y)) if way == "to a norm" else m.b(m.bn(y)) + m.c(y)

    graph = trace(net(body, **layers), IMAGE if layers is MAPS else IMAGE.mean((2, 3)).repeat(2, 1))
    classes = graph.class_of[[str(a) for a in graph.axes].index("a.outputs")]
    assert np.all(graph.bare[classes] == (way != "to a norm"))


def test_a_parameter_that_layers_share_is_counted_once() -> None:
    """Weights of 3 x 4 and 4 x 2, one of 4 x 4 in two layers, and a bias of 2: 38 numbers."""
    model = net(lambda m, x: m.c(m.b(m.a(x)) + m.d(m.a(x))), a=(3, 4), b=(4, 4), c=(4, 2), d=(4, 4))
    for layer in (model.a, model.b, model.d):
        layer.bias = None
    model.d.weight = model.b.weight
    graph = trace(model, IMAGE)
    widths = [axis.width for axis in graph.axes]
    found = sum(term.factor * np.prod([widths[i] for i in term.axes]) for term in graph.params)
    assert found == sum(p.numel() for p in model.parameters()) == 38


def test_a_single_number_on_a_layer_is_not_cut_with_it() -> None:
    """12 weights and 4 biases of the layer go with its channels, the number beside them does not."""
    model = net(lambda m, x: m.b(m.a(x) * m.a.scale), a=(3, 4), b=(4, 2))
    model.a.scale = nn.Parameter(torch.tensor(2.0))
    graph = trace(model, IMAGE)
    assert told(graph, graph.params)[()] == 1.0
    assert told(graph, graph.params)[("a.outputs",)] == 1.0
