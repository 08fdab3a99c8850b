"""What a `slim` says at its end: whether budgets hold, and where things went in all rounds together."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import network, plan_of
from command_lines import ok

from yoloprune.backend import evaluation
from yoloprune.checkpoint import saving
from yoloprune.commands import slim_layers, slim_report, slim_rounds, slim_way
from yoloprune.cutting import surgery

PARENT = {"model": "parent", "mAP50-95": 0.6, "params": 1000, "GFLOPs": 8.0, "ms": 20.0, "ms onnx": 10.0}
TUNED = {"model": "fine-tuned", "mAP50-95": 0.59, "params": 250, "GFLOPs": 4.0, "ms": 15.0}
EXPORTED = {"model": "exported", "MB": 3.0, "ms onnx": 6.6}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("flops=0.5", ["flops=0.5: 0.500 of the parent's GFLOPs"]),
        (
            "params=0.3 latency=0.7",
            ["params=0.3: 0.250 of the parent's params", "latency=0.7: 0.660 of the parent's ms onnx"],
        ),
        ("latency=7ms", ["latency=7ms: 6.6 ms onnx"]),
        ("sparsity=0.5", []),
        ("max_drop=1 flops=0.5", []),  # which is how far it may go
    ],
)
def test_budgets_beside_what_was_measured(words: str, said: list[str]) -> None:
    request: Any = ok(f"slim model=a.pt data=b.yaml {words}")
    assert slim_report._budgets(request, [PARENT, TUNED, EXPORTED]) == said


def test_a_time_in_torch_is_the_one_that_counts_without_an_export() -> None:
    request: Any = ok("slim model=a.pt data=b.yaml latency=0.7")
    rows = [{k: v for k, v in row.items() if k != "ms onnx"} for row in (PARENT, TUNED)]
    assert slim_report._budgets(request, rows) == ["latency=0.7: 0.750 of the parent's ms"]


@pytest.mark.parametrize(
    ("words", "trained", "why"),
    [
        ("", True, "the model knows the classes of data="),
        ("", False, "the model is not trained for the classes of data="),
        ("latency=0.5", False, "the model learns the classes of data= first; sparse training has no latency"),
        ("way=prune", True, "as asked for"),
    ],
)
def test_why_it_goes_this_way(words: str, trained: bool, why: str) -> None:
    request: Any = ok(f"slim model=a.pt data=b.yaml {words}")
    assert slim_way.choose(request, trained=trained)[1] == why


def test_rounds_say_their_budgets_in_few_digits() -> None:
    assert slim_rounds._told({"latency": 0.844393, "ratio": 0.25}) == "latency=0.844, sparsity=0.25"


@pytest.mark.slow
def test_layers_of_the_model_before_beside_what_all_cuts_left(tmp_path: Path) -> None:
    """Widths and operations are those of the two networks, and times are there."""
    before = network(tmp_path)
    after = saving.with_model(before, surgery.cut(copy.deepcopy(before.model), plan_of(before.model)))
    rows = slim_layers.over_rounds(before, after, 64, torch.device("cpu"))
    layers = [*before.model.model]
    assert [row["layer"] for row in rows] == [f"model.{i} ({type(m).__name__})" for i, m in enumerate(layers)]
    assert (rows[0]["width"], rows[0]["kept"]) == (16, after.model.model[0].conv.out_channels)
    assert rows[0]["kept"] < 16 and rows[-1]["state"] == "frozen: head" and rows[-1]["width"] == 0
    for key, yolo in (("MFLOPs", before), ("MFLOPs kept", after)):
        whole = sum(row[key] for row in rows)
        assert whole == pytest.approx(1e3 * evaluation.gflops(yolo.model, 64), rel=0.1)  # which counts sums as well
    assert all(row["ms"] > 0 and row["ms kept"] > 0 for row in rows)
