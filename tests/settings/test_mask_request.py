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
from yoloprune.settings.mask_request import MaskRequest


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
    assert isinstance(request, MaskRequest) and (request.pattern, request.sparsity) == ("1:4", 0.75)


def test_what_is_not_said_follows_from_what_is() -> None:
    assert (asked().pattern, asked().sparsity, asked().scope) == ("unstructured", 0.5, "auto")
    assert asked(sparsity="0.7").sparsity == 0.7
    assert (asked(pattern="2:4").sparsity, asked(pattern="2:4", sparsity=0.5).scope) == (0.5, "auto")
    assert asked(pattern="2:3").sparsity == pytest.approx(1 / 3)
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
