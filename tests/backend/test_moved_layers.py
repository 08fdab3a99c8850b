"""What layers of a pruned model are called: every name that is printed can be given to a key."""

from __future__ import annotations

import pytest
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from yoloprune.backend import host_arguments, moved_layers, yolo_tracing
from yoloprune.backend.yaml_markers import KEY, LAYERS
from yoloprune.errors import ArgumentError
from yoloprune.reporting import layer_table

TABLE = {
    "model.0": ["model.0"],
    "model.1": ["model.1", "model.2", "model.3", "model.4", "model.5"],
    "model.1.cv1": ["model.1", "model.2"],
    "model.1.m.0": ["model.3"],
    "model.1.m.1": [],
    "model.1.cv2": ["model.5"],
    "model.2": ["model.6"],
    "model.3": ["model.7"],
}
"""A C2f that became two `Conv`, a `Bottleneck`, `Concat` and `Conv`; of its two bottlenecks one is gone."""

ROWS = [
    [-1, 1, "Conv", [16, 3, 2]],
    [-1, 1, "Conv", [8]],
    [0, 1, "Conv", [8]],
    [-1, 1, "Bottleneck", [8, True, 1, [3, 3], 1.0]],
    [[1, 2, 3], 1, "Concat", [1]],
    [-1, 1, "Conv", [16]],
    [-1, 1, "Conv", [24, 3, 2]],
]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    yaml = {"nc": 2, "backbone": ROWS, "head": [[[6], 1, "Detect", ["nc"]]]}
    made = DetectionModel(yaml, verbose=False)
    made.yaml[KEY] = {"version": 2, "widths": {}, "native": True, LAYERS: TABLE, "provenance": None}
    return made


def test_rows_go_by_what_they_were() -> None:
    names = moved_layers.names(TABLE)
    for module, called in {
        "model.0.conv": "model.0.conv",
        "model.1.conv": "model.1.cv1:1.conv",
        "model.2": "model.1.cv1:2",
        "model.3.cv2.conv.weight": "model.1.m.0.cv2.conv.weight",
        "model.4": "model.1",
        "model.5.outputs": "model.1.cv2.outputs",
        "model.6.bn": "model.2.bn",
        "": "",
        "Detect": "Detect",
    }.items():
        assert names.of(module) == called
    assert names.gone == ("model.1.m.1",)


def test_keys_mean_the_parents_layers() -> None:
    names = moved_layers.names(TABLE)
    keys = names.keys(["model.1.conv", "model.2.conv", "model.3.cv1.conv", "model.5.conv", "model.6.conv"])
    assert keys["model.1"] == ["model.1.conv", "model.2.conv", "model.3.cv1.conv", "model.5.conv"]
    assert keys["model.1.cv1"] == keys["model.1.cv1.conv"] == ["model.1.conv", "model.2.conv"]
    assert keys["model.1.cv1:2"] == ["model.2.conv"]
    assert keys["model.1.m"] == keys["model.1.m.0.cv1"] == ["model.3.cv1.conv"]
    assert keys["model.2"] == ["model.6.conv"] and keys["model.1.m.1"] == []
    assert "model.6" not in keys  # a row that the parent did not have


INSIDE = ["model.1.cv1:1", "model.1.cv1:2", "model.1.m.0.cv1", "model.1.m.0.cv2", "model.1.cv2"]
PRINTED = ["model.0", *INSIDE, "model.2"]


def test_what_is_printed_are_the_parents_names(model: nn.Module) -> None:
    graph = yolo_tracing.trace_yolo(model, imgsz=64)
    assert [row["layer"] for row in layer_table.layer_rows(graph) if row["state"] == "prunable"] == PRINTED
    assert {g.name for g in graph.groups} >= {"model.1.cv1:1.conv", "model.1.m.0.cv1.conv", "model.2.conv"}


@pytest.mark.parametrize("name", PRINTED)
def test_what_is_printed_can_be_pasted(name: str, model: nn.Module) -> None:
    """The second half is added to what the bottleneck gives, and so held with it; all others alone."""
    rows = layer_table.layer_rows(yolo_tracing.trace_yolo(model, imgsz=64, keep=[name]))
    both = {"model.1.cv1:2", "model.1.m.0.cv2"}
    assert {row["layer"] for row in rows if row["state"] == f"frozen: keep={name}"} == (
        both if name in both else {name}
    )


@pytest.mark.parametrize(
    ("pattern", "held"),
    [
        ("model.2", ["model.2"]),
        ("model.1.cv1", ["model.1.cv1:1", "model.1.cv1:2", "model.1.m.0.cv2"]),
        ("*.cv2", ["model.1.cv1:2", "model.1.m.0.cv2", "model.1.cv2"]),
        ("model.1.m.1", []),
    ],
)
def test_names_and_patterns_are_those_of_the_parent(pattern: str, held: list[str], model: nn.Module) -> None:
    rows = layer_table.layer_rows(yolo_tracing.trace_yolo(model, imgsz=64, keep=[pattern]))
    assert [row["layer"] for row in rows if row["state"] == f"frozen: keep={pattern}"] == held
    assert set(yolo_tracing.layer_shares(model, [(pattern, 0.3)]).values()) <= {0.3}


def test_a_name_of_a_row_alone_is_refused_with_names_that_work(model: nn.Module) -> None:
    with pytest.raises(ArgumentError, match=r"keep=model.6: no layer of this model has that name. Similar names are "):
        yolo_tracing.kept_modules(model, ["model.6"])
    with pytest.raises(ArgumentError) as error:
        yolo_tracing.kept_modules(model, ["model.1.cv3"])
    assert "model.1.cv1" in str(error.value) and "[" not in str(error.value) and "i.e." not in str(error.value)


def test_layers_to_freeze_are_counted_as_they_are_named(model: nn.Module) -> None:
    assert host_arguments.frozen_layers(model, 2) == [0, 1, 2, 3, 4, 5]
    assert host_arguments.frozen_layers(model, ["1.cv1:2", "2"]) == ["2", "6"]
    with pytest.raises(ArgumentError, match=r"fewer than the 4 of this model, or a list of layers from 0 to 3 "):
        host_arguments.frozen_layers(model, [9])
