"""Rows of others' blocks in a model YAML: what is cut around them is still said, and stock Ultralytics builds it."""

from __future__ import annotations

import copy
from typing import Any

import blocks
import pytest
import torch
from conftest import cut_copy, cutting_alive, noise, reasons
from native_models import BACKBONE, model_of, restricted
from torch import nn
from torch.utils._pytree import tree_leaves
from ultralytics.nn import tasks

from yoloprune.backend import model_builder
from yoloprune.cutting import comparison
from yoloprune.planning.channel_graph import ChannelGraph

pytestmark = pytest.mark.slow

FREE = {None}
ROWS: dict[str, list[Any]] = {
    "GSConv": [64, 64],
    "RFAConv": [64, 64],
    "PConv": [64],
    "ECA": [],
    "DCNv2": [64, 64],
    "ODConv": [64, 64],
}


def _cut(name: str, args: list[Any]) -> tuple[ChannelGraph, nn.Module, list[list[Any]]]:
    """The row between two Conv, cut at random: the graph, what stock builds of the YAML, its backbone; all the same."""
    rows = [*BACKBONE[:4], [-1, 1, name, args], [-1, 1, "Conv", [64, 3, 2]]]
    model = model_of(rows, [[2, 5], 1, "Detect", ["nc"]])
    graph, stock = restricted(model)
    alive = cutting_alive(graph, 0)
    plan = graph.plan(alive)
    small = cut_copy(model, plan)
    assert comparison.verify(model, small, plan, noise(2, 3, 64, 64)) <= 1e-4
    described = stock.describe(alive).yaml
    fresh = model_builder.rebuild(small, copy.deepcopy(described)).eval()
    with torch.no_grad():
        x = noise(1, 3, 64, 64)
        told, made = tree_leaves(small(x)), tree_leaves(fresh(x))
    assert all(torch.equal(a, b) for a, b in zip(told, made, strict=True))
    return graph, fresh, described["backbone"]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_the_yaml_cannot_narrow_keeps_its_width_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row and the layer that it reads stay at 64, as its numbers say; layers before and behind it may be cut."""
    monkeypatch.setattr(tasks, name, getattr(blocks, name), raising=False)  # where model YAMLs find a user's class
    graph, fresh, rows = _cut(name, ROWS[name])
    assert None not in reasons(graph, "model.3.conv.outputs")
    assert reasons(graph, "model.1.conv.outputs") == reasons(graph, "model.5.conv.outputs") == FREE
    assert rows[3][3][0] == fresh.model[3].conv.out_channels == fresh.model[5].conv.in_channels == 64
    assert rows[4][2:] == [name, ROWS[name]]


def test_a_row_that_keeps_a_number_of_its_width_is_narrowed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of what comes in, which its constructor makes of its only argument, and the cut of what it counts."""
    monkeypatch.setattr(tasks, "Slicing", blocks.Slicing, raising=False)
    graph, fresh, rows = _cut("Slicing", [64])
    assert reasons(graph, "model.3.conv.outputs") == reasons(graph, "model.4.one.number") == FREE
    (width,) = rows[4][3]
    assert 0 < width < 64 and rows[3][3][0] == width == fresh.model[3].conv.out_channels
    assert fresh.model[4].one == width // 4 == fresh.model[4].conv.in_channels


def test_a_row_whose_numbers_are_its_widths_is_narrowed_with_what_it_reads() -> None:
    """torchvision's squeeze and excitation is told both of its widths; neither is held by anything else."""
    graph, fresh, rows = _cut("torchvision.ops.SqueezeExcitation", [64, 16])
    for axis in ("model.3.conv.outputs", "model.4.fc1.outputs", "model.4.fc2.outputs", "model.5.conv.outputs"):
        assert reasons(graph, axis) == FREE, axis
    width, squeezed = rows[4][3]
    assert 0 < width < 64 and 0 < squeezed < 16
    assert rows[3][3][0] == width == fresh.model[4].fc2.out_channels == fresh.model[5].conv.in_channels
    assert squeezed == fresh.model[4].fc1.out_channels
