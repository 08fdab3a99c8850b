"""Networks without some branches in a stock YAML: a row less, and what a concat then holds twice is read once."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import ultralytics
from conftest import conv, cut_copy, filled, noise, numbers, random_alive, settle
from native_models import BACKBONE, FINE, model_of
from torch import Tensor, nn
from ultralytics.nn.modules import C3, C2f

from yoloprune.backend.moved_layers import joined, layers, moved
from yoloprune.checkpoint.rebuild import require_stock_build
from yoloprune.cutting import surgery
from yoloprune.cutting.comparison import verify
from yoloprune.errors import BudgetError
from yoloprune.native import candidates, input_sums
from yoloprune.native.block_calls import Step, watch
from yoloprune.native.described import as_described
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.plan import REMOVED, Plan
from yoloprune.settings.budget import Budget, Limits

IMAGE = noise(2, 3, 64, 64)
DEEP = replace(FINE, depth=True)
TWO = [*BACKBONE[:2], [-1, 2, "C2f", [32, True]], *BACKBONE[3:]]


def without(graph: ChannelGraph, *names: str) -> np.ndarray:
    gone = [g for branch in graph.branches if branch.name in names for g in branch.groups]
    assert gone
    return ~np.isin(graph.group_of, gone)


# What a block does ----------------------------------------------------------------------------------------------------
def test_a_module_that_hands_on_is_no_step() -> None:
    block = surgery.cut(C2f(8, 16, 2, shortcut=True), Plan({"m.0": REMOVED}))
    calls = watch(block, 8)
    assert calls is not None
    assert calls.steps == (
        Step("call", "cv1", (0,), (1,)),
        Step("split", "", (1,), (2, 3)),
        Step("call", "m.1", (3,), (4,)),
        Step("concat", "", (2, 3, 3, 4), (5,)),
        Step("call", "cv2", (5,), (6,)),
    )
    whole = surgery.cut(C3(8, 16, 1), Plan({"m.0": REMOVED}))  # a row of modules, which hands on as well
    assert [step.child for step in watch(whole, 8).steps] == ["cv1", "cv2", "", "cv3"]  # type: ignore[union-attr]


def test_an_activation_in_place_is_a_step() -> None:
    class Rectifies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act = conv(4, 4), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.act(self.a(x))
            return y

    assert [step.child for step in watch(Rectifies(), 4).steps] == ["a", "act"]  # type: ignore[union-attr]


def test_equal_pieces_add_up() -> None:
    """Of [p, q, q, r] with weights 1 to 8 for pieces of two channels."""
    block = surgery.cut(C2f(8, 4, 2, shortcut=True), Plan({"m.0": REMOVED}))
    calls = watch(block, 8)
    assert calls is not None
    sums = input_sums.of(calls.steps[3], calls, block)
    assert sums == (0, 1, 2, 3, 2, 3, 4, 5)
    layer = filled(conv(8, 1, bias=False), [1, 2, 3, 4, 5, 6, 7, 8])
    read = input_sums.summed(layer, sums)
    assert read.weight.flatten().tolist() == [1, 2, 3 + 5, 4 + 6, 7, 8] and read.in_channels == 6
    assert layer.weight.flatten().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert input_sums.where(block.cv2, sums) == "conv"


class Joined(nn.Module):
    """A concat of the same tensor twice, read in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.how = conv(4, 4), conv(8, 4, groups=2 if how == "grouped" else 1), how
        self.c = conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = torch.cat([y, y], 1)
        if self.how == "given":
            return z
        if self.how == "two readers":
            return torch.cat([self.b(z), self.c(z)], 1)
        w: Tensor = self.b(z)
        return w


@pytest.mark.parametrize("how", ["given", "two readers", "grouped", "one reader"])
def test_pieces_add_up_where_one_dense_convolution_reads_them(how: str) -> None:
    block = Joined(how)
    calls = watch(block, 4)
    assert calls is not None
    concat = next(step for step in calls.steps if step.kind == "concat")
    assert (input_sums.of(concat, calls, block) is not None) == (how == "one reader")


def test_names_of_what_is_gone_mean_nothing() -> None:
    table = {"model.2": ["model.2", "model.3"], "model.2.m.0": [], "model.2.cv2": ["model.3"], "model.3": []}
    assert moved(["model.2.m.0", "model.2.m.0.cv1", "model.3"], table) == []
    assert moved(["model.2.cv2.conv"], table) == ["model.3.conv"]
    assert layers(table) == {2: [2, 3], 3: []}
    assert joined({"model.1": ["model.2"]}, {"model.2": []}) == {"model.1": []}
    later = {"model.4": ["model.4", "model.5"], "model.4.cv1": ["model.4"], "model.4.m.0": []}
    both = joined({"model.2": ["model.2", "model.3"], "model.2.cv1": ["model.2"], "model.3": ["model.4"]}, later)
    assert both["model.3"] == ["model.4", "model.5"]
    assert (both["model.3.cv1"], both["model.3.m.0"]) == (["model.4"], [])


