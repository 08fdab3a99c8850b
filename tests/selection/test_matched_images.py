"""Images that are moved until batch-norms see what they remember."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import conv, filled, noise
from torch import nn

from yoloprune.selection import matched_images
from yoloprune.selection.matched_images import distance, matched


def test_distance_by_hand() -> None:
    """Channel 0 has mean 2 and variance 1, channel 1 mean 0 and variance 4; remembered are mean 0 and variance 1."""
    x = torch.tensor([[[1.0, 2.0, 3.0], [-2.0, 0.0, 2.0]]])
    apart = (4 / 1.001 + (math.log(4.001 / 1.001) ** 2) / 2) / 2
    assert float(distance(x, torch.zeros(2), torch.ones(2))) == pytest.approx(apart, rel=1e-6)
    assert float(distance(x, torch.tensor([2.0, 0.0]), torch.tensor([1.0, 4.0]))) == 0


def network() -> nn.Sequential:
    """A convolution that doubles its input, and a batch-norm that remembers mean 1 and variance 0.04."""
    norm = nn.BatchNorm2d(1, affine=False)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(0.04)
    return nn.Sequential(filled(conv(1, 1, bias=False), [2.0]), norm)


def test_images_end_at_what_was_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice an image has mean 1 and variance 0.04 where the image has mean 0.5 and deviation 0.1."""
    monkeypatch.setattr(matched_images, "STEPS", 100)
    start = 0.35 + 0.02 * noise(4, 1, 16, 16)
    counted: list[int] = []
    (moved,) = matched(network().train(), [start], lambda: counted.append(1))
    assert len(counted) == 100
    assert float(moved.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(moved.std()) == pytest.approx(0.1, abs=0.01)
    assert moved.min() >= 0 and moved.max() <= 1 and not moved.requires_grad
    assert float(start.mean()) == pytest.approx(0.35, abs=0.01)  # a copy was moved


def test_the_network_stays_as_it_was() -> None:
    model = network().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    matched(model, [torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and model[0].weight.grad is None
    assert not model[1]._forward_pre_hooks


def test_without_a_memory_there_is_nothing_to_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matched_images, "STEPS", 0)
    start = [noise(1, 1, 4, 4)]
    assert matched(nn.Sequential(conv(1, 1)), start) is start
    assert matched(nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False)), start) is start
