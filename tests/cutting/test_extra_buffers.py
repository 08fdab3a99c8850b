"""Buffers that a tool hung onto layers are cut with them."""

from __future__ import annotations

import pytest
import torch
from conftest import conv, noise, reasons
from networks import FREE, exact, net
from torch import Tensor, nn

from yoloprune.cutting.surgery import cut
from yoloprune.planning.plan import Keep, Plan

PLAN = Plan(
    {
        "0": Keep(outputs=(1, 2, 5), of=(6, None)),
        "1": Keep(outputs=(1, 2, 5), of=(6, None)),
        "2": Keep(outputs=(0, 3), inputs=(1, 2, 5), of=(4, 6)),
    }
)


def network(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), layer)


@pytest.mark.parametrize("layer", [conv(6, 4, 3), nn.ConvTranspose2d(6, 4, 3), nn.Linear(6, 4)])
def test_buffers_follow_the_weight(layer: nn.Module) -> None:
    model = network(layer)
    layer.register_buffer("mask", layer.weight.detach() + 1)  # type: ignore[operator]
    layer.register_buffer("hits", torch.arange(4))
    layer.register_buffer("seen", torch.arange(6).reshape(1, 6, 1, 1))
    layer.register_buffer("step", torch.tensor(7))
    layer.register_buffer("table", torch.arange(20).reshape(4, 5))
    layer.register_buffer("corners", torch.arange(3))
    model[1].register_buffer("votes", torch.arange(6))
    cut(model, PLAN)
    assert torch.equal(layer.mask, layer.weight + 1)  # type: ignore[operator,arg-type]
    assert layer.hits.tolist() == [0, 3]  # type: ignore[operator,union-attr]
    assert layer.seen.flatten().tolist() == [1, 2, 5]  # type: ignore[operator,union-attr]
    assert layer.step.item() == 7 and layer.table.shape == (4, 5) and len(layer.corners) == 3  # type: ignore[operator,union-attr]
    assert model[1].votes.tolist() == [1, 2, 5] and len(model[1].running_mean) == 3  # type: ignore[operator,union-attr,arg-type]


def test_a_layer_as_wide_as_its_input_keeps_one_value_per_output() -> None:
    model = nn.Sequential(conv(3, 6), conv(6, 6))
    model[1].register_buffer("hits", torch.arange(6))
    both = Keep(outputs=(4, 5), inputs=(0, 1, 2), of=(6, 6))
    cut(model, Plan({"0": Keep(outputs=(0, 1, 2), of=(6, None)), "1": both}))
    assert model[1].hits.tolist() == [4, 5]  # type: ignore[operator,union-attr]
    model = nn.Sequential(conv(3, 6), conv(6, 6))
    model[1].register_buffer("scale", torch.arange(6))
    inputs = Keep(inputs=(0, 1, 2), of=(None, 6))
    cut(model, Plan({"0": Keep(outputs=(0, 1, 2), of=(6, None)), "1": inputs}))
    assert model[1].scale.tolist() == [0, 1, 2, 3, 4, 5]  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("first", [True, False])
def test_a_buffer_that_the_plan_names_is_cut_as_it_says(first: bool) -> None:
    """Not once more with its layer, as wide as whose input it is then, whichever of the two comes first."""
    model = nn.ModuleDict({"layer": conv(4, 6)})
    model.layer.register_buffer("gain", torch.arange(6))
    layer = Keep(outputs=(1, 2, 5), inputs=(0, 1), of=(6, 4))
    buffer = Keep(outputs=(0, 3, 4, 5), of=(6, None))
    named = {"layer.gain": buffer, "layer": layer}
    cut(model, Plan(named if first else dict(reversed(named.items()))))
    assert model.layer.gain.tolist() == [0, 3, 4, 5] and model.layer.out_channels == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("made", "groups", "outputs", "inputs"),
    [
        (6, 6, (1, 2, 5), (1, 2, 5)),  # of each channel one
        (12, 6, (2, 3, 4, 5, 10, 11), (1, 2, 5)),  # of each channel two
        (9, 3, (0, 1, 2, 6, 7, 8), (0, 1, 4, 5)),  # of every two channels three
        (3, 3, (0, 2), (0, 1, 4, 5)),  # of every two channels one
    ],
)
def test_buffers_of_groups_go_with_whole_groups(
    transposed: bool, made: int, groups: int, outputs: tuple[int, ...], inputs: tuple[int, ...]
) -> None:
    """A transposed weight lists the inputs of all groups, any other one the outputs."""
    layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(6, made, 3, groups=groups)
    layer.register_buffer("mask", layer.weight.detach() + 1)
    layer.register_buffer("hits", torch.arange(made))
    layer.register_buffer("seen", torch.arange(6).reshape(1, 6, 1, 1))
    layer.register_buffer("table", torch.arange(20).reshape(4, 5))
    before = Keep(outputs=inputs, of=(6, None))
    cut(network(layer), Plan({"0": before, "1": before, "2": Keep(outputs=outputs, of=(made, None))}))
    assert torch.equal(layer.mask, layer.weight + 1) and layer.table.shape == (4, 5)  # type: ignore[operator,arg-type,union-attr]
    assert layer.hits.tolist() == list(outputs)  # type: ignore[operator,union-attr]
    assert layer.seen.flatten().tolist() == list(inputs)  # type: ignore[operator,union-attr]


class Centred(nn.Conv2d):
    """A convolution that subtracts a mean of its own, called as a batch-norm's is."""

    def __init__(self, c: int) -> None:
        super().__init__(c, c, 1)
        self.register_buffer("running_mean", noise(c))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - self.running_mean.view(1, -1, 1, 1)


def test_statistics_of_other_layers_are_cut_with_them() -> None:
    graph = exact(net(lambda m, x: m.b(m.odd(m.a(x)).relu()), a=(3, 4), odd=Centred(4), b=(4, 2)))
    assert reasons(graph, "odd.outputs") == FREE
