"""Scores in half precision, and of networks or images whose numbers are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import noise
from torch import Tensor, nn

import yoloprune
from yoloprune.errors import DataError, ModelError
from yoloprune.importance import weight_criteria
from yoloprune.importance.criteria import importance
from yoloprune.settings.budget import Budget
from yoloprune.tracing.trace_network import trace

NAN = float("nan")
IMAGES = noise(2, 3, 6, 6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 2, 1)).eval()


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16], ids=str)
def test_filters_of_half_precision(precision: torch.dtype) -> None:
    """Squares of 2^-14 are zero in float16, and no distances are known of it: 4 weights make a square of 2^-26."""
    layer = nn.Linear(4, 2, bias=False).to(precision)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [2.0]]).expand(2, 4) * 2**-14)
    found = [of(layer) for of in (weight_criteria.l1, weight_criteria.l2, weight_criteria.lamp, weight_criteria.fpgm)]
    wanted = [[2**-12, 2**-11], [2**-13, 2**-12], [0.2, 1.0], [2**-13, 2**-13]]
    for values, numbers in zip(found, wanted, strict=True):
        assert values is not None
        torch.testing.assert_close(values, torch.tensor(numbers))


def test_taylor_in_half_precision() -> None:
    """w and dL/dw of 2^-13 each make 2^-26, which float16 has not."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)).half().eval()
    with torch.no_grad():
        model[0].weight.fill_(2**-13)
        model[1].weight.copy_(torch.tensor([[2**-13, 2**-12]]))
    image = torch.ones(1, 1, dtype=torch.float16)
    graph = trace(model, image)
    found = importance(model, graph, "taylor", batches=[image], loss=lambda m, x: m(x).sum()).channels
    (made,) = (graph.class_of[i] for i, axis in enumerate(graph.axes) if str(axis) == "0.outputs")
    np.testing.assert_allclose(found[made], [2**-26, 2**-25])


@pytest.mark.parametrize("score", ["bn", "l1"])
def test_weights_that_are_not_a_number_are_named(score: str) -> None:
    model = network()
    with torch.no_grad():
        model[2].weight[0, 1] = NAN
    with pytest.raises(ModelError, match=r"1 of the parameters hold values that are not a number \(NaN\), 2.weight"):
        yoloprune.prune_module(model, IMAGES, Budget(flops=0.5), score=score)


@pytest.mark.parametrize("score", ["activation", "output", "taylor"])
def test_images_that_are_not_a_number_rank_nothing(score: str) -> None:
    batches: list[object] = [IMAGES * NAN] if score != "taylor" else [(IMAGES * NAN, noise(2, 2, 6, 6))]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).square().mean()

    with pytest.raises(DataError, match=f"score={score}: .* are not all numbers"):
        yoloprune.prune_module(
            network(), IMAGES, Budget(flops=0.5), score=score, batches=batches, loss=loss if score == "taylor" else None
        )


def test_an_infinite_value_ranks_nothing_either() -> None:
    """It is not what a channel without any value has, which stays."""
    model = network()
    graph = trace(model, IMAGES)
    with torch.no_grad():
        model[0].weight[1] = torch.inf
    with pytest.raises(DataError, match="score=l2: the weights are not all numbers"):
        importance(model, graph, "l2")


def test_a_loss_that_is_not_a_number_ranks_nothing() -> None:
    model = network()
    graph = trace(model, IMAGES)
    with pytest.raises(DataError, match="score=taylor: the images, or what comes of them"):
        importance(model, graph, "taylor", batches=[IMAGES], loss=lambda m, x: m(x).sum() * NAN)


@pytest.mark.parametrize(
    ("make", "what"),
    [(lambda x: x.sum().detach(), "a tensor without a gradient"), (lambda x: x.sum().item(), "a float")],
)
def test_a_loss_without_a_gradient_is_told(make: Callable[[Tensor], Any], what: str) -> None:
    model = network()
    with pytest.raises(DataError, match=f"the loss is {what}"):
        importance(model, trace(model, IMAGES), "taylor", batches=[IMAGES], loss=lambda m, x: make(m(x)))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
