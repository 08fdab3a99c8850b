"""Blocks written as several rows: what they do is watched, what comes out computes the same to the bit."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import conv, cut_copy, cutting_alive, noise
from native_models import BACKBONE, FINE, model_of
from torch import Tensor, nn
from ultralytics.nn.modules import C3, C2f

from yoloprune.backend.moved_layers import frozen_layers, joined, layers, moved
from yoloprune.checkpoint.rebuild import require_stock_build
from yoloprune.cutting.comparison import verify
from yoloprune.native import candidates
from yoloprune.native.block_calls import Step, constructors, watch
from yoloprune.native.described import as_described
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.plan import Plan
from yoloprune.settings.budget import Limits

pytestmark = pytest.mark.slow

IMAGE = noise(2, 3, 64, 64)
NEWER = [*BACKBONE[:2], [-1, 2, "C3k2", [32, True, 0.25]], *BACKBONE[3:]]


def test_what_a_c2f_does() -> None:
    calls = watch(C2f(8, 16, 1), 8)
    assert calls is not None
    assert calls.steps == (
        Step("call", "cv1", (0,), (1,)),
        Step("split", "", (1,), (2, 3)),
        Step("call", "m.0", (3,), (4,)),
        Step("concat", "", (2, 3, 4), (5,)),
        Step("call", "cv2", (5,), (6,)),
    )
    assert calls.widths == (8, 16, 8, 8, 8, 24, 16) and calls.result == 6


class Adds(nn.Module):
    """An addition in the block's own code, which no row says."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(4, 4), conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


class Returns(Adds):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.a(x), self.b(x)]


class Slices(Adds):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(torch.cat([x[:, :2], x[:, 2:]], 1))


class Fails(Adds):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("too small")


@pytest.mark.parametrize("block", [Adds, Returns, Slices, Fails])
def test_what_else_a_block_does_no_rows_can_do(block: type[nn.Module]) -> None:
    assert watch(block(), 4) is None


def test_what_modules_are_constructed_with() -> None:
    with constructors() as told:
        block = C3(8, 16, 2, e=0.25)
    assert told[block] == {"c1": 8, "c2": 16, "n": 2, "shortcut": True, "g": 1, "e": 0.25}
    inner = told[block.m[1]]
    assert (inner["c1"], inner["c2"], inner["k"], inner["e"]) == (4, 4, ((1, 1), (3, 3)), 1.0)
    whole = nn.Module.__init__
    with pytest.raises(ZeroDivisionError), constructors():
        raise ZeroDivisionError
    assert nn.Module.__init__ is whole


@pytest.mark.parametrize("backbone", [BACKBONE, NEWER], ids=["C2f", "C3k2"])
@pytest.mark.parametrize("seed", range(3))
def test_unrolled_models_compute_the_same(backbone: list[list[object]], seed: int) -> None:
    model = model_of(backbone)
    found = candidates.Channels(model, Limits(max_ratio=1.0), 64)
    choice = found.choose(lambda graph: cutting_alive(graph, seed))
    described, plan = choice.described, choice.plan
    assert described is not None
    child = cut_copy(model, plan)
    rows = as_described(child, described)
    assert verify(child, rows, Plan({}), IMAGE) == 0
    assert sum(p.numel() for p in rows.parameters()) == sum(p.numel() for p in child.parameters())
    require_stock_build(copy.deepcopy(rows), described.yaml)
    names = [row[2] for row in described.yaml["backbone"] + described.yaml["head"]]
    assert "C3k2" in names or backbone is BACKBONE  # Ultralytics builds another head where there is none


def test_a_block_that_rows_cannot_say_either_keeps_its_one_row() -> None:
    """Rows of `Conv` are multiples of 8 wide, a C2f's fraction says 12 of 16 for both halves and the bottleneck."""
    model = model_of(BACKBONE)
    found = candidates.Channels(model, FINE, 64)
    asked: list[int] = []

    def twelve(graph: ChannelGraph) -> np.ndarray:
        asked.append(len(graph.ties))
        alive = np.ones(graph.n_classes, dtype=bool)
        half = next(t for t in graph.ties if graph.groups[t.groups[0]].name == "model.2.cv1.conv[0:16]")
        for group in half.groups:
            alive[graph.classes(group)[12:]] = False
        return alive

    choice = found.choose(twelve)
    assert choice.described is not None and not choice.described.unrolled
    assert choice.yaml is not None and choice.yaml["backbone"][2][2:] == ["C2f", [32, True, 1, 0.375]]
    assert len(asked) == 2 and asked[1] < asked[0]


def test_the_inside_of_a_bottleneck_is_free_of_its_stream() -> None:
    """The stream keeps 16 channels, the bottleneck's inside 8: no C2f row says that."""
    model = model_of(BACKBONE)
    found = candidates.Channels(model, FINE, 64)
    assert found.native is not None and found.stock is not None
    inside = next(i for i, g in enumerate(found.native.groups) if g.name == "model.2.m.0.cv1.conv")
    alive = np.ones(found.native.n_classes, dtype=bool)
    alive[found.native.classes(inside)[8:]] = False
    described = found.stock.describe(alive)
    assert list(described.unrolled) == [2]
    rows = described.yaml["backbone"][2:7]
    assert [row[2] for row in rows] == ["Conv", "Conv", "Bottleneck", "Concat", "Conv"]
    assert rows[0][3] == [16] and rows[1][:2] == [1, 1] and rows[2][3][0] == 16 and rows[2][3][4] == 0.5
    assert rows[3][0] == [2, 3, 4]
    table = described.modules()
    assert table["model.2"] == ["model.2", "model.3", "model.4", "model.5", "model.6"]
    assert table["model.2.cv1"] == ["model.2", "model.3"] and table["model.3"] == ["model.7"]
    tied = candidates.Channels(model, replace(FINE, native="tied"), 64)
    assert tied.native is not None
    assert all(len(t.groups) > 1 for t in tied.native.ties if inside in t.groups)


def test_names_of_the_parents_layers_go_on_meaning_them() -> None:
    table = {"model.1": ["model.1", "model.2"], "model.1.cv1": ["model.1"], "model.2": ["model.3"]}
    assert moved(["model.2.conv", "model.1.cv1.bn", "backbone"], table) == ["model.3.conv", "model.1.bn", "backbone"]
    assert moved(["model.1"], table) == ["model.1", "model.2"]
    assert moved(["model.?"], table) == ["model.1", "model.2", "model.3"]
    assert frozen_layers([0, 1], {**table, "model.0": ["model.0"]}) == [0, 1, 2]
    assert frozen_layers([2, "2.conv", "1.cv1"], table) == [3, "3.conv", "1"]
    assert frozen_layers([0, 1], {}) == [0, 1]
    later = {"model.3": ["model.3", "model.4"]}
    assert joined(table, later)["model.2"] == ["model.3", "model.4"]
    assert joined({}, later) == later
    assert layers(joined(table, later)) == {1: [1, 2], 2: [3, 4]}
    assert layers({"model.0": ["model.0"], "model.1": ["model.1"]}) == {}  # all where they were
