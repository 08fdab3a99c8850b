"""Rows of a model YAML: what they mean once the scale is gone, and what Ultralytics builds from one alone."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from torch import nn

from yoloprune.errors import ModelError
from yoloprune.native import yaml_rows
from yoloprune.native.yaml_rows import Row

CONFIG: dict[str, Any] = {
    "nc": 3,
    "scale": "l",
    "scales": {"l": [0.5, 0.25, 128]},
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 6, "C2f", [128, True]], [-1, 1, "C2f", [512]]],
    "head": [[[1, -1], 1, "Concat", [1]], [[1, 3], 1, "Detect", ["nc"]]],
}


def row(name: str, *arguments: Any, at: int = 1, repeats: int = 1) -> Row:
    return Row(at, (at - 1,), False, repeats, name, arguments)


def test_sources_become_indices_and_repeats_follow_the_depth() -> None:
    found = yaml_rows.read(CONFIG)
    assert [r.sources for r in found] == [(-1,), (0,), (1,), (1, 2), (1, 3)]
    assert [r.repeats for r in found] == [1, 3, 1, 1, 1]  # 6 x 0.5
    assert [r.listed for r in found] == [False, False, False, True, True]


def test_a_row_that_names_no_layer_is_refused() -> None:
    broken = {**CONFIG, "backbone": [[-1, 1, "This model was pruned", [64]]]}
    with pytest.raises(
        ModelError, match="row 0 of the model YAML names no layer of Ultralytics: This model was pruned"
    ):
        yaml_rows.read(broken)


def test_reading_and_writing_says_the_same_without_scales() -> None:
    written = yaml_rows.write(CONFIG, yaml_rows.read(CONFIG), len(CONFIG["backbone"]))
    assert not {"scale", "scales"} & set(written)
    assert written["backbone"][0] == [-1, 1, "Conv", [64, 3, 2]]
    assert written["head"][0][0] == [1, 2]
    assert [r.sources for r in yaml_rows.read(written)] == [r.sources for r in yaml_rows.read(CONFIG)]
    assert yaml.safe_load(yaml_rows.text(written)) == written


def test_arguments_left_silent_are_those_of_the_constructor() -> None:
    c2f = row("C2f", 32, True)  # C2f(c1, c2, n, shortcut=False, g=1, e=0.5)
    assert [p.name for p in c2f.parameters] == ["c2", "shortcut", "g", "e"]
    assert c2f.value(3) == 0.5
    assert c2f.having(3, 0.75).arguments == (32, True, 1, 0.75)
    assert c2f.having(3, 0.5) is c2f  # says nothing new
    assert list(c2f.numbers()) == [0, 3]  # `shortcut` is no number, and a silent `g` no width
    assert [p.name for p in row("SPPF", 32, 5).parameters][:3] == ["c2", "k", "n"]  # here n is no repeat


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (row("C2f", 128, True), (32, True)),  # 128 x 0.25
        (row("Conv", 512, 3, 2), (32, 3, 2)),  # capped at 128, then x 0.25
        (row("C3k2", 256, False, 0.25), (32, True, 0.25)),  # larger scales have C3k blocks
        (row("C3k2", 256), (32, True)),
        (row("A2C2f", 256, True, 4), (32, True, 4, True, 1.2)),
        (row("Segment", "nc", 32, 256), ("nc", 32, 32)),  # prototypes
    ],
)
def test_spellings_include_what_ultralytics_makes_of_a_scale(given: Row, meant: tuple[Any, ...]) -> None:
    assert meant in [s.arguments for s in yaml_rows.spellings(given, CONFIG)]


def test_a_row_alone() -> None:
    layer = yaml_rows.build(row("C2f", 32, True, repeats=2), [16], CONFIG)
    assert layer.cv1.conv.in_channels == 16
    assert layer.cv2.conv.out_channels == 32
    assert len(layer.m) == 2
    assert all(p.is_meta for p in layer.parameters())
    assert isinstance(yaml_rows.build(row("Conv", 16, 3, repeats=2), [16], CONFIG), nn.Sequential)


def test_heads_read_several_layers() -> None:
    head = yaml_rows.build(Row(4, (1, 3), True, 1, "Detect", ("nc",)), [32, 64], CONFIG)
    assert [branch[0].conv.in_channels for branch in head.cv2] == [32, 64]
    assert head.nc == 3


def test_what_a_constructor_refuses_is_nothing() -> None:
    assert yaml_rows.build(row("C2PSA", 64), [32], CONFIG) is None  # as many outputs as inputs
    assert yaml_rows.build(row("Conv", 16), [0], CONFIG) is None  # not one tensor
