"""What rounding makes of a right cut is no reason to refuse it, where a network makes much of it."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import conv, noise
from torch import Tensor, nn

from yoloprune.cutting.comparison import TOLERANCE, verify
from yoloprune.cutting.pair import Pair
from yoloprune.errors import VerifyError
from yoloprune.planning.plan import Plan
from yoloprune.probing.examples import Example


class Cancelling(nn.Module):
    """The difference of two layers that are nearly alike: what it gives is far smaller than what it is made of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = conv(3, 4), conv(3, 4)
        self.b.weight.data = self.a.weight.data * (1 + 1e-5 * torch.rand(4, 3, 1, 1))
        self.b.bias.data = self.a.bias.data.clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) - self.b(x)


def rounded(steps: int) -> tuple[nn.Module, nn.Module]:
    """The network, and a copy one of whose weights is so many steps of float32 larger."""
    model = Cancelling()
    other = copy.deepcopy(model)
    weight = other.a.weight.data.flatten()
    for _ in range(steps):
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    return model, other


def test_a_weight_that_was_scaled_and_rounded_is_told_from_a_wrong_one() -> None:
    """A cut scales the queries of an attention; float64 sees that they were rounded to float32 again."""
    model, other = rounded(1)
    assert verify(model, other, Plan({}), noise(2, 3, 6, 6)) > TOLERANCE  # and yet it passes
    with pytest.raises(VerifyError, match="relative error"):
        verify(*rounded(10000), Plan({}), noise(2, 3, 6, 6))


class Drawing(nn.Module):
    """Images that are left out at random behind a layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a = conv(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * (torch.rand(len(x), 1, 1, 1) > 0.5)


def test_noise_leaves_the_draws_of_a_network_as_they_are() -> None:
    model = Drawing()
    pair = Pair(model, model, Plan({}), Example.of(noise(16, 3, 6, 6)), True, 1, True)
    assert 0 < max(pair.noise(pair.masked_run()).values()) < 1e-4
