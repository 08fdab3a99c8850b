"""Networks that are built to be compared: shapes and strides as ever, without the work."""

from __future__ import annotations

import copy
from threading import Thread, get_ident

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.nn import tasks
from ultralytics.nn.modules import Conv

from yoloprune.backend import model_builder

SMALL = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 4]]],
    "head": [[[0, 1], 1, "Detect", ["nc"]]],
}


class Looks(nn.Module):
    """Leaves rows out by what it sees: none of ones, and it fails where it sees nothing but zeros."""

    def __init__(self, *_: int) -> None:
        super().__init__()
        self.c = nn.Conv2d(3, 3, 3, 2, 1, bias=False)
        nn.init.ones_(self.c.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(x + 1)
        return y[:, :, :: int(36 // y.max())]  # the sum of 3 * 9 ones is 27


def test_strides_of_a_blank_network_are_found_without_a_multiplication() -> None:
    with FlopCounterMode(display=False) as counted:
        built = model_builder.build(tasks.DetectionModel, SMALL, 3, blank=True)
    assert counted.get_total_flops() == 0
    assert built.stride.tolist() == [2.0, 8.0] and built.training
    with FlopCounterMode(display=False) as counted:
        built.eval()(torch.zeros(1, 3, 64, 64))
    assert counted.get_total_flops() > 0


def test_a_network_that_is_used_is_run_for_its_strides() -> None:
    with FlopCounterMode(display=False) as counted:
        model_builder.build(tasks.DetectionModel, SMALL, 3)
    assert counted.get_total_flops() > 0


def test_weights_are_those_that_ultralytics_draws_unless_they_may_be_blank() -> None:
    torch.manual_seed(3)
    drawn = model_builder.build(tasks.DetectionModel, SMALL, 3)
    torch.manual_seed(3)
    stock = tasks.DetectionModel(copy.deepcopy(SMALL), ch=3, nc=2, verbose=False)
    assert all(torch.equal(a, b) for a, b in zip(drawn.parameters(), stock.parameters(), strict=True))
    torch.manual_seed(3)
    model_builder.build(tasks.DetectionModel, SMALL, 3, blank=True)
    before = torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(before, torch.get_rng_state())  # nothing was drawn


@pytest.mark.parametrize("blank", [False, True])
def test_the_activation_of_a_yaml_is_not_left_to_other_networks(blank: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 8.4 Ultralytics leaves it to the whole process."""
    parse, before = tasks.parse_model, Conv.default_act

    def leaving(config: dict, *args: object, **kwargs: object) -> object:
        found = parse(config, *args, **kwargs)
        Conv.default_act = nn.ReLU()
        return found

    monkeypatch.setattr(tasks, "parse_model", leaving)
    model_builder.build(tasks.DetectionModel, SMALL, 3, blank=blank)
    assert Conv.default_act is before


def test_a_layer_that_counts_on_what_it_sees_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn, "Looks", Looks, raising=False)
    rows = {"nc": 2, "backbone": [[-1, 1, "nn.Looks", []], [-1, 1, "Conv", [8, 3, 4]]]}
    built = model_builder.build(tasks.DetectionModel, {**rows, "head": [[[1], 1, "Detect", ["nc"]]]}, 3, blank=True)
    assert built.stride.tolist() == [8.0]


def test_other_threads_run_their_networks_as_always(monkeypatch: pytest.MonkeyPatch) -> None:
    other = tasks.DetectionModel(copy.deepcopy(SMALL), ch=3, nc=2, verbose=False).eval()
    image, seen = torch.rand(1, 3, 64, 64), []
    wanted = other(image)[0]
    builder, forward = get_ident(), tasks.Conv.forward

    def meanwhile(self: nn.Module, x: Tensor) -> Tensor:
        if get_ident() == builder:
            thread = Thread(target=lambda: seen.append(other(image)[0]))
            thread.start()
            thread.join()
        return forward(self, x)

    monkeypatch.setattr(tasks.Conv, "forward", meanwhile)
    model_builder.build(tasks.DetectionModel, SMALL, 3, blank=True)
    assert seen and all(torch.equal(one, wanted) for one in seen)
