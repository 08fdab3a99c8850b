"""Scores of layers that are called by keyword, whose weights are computed, or that are run again for gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv, noise
from scores import score
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from yoloprune.tracing.trace_network import trace

IMAGES = noise(2, 3, 6, 6)
Layers = tuple[nn.Module, nn.Module]


class Net(nn.Module):
    """A block of a convolution and a batch-norm, run in some way, between two layers."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module], call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.c = conv(3, 8), wrap(conv(8, 8)), nn.BatchNorm2d(8), conv(8, 2)
        self.call = call

    def forward(self, x: Any) -> Any:
        if isinstance(x, dict):
            return self(x["img"]).square().sum()
        return self.c(self.call(self.norm, self.call(self.b, self.a(x))))


def plain(layer: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = layer(x)
    return result


def by_name(layer: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = layer(input=x)
    return result


def run_again(layer: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = checkpoint(layer, x, use_reentrant=True)
    return result


def scores(wrap: Callable[[nn.Module], nn.Module], call: Callable[..., Tensor], criterion: str) -> np.ndarray:
    torch.manual_seed(0)
    model = Net(wrap, call).eval()
    with torch.no_grad():
        model(IMAGES)  # `weight_norm` begins with a weight that hangs on its computation
    batches: list[Any] = [{"img": IMAGES}] if criterion == "taylor" else [IMAGES]
    found = score(model, trace(model, IMAGES), criterion, batches=batches)
    copy.deepcopy(model)  # no computed weight is left that hangs on a pass
    return found


@pytest.mark.parametrize("criterion", ["taylor", "activation"])
@pytest.mark.parametrize("call", [by_name, run_again])
def test_however_a_layer_is_called(call: Callable[..., Tensor], criterion: str) -> None:
    assert scores(lambda m: m, call, criterion) == pytest.approx(scores(lambda m: m, plain, criterion))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("criterion", ["taylor", "output", "activation"])
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.spectral_norm,
        nn.utils.weight_norm,
        nn.utils.parametrizations.weight_norm,
    ],
    ids=["spectral", "weight", "parametrized"],
)
def test_computed_weights_have_no_score_of_their_own(wrap: Callable[..., nn.Module], criterion: str) -> None:
    assert np.isfinite(scores(wrap, plain, criterion)).any()
