"""Importance of branches: gates on what they put out, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import classes, conv, filled
from torch import Tensor, nn

from yoloprune.importance.criteria import importance
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.probing.examples import Probe
from yoloprune.tracing.residual_branches import with_branches
from yoloprune.tracing.trace_network import trace


class Branch(nn.Module):
    """Of [x, 10 x] the hidden [x, x], of which [6 x, -2 x] is added."""

    def __init__(self) -> None:
        super().__init__()
        self.a = filled(conv(2, 2, bias=False), [[1, 0], [0, 0.1]])
        self.b = filled(conv(2, 2, bias=False), [[3, 3], [-1, -1]])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.b(self.a(x))
        return y


class InPlace(Branch):
    """It doubles what it takes, in the place of it, and halves what it gives."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2)) / 2


class Net(nn.Module):
    """A stream of [x, 10 x], a branch, and a reader with weights 5 and 7; the loss is the sum."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.stem, self.branch = filled(conv(1, 2, bias=False), [1, 10]), branch
        self.head = filled(conv(2, 1, bias=False), [5, 7])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.branch(self.stem(x)))
        return y


SQUARE = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])  # sum 10, four positions


def traced(model: nn.Module) -> ChannelGraph:
    graph = with_branches(model, trace(model, SQUARE), Probe.of(SQUARE))
    assert [branch.name for branch in graph.branches] == ["branch"]
    return graph


def of(criterion: str, branch: nn.Module, batches: list[Tensor] | None = None, **how: object) -> float:
    model = Net(branch).eval()
    loss = (lambda network, x: network(x).sum()) if criterion == "taylor" else None
    found = importance(model, traced(model), criterion, batches=batches, loss=loss, **how)  # type: ignore[arg-type]
    return float(found.branches.item())


@pytest.mark.parametrize("kind", [Branch, InPlace])
def test_taylor_of_a_branch(kind: type[nn.Module]) -> None:
    """The gates have the slopes 5 * 6 * 10 and 7 * -2 * 10."""
    assert of("taylor", kind(), [SQUARE]) == pytest.approx(300 + 140)
    assert of("taylor", kind(), [SQUARE, 3 * SQUARE]) == pytest.approx(2 * 440)
    assert of("taylor", kind(), [SQUARE, -SQUARE]) == pytest.approx(440)  # of each batch its size
    assert of("taylor", kind(), [torch.cat([SQUARE, -SQUARE])]) == pytest.approx(0)  # of one its sum


def test_output_of_a_branch() -> None:
    """Signs of four outputs of which each counts by 1 / 2: the squares of what they add up to, image by image."""
    signs = torch.randint(0, 2, (1, 1, 2, 2), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    moved = float((signs * SQUARE).sum()) / 2
    assert of("output", Branch(), [SQUARE]) == pytest.approx((30 + 14) * abs(moved), rel=1e-5)


def test_without_gates_a_branch_is_worth_the_channels_inside_it() -> None:
    assert of("l1", Branch()) == pytest.approx(1 + 0.1)  # filters of the hidden channels
    assert of("l1", Branch(), normalize="max") == pytest.approx(1 + 0.1)
    assert of("taylor", Branch(), [SQUARE], normalize="max") == pytest.approx(2)  # both alike
    graph = traced(Net(Branch()).eval())
    drawn = np.random.default_rng(0).random(graph.n_classes)
    assert of("random", Branch()) == pytest.approx(drawn[classes(graph, "branch.a.outputs")].sum())
    assert of("bn", Branch()) == np.inf  # no batch-norm, no score, and so it stays


class Line(nn.Module):
    """The same stream, branch and reader of a line of numbers, by convolutions of one dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = filled(nn.Conv1d(1, 2, 1, bias=False), [1, 10]), Branch()
        self.branch.a = filled(nn.Conv1d(2, 2, 1, bias=False), [[1, 0], [0, 0.1]])
        self.branch.b = filled(nn.Conv1d(2, 2, 1, bias=False), [[3, 3], [-1, -1]])
        self.head = filled(nn.Conv1d(2, 1, 1, bias=False), [5, 7])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.branch(self.stem(x)))
        return y


def test_a_branch_of_lines_has_its_channels_second() -> None:
    """As of images: 5 * 6 * 10 and 7 * -2 * 10; with the positions for channels it were 16 * 10."""
    line, model = SQUARE.reshape(1, 1, 4), Line().eval()
    graph = with_branches(model, trace(model, line), Probe.of(line))
    found = importance(model, graph, "taylor", batches=[line], loss=lambda network, x: network(x).sum())
    assert found.branches.tolist() == pytest.approx([300 + 140])
