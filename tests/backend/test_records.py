"""Damaged records in a `model.yaml` are found where the model is opened."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ultralytics
from checkpoints import untrained
from sparse_loop import TINY

import yoloprune
from yoloprune.backend import records
from yoloprune.backend.yaml_markers import KEY, STATE_KEY
from yoloprune.checkpoint import saving
from yoloprune.errors import ModelError

GOLDEN = Path(__file__).parents[1] / "golden"
Damage = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> ultralytics.YOLO:
    folder = tmp_path_factory.mktemp("pruned")
    told: dict[str, Any] = {"flops": 0.9, "data": False, "imgsz": 32, "project": str(folder), "native": False}
    return yoloprune.prune(untrained(folder, TINY, 32), round_to=1, min_width=1, **told)


def damaged(yolo: ultralytics.YOLO, key: str, change: Damage) -> str:
    """What is said of a live model with another record."""
    before = yolo.model.yaml
    try:
        yolo.model.yaml = {**before, key: change(copy.deepcopy(before[key]))}
        with pytest.raises(ModelError) as caught:
            saving.load(yolo)
    finally:
        yolo.model.yaml = before
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        *(lambda _: "text", lambda _: {}, lambda _: [1], lambda _: None, lambda _: 3),
        *(lambda r, k=k: {n: v for n, v in r.items() if n != k} for k in ("version", "widths", "provenance", "yaml")),
        *(lambda r, k=k: {**r, k: "text"} for k in ("version", "widths", "numbers", "provenance", "yaml", "layers")),
        *(lambda r, v=v: {**r, "widths": v} for v in ([1], {"model.0.conv": 3}, {"model.0.conv": {"bogus": 1}})),
        *(lambda r, v=v: {**r, "provenance": {**r["provenance"], "parent": v}} for v in ("name", {}, {"name": 1})),
        lambda r: {**r, "provenance": {**r["provenance"], "earlier": ["text"]}},
        lambda r: {**r, "provenance": {**r["provenance"], "arguments": [1]}},
        lambda r: {**r, "numbers": {"model.2": 5}},
    ],
)
def test_a_damaged_record_of_a_pruning(pruned: ultralytics.YOLO, change: Damage) -> None:
    said = damaged(pruned, KEY, change)
    assert "'yoloprune' is damaged" in said and "\n" not in said


@pytest.mark.parametrize(
    "change",
    [
        *(lambda _: "text", lambda _: {}, lambda _: [1], lambda _: None),
        *(
            lambda s, k=k: {n: v for n, v in s.items() if n != k}
            for k in ("config", "met", "reached", "victims", "module")
        ),
        *(lambda s, k=k: {**s, k: "text"} for k in ("config", "met", "reached", "victims", "steps")),
        lambda s: {**s, "config": {**s["config"], "budget": 0.5}},
        lambda s: {**s, "config": {**s["config"], "fade": "slow"}},
        lambda s: {**s, "config": {**s["config"], "unheard": 1}},
        lambda s: {**s, "reached": {"flops": "half"}},
    ],
)
def test_a_damaged_state_of_a_sparse_run(change: Damage) -> None:
    yolo = ultralytics.YOLO(GOLDEN / "interrupted.pt")
    said = damaged(yolo, STATE_KEY, change)
    assert "'yoloprune_sparse' is damaged" in said and "\n" not in said


def test_what_was_written_before_is_sound() -> None:
    for file in GOLDEN.glob("*.pt"):
        records.require_sound(ultralytics.YOLO(file).model, file.name)


def test_the_file_is_named(pruned: ultralytics.YOLO, tmp_path: Path) -> None:
    before = pruned.model.yaml
    pruned.model.yaml = {**before, KEY: "text"}
    pruned.save(tmp_path / "damaged.pt")
    pruned.model.yaml = before
    for prunable in (True, False):
        with pytest.raises(ModelError, match=r"damaged\.pt"):
            saving.load(tmp_path / "damaged.pt", prunable=prunable)
