"""The table of layers: names, widths, states, partners and parts, and its short form for a terminal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import hand_graph, shipped
from ultralytics import YOLO

from yoloprune.backend import yolo_tracing
from yoloprune.planning.branch import Branch
from yoloprune.planning.channel_graph import ChannelGraph, Term
from yoloprune.reporting.layer_table import ONCE, frozen_layers, layer_name, layer_rows, shortened, summary, with_costs
from yoloprune.reporting.text_table import table


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    """A block as in C2f: `cv1` makes two halves, the second is also what the depthwise `dw` and `m` make; a head."""
    return hand_graph(
        {
            "net.0.cv1.conv.outputs": [0, 1, 2, 3],
            "net.0.cv1.conv.inputs": [7],
            "net.0.cv1.bn.outputs": [0, 1, 2, 3],
            "net.0.dw.conv.outputs": [2, 3],
            "net.0.m.conv.outputs": [2, 3],
            "net.0.m.conv.inputs": [2, 3],
            "net.1.mixed.outputs": [4, 5, 5, 6],
            "net.1.mixed.inputs": [0, 1, 2, 3, 2, 3],
        },
        group_of=[0, 0, 1, 1, 2, 2, 3, 4],
        ties=[[0, 1], [2]],
        frozen={3: "network output", 4: "network input"},
    )


def test_one_row_per_layer_that_makes_channels(graph: ChannelGraph) -> None:
    assert layer_rows(graph) == [
        {
            "layer": "net.0.cv1",
            "width": 4,
            "state": "prunable",
            "coupled with": ["net.0.dw", "net.0.m"],
            "parts": "2 x 2",
        },
        {
            "layer": "net.0.m",
            "width": 2,
            "state": "prunable",
            "coupled with": ["net.0.cv1", "net.0.dw"],
            "parts": None,
        },
        {
            "layer": "net.1.mixed",
            "width": 4,
            "state": "3 prunable; frozen: network output",
            "coupled with": [],
            "parts": None,
        },
    ]


def test_widths_after_a_cut(graph: ChannelGraph) -> None:
    """A class that stands at two positions counts twice: one of 4 and 5 goes, with half of the three positions."""
    kept = [row["kept"] for row in layer_rows(graph, np.array([1, 1, 2, 1, 1]))]
    assert kept == [2, 1, 4]


@pytest.mark.parametrize(
    "module, name",
    [
        ("model.0.conv", "model.0"),
        ("model.0.bn", "model.0"),
        ("model.16.norm.weight", "model.16.norm"),
        ("conv", "conv"),
        ("features.3", "features.3"),
    ],
)
def test_names_are_those_of_the_block(module: str, name: str) -> None:
    assert layer_name(module) == name


def row(layer: str, state: str = "prunable", partners: tuple[str, ...] = ()) -> dict[str, object]:
    return {"layer": layer, "width": 8, "state": state, "coupled with": list(partners), "parts": None}


def test_layers_frozen_for_one_reason_in_one_block_share_a_row() -> None:
    head = [row(f"model.22.cv{i}", "frozen: Detect head") for i in range(5)]
    rows = shortened([row("model.21"), *head, row("model.23.a", "frozen: Detect head")])
    assert [(r["layer"], r["width"]) for r in rows] == [
        ("model.21", 8),
        ("model.22.* (5 layers)", 40),
        ("model.23.a", 8),
    ]


def test_partners_in_the_same_block_are_named_from_there() -> None:
    rows = shortened([row("model.2.cv1", partners=("model.2.m.0.cv2", "model.22.cv2", "model.20"))])
    assert rows[0]["coupled with"] == ".m.0.cv2, model.22.cv2, model.20"


def test_parameters_of_one_layer_share_a_row() -> None:
    graph = hand_graph({"a.norm.weight.outputs": [0, 1], "a.norm.bias.outputs": [2, 3]}, [0, 0, 1, 1])
    assert [r["layer"] for r in layer_rows(graph)] == ["a.norm"]


def test_frozen_channels_are_counted_by_reason(graph: ChannelGraph) -> None:
    many = hand_graph({"a.outputs": [0, 1, 2]}, [0, 1, 1], frozen={0: "mixed by mean in a", 1: "mixed by mean in b.c"})
    assert summary(many) == ["3 channels frozen: mixed by mean", ONCE]
    assert summary(graph) == ["1 channels frozen: network output", "1 channels frozen: network input", ONCE]
    assert summary(hand_graph({"a.outputs": [0]}, [0])) == []


def test_long_lists_tell_how_many_are_left_out() -> None:
    rows = shortened([row("a.b.c", partners=tuple(f"x.y.layer{i}" for i in range(9)))], length=40)
    assert rows[0]["coupled with"] == "x.y.layer0, x.y.layer1, 7 more"


def test_costs_of_layers_with_what_follows_them() -> None:
    """2 MFLOPs for each pair of channels of `a`; the depthwise `dw`, which has no row, counts for `a` before it."""
    graph = hand_graph(
        {"a.conv.outputs": [0, 1], "a.conv.inputs": [2], "dw.conv.outputs": [0, 1], "b.conv.inputs": [0, 1]}
        | {"b.conv.outputs": [3]},
        group_of=[0, 0, 1, 2],
        frozen={1: "network input", 2: "network output"},
        flops=[Term(2e6, (0, 1)), Term(5e6, (2,)), Term(1e6, (3, 4))],
    )
    rows = with_costs(layer_rows(graph), graph, np.array([1, 1, 1]))
    told = {r["layer"]: (r["MFLOPs"], r["MFLOPs kept"]) for r in rows}
    assert told == {"a": (4 + 10, 2 + 5), "b": (2, 1)}


def test_frozen_layers_are_told_by_reason_and_block() -> None:
    head = [row(f"model.22.cv{i}", "frozen: Detect head") for i in range(3)]
    mixed = row("model.3", "4 prunable; frozen: mixed by mean in model.3; frozen: Detect head")
    assert frozen_layers([row("model.0"), *head, mixed]) == [
        "Detect head: model.22.* (3 layers), model.3",
        "mixed by mean in model.3: model.3",
    ]


@pytest.mark.parametrize("name", shipped("yolov8n", "yolo11n", "yolo12n", "yolov8n-worldv2"))
@pytest.mark.slow
def test_real_tables_fit_a_terminal_and_name_layers_that_can_be_kept(name: str) -> None:
    model = YOLO(f"{name}.yaml").model
    rows = layer_rows(yolo_tracing.trace_yolo(model))
    assert max(map(len, table(shortened(rows)).splitlines())) <= 120
    names = {n for n, _ in model.named_modules()}
    assert {r["layer"] for r in rows} <= names
    assert {p for r in rows for p in r["coupled with"]} <= names


def test_layers_of_a_branch_that_is_gone() -> None:
    """`m.b` writes into the stream, which is as wide as before, and is gone all the same."""
    axes = {"s.outputs": [0, 1], "s.inputs": [4], "m.a.outputs": [2, 3], "m.a.inputs": [0, 1]}
    axes |= {"m.b.outputs": [0, 1], "m.b.inputs": [2, 3]}
    graph = hand_graph(axes, group_of=[0, 0, 1, 1, 2], ties=[[0], [1]], frozen={2: "network input"})
    graph = replace(graph, branches=(Branch("m", (1,)),))
    rows = {row["layer"]: (row["width"], row["kept"], row["state"]) for row in layer_rows(graph, np.array([2, 0, 1]))}
    assert rows == {
        "s": (2, 2, "prunable"),
        "m.a": (2, 0, "removed: m"),
        "m.b": (2, 0, "removed: m"),
    }
