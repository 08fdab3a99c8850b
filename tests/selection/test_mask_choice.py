"""Which weights stay: patterns and scopes worked out by hand, layers of a small YOLO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import network

from yoloprune.cutting import masks
from yoloprune.errors import ArgumentError
from yoloprune.selection import mask_choice
from yoloprune.settings.checking import build
from yoloprune.settings.mask_request import MaskRequest

SCORES = {"a": torch.tensor([[4.0, 1.0], [3.0, 2.0]]), "b": torch.tensor([[8.0, 5.0], [7.0, 6.0]])}


def chosen(pattern: str = "unstructured", sparsity: float = 0.5, scope: Any = "layer", **scores: Any) -> dict[str, Any]:
    given = {name: torch.tensor(values) for name, values in scores.items()} or SCORES
    return {name: kept.int().tolist() for name, kept in mask_choice.choose(given, pattern, sparsity, scope).items()}


def test_each_layer_by_itself() -> None:
    assert chosen(sparsity=0.25) == {"a": [[1, 0], [1, 1]], "b": [[1, 0], [1, 1]]}


def test_all_layers_together() -> None:
    assert chosen(sparsity=0.5, scope="global") == {"a": [[0, 0], [0, 0]], "b": [[1, 1], [1, 1]]}


def test_the_weights_of_each_output_by_themselves() -> None:
    assert chosen(scope="output", c=[[9.0, 8.0], [1.0, 2.0]]) == {"c": [[1, 0], [0, 1]]}


def test_the_share_is_rounded_as_torch_does() -> None:
    assert chosen(sparsity=0.3, c=[[1.0, 2.0, 3.0, 4.0, 5.0]]) == {"c": [[0, 0, 1, 1, 1]]}  # 1.5 is 2


def test_filters_go_by_the_mean_of_their_weights() -> None:
    assert chosen("filter", c=[[9.0, 1.0], [4.0, 4.0], [6.0, 5.0], [1.0, 2.0]]) == {
        "c": [[1, 1], [0, 0], [1, 1], [0, 0]]
    }


def test_kernels_go_whole() -> None:
    """Means of the four kernels: 2.5, 1, 4 and 3."""
    score = torch.tensor([[[1.0, 4.0], [1.0, 1.0]], [[8.0, 0.0], [3.0, 3.0]]])[..., None]
    found = mask_choice.choose({"c": score}, "kernel", 0.5, "layer")["c"]
    assert found.shape == score.shape
    assert found[..., 0, 0].int().tolist() == [[0, 0], [1, 1]] and torch.equal(found[:, :, 0], found[:, :, 1])


def test_two_of_four_neighbours_along_the_input_channels_for_each_output_and_tap() -> None:
    """Two outputs, eight inputs, two taps: in each group of four inputs two stay, others at the second tap."""
    one, two = [1.0, 2.0, 3.0, 4.0, 9.0, 0.0, 0.5, 8.0], [4.0, 3.0, 2.0, 1.0, 0.0, 1.0, 2.0, 3.0]
    score = torch.tensor([[one, two], [two, one]]).transpose(1, 2)[..., None]  # (outputs, inputs, taps, 1)
    kept = mask_choice.choose({"c": score}, "2:4", 0.5)["c"][..., 0].int()
    first, second = [0, 0, 1, 1, 1, 0, 0, 1], [1, 1, 0, 0, 0, 0, 1, 1]
    assert kept[0, :, 0].tolist() == kept[1, :, 1].tolist() == first
    assert kept[0, :, 1].tolist() == kept[1, :, 0].tolist() == second


@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("1:4", 1, 4), ("3:8", 3, 8)])
def test_the_rule_holds_and_no_more_than_that_goes(pattern: str, n: int, m: int) -> None:
    score = torch.rand(6, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    kept = mask_choice.choose({"c": score}, pattern, 1 - n / m)["c"]
    assert masks.is_n_of_m(kept, n, m) and int(kept.sum()) == 6 * 16 * 9 * n // m


def test_what_is_zero_goes_first_again() -> None:
    score = torch.tensor([[0.0, 0.0, 5.0, 1.0]])
    assert mask_choice.choose({"c": score}, "unstructured", 0.75)["c"].tolist() == [[False, False, True, False]]


@pytest.mark.parametrize(
    ("given", "score", "scope"),
    [
        ({}, "magnitude", "global"),
        ({"pattern": "kernel"}, "taylor", "global"),
        ({"pattern": "filter"}, "magnitude", "layer"),
        ({"scope": "output"}, "taylor", "output"),
        ({"pattern": "2:4"}, "taylor", "auto"),
    ],
)
def test_what_is_compared_where_nothing_is_said(given: dict[str, Any], score: str, scope: str) -> None:
    assert mask_choice.scope_of(build(MaskRequest, {"model": "best.pt", **given}).zeros, score) == scope


# Layers of a network --------------------------------------------------------------------------------------------------
def layers(model: Any, **given: Any) -> tuple[list[str], dict[str, str]]:
    return mask_choice.layers(model, build(MaskRequest, {"model": "best.pt", **given}).zeros)


def test_all_layers_but_the_head_and_those_that_a_pattern_does_not_fit(tmp_path: Path) -> None:
    model = network(tmp_path).model
    head = {n for n, m in model.named_modules() if n.startswith("model.7.") and masks.maskable(m)}
    body = {n for n, m in model.named_modules() if not n.startswith("model.7.") and masks.maskable(m)}
    taken, left = layers(model)
    assert set(taken) == body and set(left) == head
    assert {left[n] for n in head if ".dfl." not in n} == {"head"}
    taken, left = layers(model, pattern="2:4")
    assert left["model.0.conv"] == "3 input channels are no multiple of 4"
    depthwise = "model.6.m.0.attn.pe.conv"
    assert left[depthwise] == "1 input channels are no multiple of 4"
    assert set(taken) == body - {"model.0.conv", depthwise}


def test_the_head_when_asked_and_what_is_kept(tmp_path: Path) -> None:
    model = network(tmp_path).model
    taken, left = layers(model, head=True, keep="model.2")
    assert any(n.startswith("model.7.cv3") for n in taken) and "model.7.dfl.conv" in left
    assert {n for n in left if n.startswith("model.2.")} and set(left.values()) >= {"keep=model.2"}
    assert not [n for n in taken if n.startswith("model.2.")]
    with pytest.raises(ArgumentError, match=r"^keep=model\.9"):
        layers(model, keep="model.9")
    with pytest.raises(ArgumentError, match="no layer is left that it fits"):
        layers(model, keep="backbone")
