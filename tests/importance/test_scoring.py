"""Importance of channels on weights written by hand: each criterion, reductions, normalisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import classes, conv, filled
from scores import score
from torch import Tensor, nn
from two_norms import IMAGE, Net, hidden

from yoloprune.errors import ArgumentError
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.tracing.trace_network import trace


@pytest.fixture(scope="module")
def model() -> Net:
    return Net().eval()


@pytest.fixture(scope="module")
def graph(model: Net) -> ChannelGraph:
    return trace(model, IMAGE)


@pytest.mark.parametrize(
    "criterion, reduce, expected",
    [
        ("bn", "mean", [(1 + 3) / 2, (2 + 4) / 2, 0]),
        ("bn", "max", [3, 4, 0]),
        ("bn", "sum", [4, 6, 0]),
        ("bn", "l2", [math.sqrt(1 + 9), math.sqrt(4 + 16), 0]),
        ("l1", "mean", [(7 + 5) / 2, (1 + 5) / 2, (2 + 3) / 2]),
        ("l1", "sum", [12, 6, 5]),
        ("l2", "max", [5, 5, math.sqrt(3)]),
        ("l2", "sum", [5 + 3, 1 + 5, math.sqrt(2) + math.sqrt(3)]),
        # squares 25, 1, 2: 25/25, 1/(25+2+1), 2/(25+2); squares 9, 25, 3: 9/(25+9), 25/25, 3/(25+9+3)
        ("lamp", "mean", [(1 + 9 / 34) / 2, (1 / 28 + 1) / 2, (2 / 27 + 3 / 37) / 2]),
        # distances of (3,4), (0,-1), (1,1): sqrt(34), sqrt(13), sqrt(5)
        # and of (1,2,2), (0,0,5), (1,1,1): sqrt(14), sqrt(2), sqrt(18)
        (
            "fpgm",
            "sum",
            [
                math.sqrt(34) + math.sqrt(13) + math.sqrt(14) + math.sqrt(2),
                math.sqrt(34) + math.sqrt(5) + math.sqrt(14) + math.sqrt(18),
                math.sqrt(13) + math.sqrt(5) + math.sqrt(2) + math.sqrt(18),
            ],
        ),
    ],
)
def test_by_hand(model: Net, graph: ChannelGraph, criterion: str, reduce: str, expected: list[float]) -> None:
    got = hidden(graph, score(model, graph, criterion, reduce=reduce))  # type: ignore[arg-type]
    assert got == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("normalize, divisor", [("mean", (4 + 6 + 0) / 3), ("max", 6)])
def test_normalisation_within_the_group(model: Net, graph: ChannelGraph, normalize: str, divisor: float) -> None:
    got = score(model, graph, "bn", reduce="sum", normalize=normalize)  # type: ignore[arg-type]
    assert hidden(graph, got) == pytest.approx([4 / divisor, 6 / divisor, 0])


def test_classes_without_a_member_that_counts_are_infinite(model: Net, graph: ChannelGraph) -> None:
    got = score(model, graph, "bn")
    assert np.isinf(got[classes(graph, "c.outputs")]).all()  # no batch-norm there
    assert np.isinf(got[classes(graph, "a.inputs")]).all()
    assert np.isfinite(score(model, graph, "l1")[classes(graph, "c.outputs")]).all()


@pytest.mark.parametrize("normalize", ["mean", "max"])
def test_normalisation_leaves_the_infinite_infinite(model: Net, graph: ChannelGraph, normalize: str) -> None:
    got = score(model, graph, "bn", normalize=normalize)  # type: ignore[arg-type]
    assert np.isinf(got[classes(graph, "c.outputs")]).all()
    assert not np.isnan(got).any()


def test_normalisation_of_a_dead_group() -> None:
    model = Net()
    model.bn.weight.data.zero_()
    model.bn2.weight.data.zero_()
    graph = trace(model, IMAGE)
    assert hidden(graph, score(model, graph, "bn", normalize="mean")) == [0, 0, 0]


def test_transposed_and_linear_layers_have_filters_too() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.t = filled(nn.ConvTranspose2d(2, 3, 1), [[1, 2, 3], [-4, 5, -6]], [9, 9, 9])
            self.l, self.m = filled(nn.Linear(3, 2), [[1, -2, 3], [0, 0, -7]], [9, 9]), nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.m(self.l(self.t(x).mean((2, 3))))

    model = Mixed()
    graph = trace(model, IMAGE)
    got = score(model, graph, "l1")
    assert got[classes(graph, "t.outputs")].tolist() == [5, 7, 9]
    assert got[classes(graph, "l.outputs")].tolist() == [6, 7]


def test_a_member_that_occurs_twice_counts_twice() -> None:
    """A depthwise layer with multiplier 2: both its filters belong to the one channel."""

    class Multiplied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = filled(conv(2, 2), [[1, 0], [0, 2]], [0, 0])
            self.d = filled(conv(2, 4, groups=2), [10, -20, 30, 40], [0] * 4)
            self.b = conv(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.d(self.a(x)))

    model = Multiplied()
    graph = trace(model, IMAGE)
    at = classes(graph, "a.outputs")
    assert score(model, graph, "l1", reduce="sum")[at].tolist() == [1 + 10 + 20, 2 + 30 + 40]
    assert score(model, graph, "l1", reduce="max")[at].tolist() == [20, 40]
    assert score(model, graph, "l1", reduce="mean")[at].tolist() == pytest.approx([31 / 3, 72 / 3])


def test_random_is_seeded(model: Net, graph: ChannelGraph) -> None:
    one, same, other = (score(model, graph, "random", seed=s) for s in (1, 1, 2))
    assert one.shape == (graph.n_classes,)
    assert one.tolist() == same.tolist()
    assert one.tolist() != other.tolist()
    assert ((one >= 0) & (one < 1)).all()


def test_an_unknown_criterion(model: Net, graph: ChannelGraph) -> None:
    with pytest.raises(ArgumentError, match=r"score=l3.*'l1'.*'random'"):
        score(model, graph, "l3")


@pytest.mark.parametrize("wrong", [{"normalize": "sum"}, {"normalize": "bogus"}, {"reduce": "min"}])
def test_an_unknown_word_is_not_taken_for_another(wrong: dict[str, str], model: Net, graph: ChannelGraph) -> None:
    [(name, word)] = wrong.items()
    with pytest.raises(ArgumentError, match=f"{name}={word}: must be one of .*mean"):
        score(model, graph, "bn", **wrong)  # type: ignore[arg-type]


def test_scoring_leaves_the_model_alone(model: Net, graph: ChannelGraph) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for criterion in ("bn", "l1", "l2", "lamp", "fpgm"):
        score(model, graph, criterion)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_half_precision_weights_are_scored() -> None:
    model = Net()
    graph = trace(model, IMAGE)
    assert hidden(graph, score(model.half(), graph, "bn", reduce="sum")) == [4, 6, 0]
