"""Layers without numbers: shapes as a constructor makes them, and nothing that takes long to import."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from threading import Event, Thread

import pytest
import torch
from torch import nn

from yoloprune.torch_internals import ConvNd, filled, hollow, undrawn
from yoloprune.tracing.trace_network import trace

LONG = """
import sys
import torch
from yoloprune.backend import model_builder
from yoloprune.native import block_calls, yaml_rows
from yoloprune.probing import operations, examples
row = yaml_rows.Row(0, (-1,), False, 1, "C2f", (16, True))
config = {"nc": 3, "backbone": [[-1, 1, "C2f", [16, True]]], "head": []}
block = yaml_rows.build(row, [16], config, 16)
head = yaml_rows.Row(1, (0, 0), True, 1, "Detect", (3,))  # whose constructor counts the bins of a box
assert yaml_rows.build(head, [16, 16], config) is not None
assert block_calls.watch(block, 16) is not None
network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU())
x = torch.zeros(1, 3, 8, 8)
operations.listing(network, examples.Example((x,)), training=False, hollow=True)
print([name for name in ("torch._dynamo", "sympy", "torchvision") if name in sys.modules])
"""


def test_layers_are_shapes_without_numbers() -> None:
    kinds = {m: vars(m)["reset_parameters"] for m in (nn.modules.conv._ConvNd, nn.Linear)}
    with hollow():
        layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2))
        bins = torch.arange(4, dtype=torch.float)
    assert {p.device.type for p in [*layers.parameters(), *layers.buffers(), bins]} == {"meta"}
    assert bins.shape == (4,) and bins.dtype == torch.float
    assert [tuple(p.shape) for p in layers.parameters()] == [(8, 3, 3, 3), (8,), (8,), (8,), (2, 8), (2,)]
    assert all(vars(m)["reset_parameters"] is method for m, method in kinds.items())
    torch.manual_seed(0)
    assert nn.Conv2d(3, 8, 3).weight.std() > 0 and nn.BatchNorm2d(8).running_var.tolist() == [1.0] * 8


def test_a_constructor_that_fails_leaves_everything_as_it_was() -> None:
    with pytest.raises(ValueError, match="divisible"), hollow():
        nn.Conv2d(3, 8, 3, groups=2)
    assert nn.Linear(2, 2).weight.device.type == "cpu"


def test_zeros_for_numbers() -> None:
    with hollow():
        layer = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    full = filled(layer)
    assert full is layer and all(t.device.type == "cpu" and not t.any() for t in full.state_dict().values())
    assert full[1].num_batches_tracked.dtype == torch.long
    assert full(torch.ones(1, 3, 4, 4)).shape == (1, 8, 2, 2)


@pytest.mark.slow
def test_blocks_are_looked_at_without_the_compiler() -> None:
    """Torch's compiler, sympy and torchvision take two seconds to import, which a `prune` would wait for."""
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]"), done.stdout


class Counting(nn.Conv2d):
    """Notes how many threads torch has, and fails where that is wanted."""

    def __init__(self, failing: bool = False) -> None:
        super().__init__(3, 4, 1)
        self.failing = failing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        if self.failing:
            raise ValueError("as wanted")
        return super().forward(x)


seen: list[int] = []


@pytest.mark.parametrize("failing", [False, True])
def test_small_networks_are_traced_on_one_thread(failing: bool) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    seen.clear()
    try:
        with pytest.raises(ValueError, match="as wanted") if failing else nullcontext():
            trace(nn.Sequential(Counting(failing), nn.Conv2d(4, 2, 1)), torch.zeros(1, 3, 4, 4))
        assert torch.get_num_threads() == 3 and set(seen) == {1}
    finally:
        torch.set_num_threads(before)


def test_layers_of_other_threads_draw_their_weights() -> None:
    torch.manual_seed(0)
    wanted, built = nn.Linear(3, 3).weight, list[torch.Tensor]()

    def build() -> None:
        torch.manual_seed(0)
        built.append(nn.Linear(3, 3).weight)

    with undrawn():
        thread = Thread(target=build)
        thread.start()
        thread.join()
    assert built[0].equal(wanted)


def test_two_threads_leave_layers_as_they_were() -> None:
    """The second one to begin ends last, and would put back what the first one had put there."""
    before, entered, over = ConvNd.reset_parameters, Event(), Event()

    def first() -> None:
        with undrawn():
            entered.set()
            over.wait(0.3)

    def second() -> None:
        entered.wait()
        with undrawn():
            over.set()
            one.join()

    one, two = Thread(target=first), Thread(target=second)
    for thread in (one, two):
        thread.start()
    two.join()
    after, ConvNd.reset_parameters = ConvNd.reset_parameters, before
    assert after is before