# Whole models ---------------------------------------------------------------------------------------------------------
def rows_of(model: nn.Module, choice: candidates.Choice) -> nn.Module:
    """The cut model in the rows of its YAML, which stock Ultralytics builds; it is what the graph says it costs."""
    assert choice.described is not None
    child = cut_copy(model, choice.plan)
    rows = as_described(child, choice.described)
    verify(child, rows, Plan({}), IMAGE)
    require_stock_build(copy.deepcopy(rows), choice.described.yaml)
    assert numbers(rows) == Cost(choice.graph).of("params", choice.widths.astype(float))
    return rows


@pytest.mark.slow
def test_a_c2f_without_its_first_bottleneck() -> None:
    model = model_of(TWO)
    found = candidates.Channels(model, DEEP, 64)
    assert found.native is not None
    assert [(b.name, b.twice[0][1]) for b in found.native.branches] == [
        ("model.2.m.0", tuple(range(32, 48))),  # beside the half that it was given, channels 16 to 31
        ("model.2.m.1", tuple(range(48, 64))),
    ]
    choice = found.choose(lambda graph: without(graph, "model.2.m.0"))
    assert choice.yaml is not None and choice.described is not None
    rows = choice.yaml["backbone"][2:7]
    assert [row[2] for row in rows] == ["Conv", "Conv", "Bottleneck", "Concat", "Conv"]
    assert rows[3][0] == [2, 3, 4]  # the second half once
    small = rows_of(model, choice)
    assert small.model[6].conv.in_channels == 48
    table = choice.described.modules()
    assert table["model.2.m.0"] == [] and table["model.2.m.1"] == ["model.4"]
    merged, apart = choice.kept()["params"], choice.freed().kept()["params"]
    assert (apart - merged) * numbers(model) == pytest.approx(16 * 32)  # of `cv2`, 16 inputs of its 32 outputs
    assert apart * numbers(model) == pytest.approx(numbers(cut_copy(model, choice.plan)))
    both = found.choose(lambda graph: without(graph, "model.2.m.0", "model.2.m.1"))
    assert [row[2] for row in both.yaml["backbone"][2:6]] == ["Conv", "Conv", "Concat", "Conv"]  # type: ignore[index]
    rows_of(model, both)


@pytest.mark.slow
def test_a_layer_that_is_a_branch_loses_its_row() -> None:
    backbone = [*BACKBONE[:3], [-1, 1, "Bottleneck", [32]], *BACKBONE[3:]]
    model = model_of(backbone, [[2, 3, 5], 1, "Detect", ["nc"]])
    found = candidates.Channels(model, DEEP, 64)
    choice = found.choose(lambda graph: without(graph, "model.3"))
    assert choice.yaml is not None and choice.described is not None
    assert [row[2] for row in choice.yaml["backbone"]] == ["Conv", "Conv", "C2f", "Conv", "SPPF"]
    assert choice.yaml["head"][0][0] == [2, 2, 4]
    rows_of(model, choice)
    table = choice.described.modules()
    assert (table["model.3"], table["model.4"]) == ([], ["model.3"])


@pytest.mark.slow
def test_attention_that_no_row_says_may_go_where_a_row_said_the_block() -> None:
    model = model_of(
        [*BACKBONE[:4], [-1, 1, "Conv", [128, 3, 2]], [-1, 1, "C2PSA", [128]]], [[2, 5], 1, *["Detect", ["nc"]]]
    )
    found = candidates.Channels(model, DEEP, 64)
    choice = found.choose(lambda graph: without(graph, "model.5.m.0"))
    assert [row[2] for row in choice.yaml["backbone"][5:]] == ["Conv", "Conv", "Concat", "Conv"]  # type: ignore[index]
    rows_of(model, choice)


@pytest.mark.slow
def test_reach_counts_branches() -> None:
    found = candidates.Channels(model_of(TWO), replace(DEEP, depth="only"), 64)
    found.require_reach(Budget(flops=0.99))
    with pytest.raises(BudgetError, match="depth=only"):
        found.require_reach(Budget(flops=0.5))


@pytest.mark.slow
def test_blocks_in_one_row_keep_their_branches() -> None:
    found = candidates.Channels(model_of(TWO), replace(DEEP, native="tied"), 64)
    assert found.native is not None and found.native.branches == () and len(found.graph.branches) == 2


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolov5n"])
def test_random_branches_in_rows(name: str) -> None:
    model = ultralytics.YOLO(f"{name}.yaml").model
    settle(model, noise(2, 3, 64, 64)).eval()
    found = candidates.Channels(model, Limits(native=True, depth=True), 64)
    for seed in range(2):

        def chosen(graph: ChannelGraph, seed: int = seed) -> np.ndarray:
            rng = np.random.default_rng(seed)
            names = [branch.name for branch in graph.branches if rng.random() < 0.5]
            return random_alive(graph, seed) & without(graph, *names)

        rows_of(model, found.choose(chosen))
