"""What `mask` takes: patterns in text, YAML and Python, and which keys contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from yoloprune.errors import ArgumentError
from yoloprune.settings.checking import build
from yoloprune.settings.command_line import parse
from yoloprune.settings.mask_options import PATTERN, n_of_m
from yoloprune.settings.mask_request import Growth, MaskRequest, Zeros
from yoloprune.settings.requests import FinetuneRequest
from yoloprune.settings.trial_requests import SensitivityRequest, SweepRequest


def asked(**given: Any) -> MaskRequest:
    return build(MaskRequest, {"model": "best.pt", **given})


def test_the_numbers_of_a_pattern() -> None:
    assert n_of_m("2:4") == (2, 4) and n_of_m("1:16") == (1, 16)
    assert n_of_m("filter") is None
    for wrong in ("4:2", "4:4", "0:4", "2:65", "2:", "2;4", "2:4:8", "filters"):
        with pytest.raises(ValueError, match="no pattern"):
            n_of_m(wrong)


@pytest.mark.parametrize("text", ["2:4", " 2:4 ", "'2:4'"])
def test_yaml_may_read_a_pattern_as_minutes_and_seconds(text: str) -> None:
    assert PATTERN.check(yaml.safe_load(f"pattern: {text}")["pattern"]) == "2:4"


def test_a_recipe_may_leave_out_quotes(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: best.pt\npattern: 1:4\n")
    request = parse(["mask", f"cfg={tmp_path / 'recipe.yaml'}"])
    assert isinstance(request, MaskRequest) and (request.zeros.pattern, request.zeros.sparsity) == ("1:4", 0.75)


def test_what_is_not_said_follows_from_what_is() -> None:
    assert asked().zeros == Zeros("unstructured", 0.5, "auto", head=False, keep=())
    assert asked(sparsity="0.7").zeros.sparsity == 0.7
    assert (asked(pattern="2:4").zeros.sparsity, asked(pattern="2:4", sparsity=0.5).zeros.scope) == (0.5, "auto")
    assert asked(pattern="2:3").zeros.sparsity == pytest.approx(1 / 3)
    for told in (asked(pattern="2:4"), asked(score="wanda", sparsity=0.7)):
        assert asked(**told.settings) == told  # what args.yaml says is taken again


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pattern": "2:4", "sparsity": 0.7}, "sparsity=0.7: pattern=2:4 says 0.5. Leave sparsity= away"),
        ({"pattern": "2:4", "scope": "layer"}, "scope=layer: must not be combined with pattern=2:4"),
        ({"pattern": "filter", "scope": "output"}, "scope=output: must be global or layer with pattern=filter"),
        ({"pattern": "filters"}, r"pattern=filters: must be one of .*n:m.* \(nearest: filter\). Received: filters"),
        ({"sparsity": 1}, "sparsity=1: must be a fraction"),
        ({"images": "photos", "data": "a.yaml"}, "images=photos: must not be combined with data="),
        ({"epochs": 3}, "epochs"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^\W?{said}") as refused:
        asked(**given)
    assert "\n" not in str(refused.value)


# In a training --------------------------------------------------------------------------------------------------------
def trained(**given: Any) -> FinetuneRequest:
    return build(FinetuneRequest, {"model": "best.pt", "data": "a.yaml", **given})


def test_zeros_become_more_where_a_share_or_a_pattern_is_named() -> None:
    assert trained().growth is None
    told = {"head": False, "keep": (), "score": "auto", "steps": None, "ramp_start": 0.1, "ramp_end": 0.6}
    assert trained(sparsity=0.9).growth == Growth("unstructured", 0.9, "auto", **told)
    assert trained(pattern="kernel").growth == Growth("kernel", 0.5, "auto", **told)
    assert trained(pattern="1:4", steps=3).growth == Growth("1:4", 0.75, "auto", **{**told, "steps": 3})
    for asked_for in (trained(), trained(pattern="2:4", head=True), trained(sparsity=0.7, keep="model.2", steps=2)):
        assert trained(**asked_for.settings) == asked_for


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 4}, "steps=4: must come with sparsity= or pattern="),
        ({"scope": "layer"}, "scope=layer: must come with sparsity= or pattern="),
        ({"sparsity": 0.9, "resume": True}, "sparsity=0.9: must not be combined with resume"),
        ({"sparsity": 0.9, "ramp_start": 0.6}, "ramp_start=0.6: must be below ramp_end=0.6"),
        ({"pattern": "2:4", "sparsity": 0.9}, "sparsity=0.9: pattern=2:4 says 0.5"),
        ({"sparsity": 0.9, "score": "wanda"}, "score=wanda: must be one of auto, magnitude, taylor"),
    ],
)
def test_what_cannot_grow_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^\W?{said}"):
        trained(**given)


# In place of cuts -----------------------------------------------------------------------------------------------------
KINDS: tuple[Any, ...] = (SweepRequest, SensitivityRequest)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_tried_where_a_share_or_a_pattern_is_named(kind: Any) -> None:
    def masks(**given: Any) -> Any:
        asked_for = build(kind, {"model": "a.pt", **given})
        assert build(kind, {"model": "a.pt", **asked_for.settings}) == asked_for  # what args.yaml says is taken again
        return asked_for.masks and ([str(zeros) for zeros in asked_for.masks.each], asked_for.masks.score)

    assert masks() is None
    assert masks(sparsity="0.9,0.5") == (["sparsity=0.5", "sparsity=0.9"], "auto")
    assert masks(pattern="kernel", score="wanda") == (["sparsity=0.5", "sparsity=0.7", "sparsity=0.9"], "wanda")
    assert masks(pattern="2:4", head=True, recover="lsq") == (["pattern=2:4"], "auto")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sparsity": 0.5, "reduce": "max"}, "reduce=max: must not be combined with pattern= or sparsity="),
        ({"sparsity": 0.5, "score": "fpgm"}, "score=fpgm: must be one of auto, magnitude, taylor, wanda, random for"),
        ({"pattern": "2:4", "recover": "fold"}, "recover=fold: must be one of auto, none, bn, lsq for masks"),
        ({"pattern": "2:4", "sparsity": 0.9}, "sparsity=0.9: pattern=2:4 says 0.5"),
        ({"scope": "layer"}, "scope=layer: must come with pattern= or sparsity="),
        ({"score": "wanda"}, "score=wanda: must be one of auto, bn, l1"),
        ({"head": True}, "head=True: must come with pattern= or sparsity="),
    ],
)
def test_keys_of_cuts_and_of_masks_do_not_mix(kind: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^\W?{said}"):
        build(kind, {"model": "a.pt", **given})


def test_a_sweep_takes_masks_or_a_budget(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^flops=0.5: must not be combined with pattern= or sparsity="):
        build(SweepRequest, {"model": "a.pt", "flops": 0.5, "sparsity": 0.5})
    (tmp_path / "recipe.yaml").write_text("model: a.pt\nsweep: {flops: [0.5, 0.4]}\n")
    nearer = parse(["sweep", f"cfg={tmp_path / 'recipe.yaml'}", "sparsity=0.5"])
    assert isinstance(nearer, SweepRequest) and nearer.masks is not None and nearer.flops is None
