"""Masks that are zeros: the 2:4 rule by hand, and zeros that optimizers, scaled gradients and an EMA leave alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import filled
from torch import nn
from ultralytics.utils.torch_utils import ModelEMA

from yoloprune.cutting import masks


def test_the_rule_looks_along_input_channels_and_at_every_tap() -> None:
    weight = torch.zeros(1, 4, 1, 2)
    weight[0, :2] = 1.0  # two of four channels, at both taps
    assert masks.is_n_of_m(weight, 2, 4)
    weight[0, 2, 0, 1] = 1.0  # a third one at the second tap
    assert not masks.is_n_of_m(weight, 2, 4) and masks.is_n_of_m(weight, 3, 4)
    across = torch.zeros(4, 4)
    across[:, 0] = 1.0  # four outputs, one input of each: along outputs all four are there
    assert masks.is_n_of_m(across, 1, 4)
    assert not masks.is_n_of_m(across.T.contiguous(), 1, 4)
    shifted = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]])  # four in a row, two in each group
    assert masks.is_n_of_m(shifted, 2, 4)


def test_what_can_be_masked() -> None:
    assert masks.maskable(nn.Conv2d(4, 4, 1)) and masks.maskable(nn.Linear(4, 4)) and masks.maskable(nn.Conv1d(4, 4, 1))
    assert not masks.maskable(nn.ConvTranspose2d(4, 4, 1)) and not masks.maskable(nn.BatchNorm2d(4))


def test_a_mask_is_put_on_found_and_counted() -> None:
    model = nn.Sequential(filled(nn.Linear(3, 1), [-5.0, 2.0, 0.0], [0.0]))
    assert masks.zeros(model, ["0"]) == {"0": 1}
    masks.put_on(model, {"0": torch.tensor([[False, True, True]])})
    assert model[0].weight.tolist() == [[0.0, 2.0, 0.0]]
    assert str(model[0].weight[0, 0].item()) == "0.0"  # not minus zero
    assert masks.found_in(model, ["0"])["0"].tolist() == [[False, True, False]]
    assert (masks.zeros(model, ["0"]), masks.sizes(model, ["0"])) == ({"0": 2}, {"0": 3})


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_zeros_are_zero_after_every_step_and_in_the_ema(kind: str) -> None:
    """Scaled gradients over two batches per step, of which some overflow, clipped, as Ultralytics steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(16, 2))
    gone = torch.rand(model[0].weight.shape) < 0.5
    masks.put_on(model, {"0": ~gone})
    optimizer = OPTIMIZERS[kind](model.parameters())
    optimizer.load_state_dict(optimizer.state_dict())  # as resuming does
    optimizer.register_step_post_hook(masks.Holder(model, ["0"]))
    ema, scaler = ModelEMA(model), torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before, dense = copy.deepcopy(model.state_dict()), 0
    for _ in range(12):
        for _ in range(2):
            scaler.scale(model(torch.randn(2, 4, 4, 4)).square().sum() * 1e3).backward()
        dense += int((model[0].weight.grad[gone] != 0).all())
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        ema.update(model)
        for net in (model, ema.ema):
            assert torch.equal(net[0].weight[gone], torch.zeros(int(gone.sum())))
    assert dense > 5, "gradients of masked weights were there to be undone"
    assert (model[0].weight[~gone] != before["0.weight"][~gone]).all() and (model[3].weight != before["3.weight"]).all()
