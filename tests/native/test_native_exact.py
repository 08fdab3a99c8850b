"""Native plans, block by block and family by family: the cut is exact, and stock Ultralytics builds the same."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import ultralytics
from conftest import cut_copy, cutting_alive, noise, settle
from native_models import BACKBONE, HEAD, model_of, restricted
from torch.utils._pytree import tree_leaves
from ultralytics.nn.modules import Conv

from yoloprune.backend import model_builder
from yoloprune.checkpoint import rebuild
from yoloprune.cutting import comparison
from yoloprune.errors import PlanError
from yoloprune.planning import greedy_selection
from yoloprune.planning.plan import Plan
from yoloprune.settings.budget import Budget, Limits

pytestmark = pytest.mark.slow

BLOCKS = {
    "C3": [64, True],
    "C3k2": [64, True, 0.5],
    "C3k2-attention": [256, True, 0.5, True],
    "A2C2f": [128, True, 4],
    "A2C2f-plain": [128, False, -1],
    "RepNCSPELAN4": [64, 64, 32, 1],
    "ELAN1": [64, 32, 16],
    "SCDown": [64, 3, 2],
    "ADown": [64],
    "AConv": [64],
    "C2fCIB": [64, True, True],
    "SPPELAN": [64, 32],
    "GhostConv": [64, 3, 2],
    "C3Ghost": [64, True],
    "Bottleneck": [32],
    "HGBlock": [16, 64, 3],
}


@pytest.mark.long
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_random_native_plans_are_exact_and_said(block: str, seed: int) -> None:
    name = block.partition("-")[0]
    rows = [*BACKBONE[:2], [-1, 1, name, BLOCKS[block]], [-1, 1, "Conv", [64, 3, 2]], BACKBONE[4]]
    model = model_of(rows)
    graph, stock = restricted(model)
    assert any(g.name.startswith("model.2.") or "model.2." in str(g.axes) for g in graph.groups if not g.frozen)
    alive = cutting_alive(graph, seed)
    plan = graph.plan(alive)
    small = cut_copy(model, plan)
    assert comparison.verify(model, small, plan, noise(2, 3, 64, 64)) <= 1e-4
    fresh = model_builder.rebuild(small, stock.describe(alive).yaml).eval()
    x = noise(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(tree_leaves(small.eval()(x)), tree_leaves(fresh(x)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs if isinstance(a, torch.Tensor))


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["yolov5n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n", "yolo26n-sem"]
)
def test_families(name: str) -> None:
    model = settle(ultralytics.YOLO(f"{name}.yaml").model, noise(2, 3, 64, 64)).eval()
    graph, stock = restricted(model, Limits(round_to=16, min_width=8))
    alive = greedy_selection.select(
        graph, np.random.default_rng(0).random(graph.n_classes), Budget(flops=0.7), Limits(round_to=16)
    )
    small = cut_copy(model, graph.plan(alive))
    fresh = model_builder.rebuild(small, stock.describe(alive).yaml)
    assert all(torch.equal(v, small.state_dict()[k]) for k, v in fresh.state_dict().items())


ODD: dict[str, list[list[Any]]] = {
    "copies in a row": [[-1, 2, "Conv", [32, 3, 1]], [-1, 1, "C2f", [32, True]]],
    "an input that is spelled": [[-1, 1, "RepConv", [32, 32]], [-1, 1, "C2f", [32, True]]],
    "a plain convolution": [[-1, 1, "nn.Conv2d", [32, 32, 1]], [-1, 1, "C2f", [32, True]]],
    "a row of torchvision": [[-1, 1, "torchvision.ops.SqueezeExcitation", [32, 8]], [-1, 1, "C2f", [32, True]]],
    "shortcuts that are off": [[-1, 1, "Bottleneck", [48]], [-1, 1, "SPPF", [64, 5, 3, True]]],
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_odd_rows_are_exact(odd: str, seed: int) -> None:
    model = model_of([*BACKBONE[:2], *ODD[odd], BACKBONE[3]], [[3, 4], 1, "Detect", ["nc"]])
    graph, stock = restricted(model, Limits(round_to=8, min_width=8))
    alive = cutting_alive(graph, seed)
    plan = graph.plan(alive)
    small = cut_copy(model, plan)
    fresh = model_builder.rebuild(small, stock.describe(alive).yaml).eval()
    assert comparison.verify(model, small, plan, noise(2, 3, 64, 64)) <= 1e-4
    assert comparison.verify(small, fresh, Plan({}), noise(2, 3, 64, 64)) <= 1e-4


def test_a_shortcut_that_was_off_stays_off() -> None:
    """Input 32 and output 48 cannot be added; once both are 24 wide, the constructor would add them."""
    model = model_of([*BACKBONE[:2], [-1, 1, "Bottleneck", [48]], BACKBONE[3]], [[2, 3], 1, "Detect", ["nc"]])
    graph, stock = restricted(model)
    alive = np.ones(graph.n_classes, dtype=bool)
    for name in ("model.1.conv", "model.2.cv2.conv"):
        alive[graph.classes(next(i for i, g in enumerate(graph.groups) if g.name == name))[24:]] = False
    said = stock.describe(alive).yaml
    assert said["backbone"][2][3][:2] == [24, False]
    small = cut_copy(model, graph.plan(alive))
    fresh = model_builder.rebuild(small, said)
    assert fresh.model[2].add is False
    assert comparison.verify(small, fresh.eval(), Plan({}), noise(2, 3, 64, 64)) <= 1e-4


def test_what_computes_something_else_is_refused() -> None:
    """The same tensors, the same widths, but a sum that the cut model lacks."""
    model = model_of([*BACKBONE[:2], [-1, 1, "Bottleneck", [32, False]], BACKBONE[3]], [[2, 3], 1, "Detect", ["nc"]])
    wrong = copy.deepcopy(model.yaml)
    wrong["backbone"][2][3] = [32, True]
    with pytest.raises(PlanError, match="computes something else"):
        rebuild.require_stock_build(model, wrong)


def test_other_activations() -> None:
    torch.manual_seed(0)
    config = {"nc": 80, "activation": "torch.nn.ReLU()", "backbone": copy.deepcopy(BACKBONE), "head": [list(HEAD)]}
    model = settle(ultralytics.nn.tasks.DetectionModel(config, verbose=False), noise(2, 3, 64, 64)).eval()
    graph, stock = restricted(model)
    assert isinstance(model.model[0].act, torch.nn.ReLU)
    assert isinstance(Conv.default_act, torch.nn.SiLU)  # as before, though rows were built that fail
    alive = cutting_alive(graph, 0)
    small = cut_copy(model, graph.plan(alive))
    fresh = model_builder.rebuild(small, stock.describe(alive).yaml).eval()
    assert comparison.verify(small, fresh, Plan({}), noise(2, 3, 64, 64)) <= 1e-4
