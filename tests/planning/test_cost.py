"""Costs from widths alone: figures worked out on paper, and equality with what Ultralytics counts before and after."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import conv, cut_copy, cutting_alive, hand_graph, noise, settle
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import get_flops

from yoloprune.backend import yolo_tracing
from yoloprune.planning.channel_graph import ChannelGraph, Term
from yoloprune.planning.cost import Cost
from yoloprune.tracing.trace_network import trace


class Net(nn.Module):
    """3 -> 4 (3x3, no bias) -> batch-norm -> ReLU -> 2 (1x1, bias)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.act, self.b = conv(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.bn(self.a(x))))


def width_of(graph: ChannelGraph, alive: np.ndarray) -> np.ndarray:
    return np.bincount(graph.group_of[alive], minlength=len(graph.groups)).astype(float)


@pytest.fixture(scope="module")
def net() -> ChannelGraph:
    """The traced net on an 8x8 image: groups of the input, the 4 hidden channels and the 2 outputs."""
    return trace(Net(), noise(1, 3, 8, 8))


def hidden(graph: ChannelGraph, width: float) -> np.ndarray:
    """Widths with so many hidden channels."""
    widths = np.array([g.size for g in graph.groups], dtype=float)
    widths[[g.name for g in graph.groups].index("a")] = width
    return widths


@pytest.mark.parametrize("k", [1, 4])
def test_costs_of_modules_by_hand(net: ChannelGraph, k: int) -> None:
    """Two operations for each multiply-add on 8x8 positions, of which batch-norm counts four an element."""
    flops = Cost(net).by_module("flops", hidden(net, k))
    assert flops == pytest.approx({"a": 2 * 64 * 27 * k, "bn": 2 * 64 * 4 * k, "b": 2 * 64 * 2 * k})
    params = Cost(net).by_module("params", hidden(net, k))
    assert params == pytest.approx({"a": 27 * k, "bn": 2 * k, "b": 2 * k + 2})


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_params_by_hand(net: ChannelGraph, k: int) -> None:
    by_hand = 3 * 9 * k + 2 * k + (2 * k + 2)
    assert Cost(net).of("params", hidden(net, k)) == pytest.approx(by_hand)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_flops_by_hand(net: ChannelGraph, k: int) -> None:
    # two per multiply-add; batch-norm counts four multiply-adds per element; bias and ReLU nothing
    by_hand = 2 * 64 * (3 * 9 * k + 4 * k + 2 * k)
    assert Cost(net).of("flops", hidden(net, k)) == pytest.approx(by_hand)


def test_flops_are_those_of_ultralytics(net: ChannelGraph) -> None:
    assert Cost(net).parent("flops") == pytest.approx(2 * 64 * 33 * 4)
    assert Cost(trace(Net(), noise(1, 3, 32, 32))).parent("flops") == pytest.approx(get_flops(Net(), 32) * 1e9)


def test_channels_are_the_prunable_classes(net: ChannelGraph) -> None:
    assert Cost(net).parent("channels") == 4  # neither the 3 of the image nor the 2 outputs
    assert Cost(net).of("channels", hidden(net, 3)) == 3


def test_slope_by_hand(net: ChannelGraph) -> None:
    at = [g.name for g in net.groups].index("a")
    assert Cost(net).slope("params")[at] == pytest.approx(27 + 2 + 2)
    assert Cost(net).slope("flops")[at] == pytest.approx(2 * 64 * 33)
    assert Cost(net).slope("channels").tolist() == [1.0] * len(net.groups)


def test_a_group_counts_as_often_as_it_stands_in_an_axis() -> None:
    # a layer of 2 read three times beside one of 3: 9 positions; cost 5 * positions * width of the first
    graph = hand_graph(
        {"a.outputs": [0, 1], "b.outputs": [2, 3, 4], "c.inputs": [0, 1, 2, 3, 4, 0, 1, 0, 1]},
        group_of=[0, 0, 1, 1, 1],
        params=[Term(5.0, (2, 0)), Term(7.0, (1,)), Term(11.0, ())],
    )
    cost = Cost(graph)
    assert cost.parent("params") == 5 * 9 * 2 + 7 * 3 + 11
    assert cost.of("params", np.array([1.0, 2.0])) == 5 * (3 * 1 + 2) * 1 + 7 * 2 + 11
    assert cost.slope("params").tolist() == [5 * (3 * 2 + 9), 5 * 2 + 7]


def test_an_axis_squared() -> None:
    graph = hand_graph({"a.outputs": [0, 1, 2]}, group_of=[0, 0, 0], flops=[Term(2.0, (0, 0))])
    assert Cost(graph).of("flops", np.array([2.0])) == 2 * 2 * 2
    assert Cost(graph).slope("flops").tolist() == [2 * 2 * 3]


