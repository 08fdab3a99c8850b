"""Networks that Ultralytics did not build, through `prune_module`."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from conftest import settle
from torch import nn

from yoloprune import Budget, Limits, prune_module
from yoloprune.errors import ArgumentError, BudgetError

torchvision = pytest.importorskip("torchvision")
FREE = Limits(round_to=1, min_width=1, max_ratio=0.9)


def _channels(model: nn.Module) -> int:
    return sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "side"), [("vgg16_bn", 224), ("resnet50", 64), ("mobilenet_v3_large", 64), ("densenet121", 64)]
)
def test_torchvision(name: str, side: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, side, side)
    model = settle(getattr(torchvision.models, name)(weights=None), x).eval()
    before = {n: p.shape for n, p in model.named_parameters()}
    pruned, plan = prune_module(model, x, Budget(ratio=0.5), FREE)  # verifies against the masked parent itself
    assert pruned(x).shape == (2, 1000)  # the output keeps its width
    assert {type(m) for m in pruned.modules()} == {type(m) for m in model.modules()}
    assert {n: p.shape for n, p in model.named_parameters()} == before  # the parent is left alone
    assert 0.35 < _channels(pruned) / _channels(model) < 0.65
    assert len(plan) > 10


def test_plain_chain_quarters_its_parameters() -> None:
    """Half of every width, output layer included: 9 * (3*16 + 16*32 + … + 1024*2048) = 25.16 M of 100.66 M."""
    torch.manual_seed(0)
    widths = [3, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers)
    limits = Limits(round_to=1, min_width=1, max_ratio=1, uniform=True)
    pruned, _ = prune_module(model, torch.rand(1, 3, 8, 8), Budget(ratio=0.5), limits, outputs=True)
    expected = 9 * (3 * 16 + sum(a // 2 * (b // 2) for a, b in itertools.pairwise(widths[1:])))
    assert sum(p.numel() for p in model.parameters()) == 100_658_016
    assert sum(p.numel() for p in pruned.parameters()) == expected == 25_164_720


def test_keep_leaves_a_layer_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    limits = Limits(round_to=1, min_width=1, keep=("0",))
    pruned, plan = prune_module(model, torch.rand(1, 3, 4, 4), Budget(ratio=0.5), limits)
    assert pruned[0].out_channels == 8
    assert pruned[2].out_channels == 4
    assert set(plan.keep) == {"2", "4"}


def test_keep_that_names_nothing_is_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    with pytest.raises(ArgumentError, match="keep=nowhere"):
        prune_module(model, torch.rand(1, 3, 4, 4), Budget(ratio=0.5), Limits(keep=("nowhere",)))


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"wanted": 0.5}, "wanted: must be a Budget. Received: 0.5"),
        ({"example": "x"}, "example: must be a Tensor or a tuple. Received: 'x'"),
    ],
)
def test_arguments_of_another_type(told: dict[str, Any], why: str) -> None:
    whole = {"example": torch.rand(1, 3, 8, 8), "wanted": Budget(ratio=0.5)}
    with pytest.raises(ArgumentError, match=re.escape(why)):
        prune_module(nn.Conv2d(3, 8, 1), **(whole | told))


def test_without_a_budget_exactly_the_dead_go() -> None:
    net = settle(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))).eval()
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(BudgetError, match="nothing to cut: no channel is dead"):
        prune_module(net, x, Budget(), FREE)
    with pytest.raises(BudgetError, match="nothing to cut: the network already meets params=1K"):
        prune_module(net, x, Budget(params=1000), FREE)
    net[1].weight.data[[2, 5, 6]] = 0.0
    pruned, _ = prune_module(net, x, Budget(), FREE)
    assert pruned[0].weight.equal(net[0].weight[[0, 1, 3, 4, 7]])