def test_an_empty_graph_costs_nothing() -> None:
    assert Cost(hand_graph({}, [])).parent("params") == 0
    assert Cost(hand_graph({}, [])).parent("channels") == 0


class Shared(nn.Module):
    """One layer at work on two images, as detection heads do it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.b(self.a(x)), self.b(self.a(x[..., ::2, ::2]))


def test_every_call_of_a_layer_costs() -> None:
    graph = trace(Shared(), noise(1, 3, 8, 8))
    assert Cost(graph).parent("params") == 3 * 4 + 4 + 4 * 2 + 2
    assert Cost(graph).parent("flops") == pytest.approx(2 * (64 + 16) * (3 * 4 + 4 * 2))
    assert Cost(trace(Shared(), noise(1, 3, 32, 32))).parent("flops") == pytest.approx(get_flops(Shared(), 32) * 1e9)


class Mixed(nn.Module):
    """A convolution, a product of positions, and a gate computed from the pooled map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gate, self.b = conv(3, 4), conv(4, 4), conv(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y * self.gate(y.mean((2, 3), keepdim=True)).sigmoid()
        t = y.flatten(2)
        t = t @ (t.transpose(1, 2) @ t).softmax(-1)
        return self.b(t.view(y.shape))


def test_flops_at_another_image_size() -> None:
    def by_hand(n: int) -> float:
        maps = 2 * n * (3 * 4 + 4 * 2)
        pooled = 2 * 4 * 4  # one position whatever the image
        products = 2 * n * n * 4 + 2 * n * n * 4
        return maps + pooled + products

    for area in (1, 4, 25):
        cost = Cost(trace(Mixed(), noise(1, 3, 4, 4), area=area))
        assert cost.parent("flops") == pytest.approx(by_hand(16 * area))


# Real networks --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["yolov8n", "yolo12n", "yolov9t"])
@pytest.mark.slow
def test_costs_are_those_of_the_built_model_before_and_after(name: str) -> None:
    model = settle(DetectionModel(f"{name}.yaml", verbose=False), noise(4, 3, 128, 128))
    graph = yolo_tracing.trace_yolo(model)
    cost = Cost(graph)
    assert cost.parent("params") == pytest.approx(sum(p.numel() for p in model.parameters()), abs=1e-3)
    assert cost.parent("flops") == pytest.approx(get_flops(model) * 1e9, rel=1e-6)
    alive = cutting_alive(graph, 1)
    small = cut_copy(model, graph.plan(alive))
    widths = width_of(graph, alive)
    assert cost.of("params", widths) == pytest.approx(sum(p.numel() for p in small.parameters()), abs=1e-3)
    assert cost.of("flops", widths) == pytest.approx(get_flops(small) * 1e9, rel=1e-6)


@pytest.mark.slow
def test_image_size_scales_as_ultralytics_counts() -> None:
    model = DetectionModel("yolo11n.yaml", verbose=False)
    flops = Cost(yolo_tracing.trace_yolo(model, imgsz=320)).parent("flops")
    assert flops == pytest.approx(get_flops(model, 320) * 1e9, rel=1e-6)


@pytest.mark.parametrize("kind", ["params", "flops", "channels"])
@pytest.mark.slow
def test_slope_is_the_difference_quotient(kind: str) -> None:
    graph = yolo_tracing.trace_yolo(DetectionModel("yolov8n.yaml", verbose=False))
    cost = Cost(graph)
    slope = cost.slope(kind)
    for g, group in enumerate(graph.groups):
        if group.frozen is None:  # "channels" counts no others
            up, down = cost.full.copy(), cost.full.copy()
            up[g] += 1
            down[g] -= 1
            assert slope[g] == pytest.approx((cost.of(kind, up) - cost.of(kind, down)) / 2), group.name


def test_what_no_cut_reaches() -> None:
    """Of 10 * 2 * 3 between a layer of two and a held one of three, 7 * 3 behind that and 4 for nobody 25 stay."""
    graph = hand_graph(
        {"a.outputs": [0, 1], "b.outputs": [2, 3, 4]},
        [0, 0, 1, 1, 1],
        frozen={1: "head"},
        flops=[Term(10.0, (0, 1)), Term(7.0, (1,)), Term(4.0, ())],
    )
    assert Cost(graph).parent("flops") == 85 and Cost(graph).fixed("flops") == 25


def test_all_stays_of_what_there_is_none_of() -> None:
    """Where no channel may go a share of those that may is none; three of four channels are three quarters."""
    graph = hand_graph({"a.outputs": range(4)}, [0] * 4, frozen={0: "keep"}, params=[Term(2.0, (0,))])
    cost, narrower = Cost(graph), np.array([3.0])
    assert [cost.share(kind, narrower) for kind in ("channels", "flops", "params")] == [1.0, 1.0, 0.75]
