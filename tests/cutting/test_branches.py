"""Branches that go as a whole: found, cut, proved, and refused where something else was taken out."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
import ultralytics
from conftest import conv, cut_copy, noise, numbers, random_alive, settle, without
from residuals import IMAGE, Around, Rectified, Residual, stream
from torch import nn

import yoloprune
from yoloprune.backend import model_facts, yolo_tracing
from yoloprune.cutting import comparison, proof, surgery
from yoloprune.cutting.masked_parent import masked
from yoloprune.errors import ArgumentError, BudgetError, PlanError, VerifyError
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.planning.plan import REMOVED, Keep, Plan
from yoloprune.probing.examples import Probe
from yoloprune.settings.budget import Budget, Limits
from yoloprune.tracing.residual_branches import with_branches
from yoloprune.tracing.trace_network import trace


def traced(model: nn.Module, image: torch.Tensor = IMAGE) -> ChannelGraph:
    return with_branches(model, trace(model, image), Probe.of(image))


def without_branches(graph: ChannelGraph, *names: str) -> np.ndarray:
    groups = [g for branch in graph.branches if branch.name in names for g in branch.groups]
    return ~np.isin(graph.group_of, groups)


def random_branches(graph: ChannelGraph, seed: int) -> np.ndarray:
    """Random widths, and every other branch gone, at least one."""
    rng, alive = np.random.default_rng(seed), random_alive(graph, seed)
    gone = rng.random(len(graph.branches)) < 0.5
    gone[rng.integers(len(gone))] = True
    return alive & without_branches(graph, *(b.name for b, g in zip(graph.branches, gone, strict=True) if g))


def test_the_channels_inside_a_branch_are_its_own() -> None:
    graph = traced(stream(one=Residual(8, 4), two=Around(8, 6)))
    names = {branch.name: [graph.groups[g].size for g in branch.groups] for branch in graph.branches}
    assert names == {"blocks.one": [4], "blocks.two": [6, 4], "blocks.two.inner": [4]}


def test_a_branch_without_channels_of_its_own_is_no_item() -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.relu(self.a(x))

    assert traced(stream(one=Adds())).branches == ()


@pytest.mark.parametrize("held", ["blocks.one", "blocks.one.a", "blocks"])
def test_what_is_held_stays(held: str) -> None:
    model = stream(one=Residual(8, 4), two=Residual(8, 4, shortcut=False))
    probe = Probe.of(IMAGE)
    graph = trace(model, probe)
    assert with_branches(model, graph, probe, ["head"]).branches
    assert with_branches(model, graph, probe, [held]).branches == ()


def test_a_cut_leaves_a_module_that_hands_on() -> None:
    model = stream(one=Residual(8, 4), two=Residual(8, 4))
    graph = traced(model)
    plan = graph.plan(without_branches(graph, "blocks.one"))
    assert plan.keep == {"blocks.one": REMOVED}
    small = cut_copy(model, plan)
    assert type(small.blocks.one) is nn.Identity and isinstance(model.blocks.one, Residual)
    assert comparison.verify(model, small, plan, IMAGE) == 0.0
    assert numbers(small) == Cost(graph).of("params", graph.widths(without_branches(graph, "blocks.one")).astype(float))


def test_widths_of_the_stream_and_other_branches_shrink_beside_it() -> None:
    model = stream(one=Residual(8, 4), two=Around(8, 6))
    graph = traced(model)
    alive = without(graph, "stem.outputs", [1, 5]) & without(graph, "blocks.two.b.outputs", [0])
    alive &= without_branches(graph, "blocks.one", "blocks.two.inner")
    plan = graph.plan(alive)
    assert plan.removed == ["blocks.one", "blocks.two.inner"]
    assert plan.keep["blocks.two.c"] == Keep((0, 2, 3, 4, 6, 7), (1, 2, 3, 4, 5), (8, 6))
    proof.prove(model, cut_copy(model, plan), plan, IMAGE)
    outer = graph.plan(alive & without_branches(graph, "blocks.two"))
    assert outer.removed == ["blocks.one", "blocks.two"]
    proof.prove(model, cut_copy(model, outer), outer, IMAGE)


def test_the_masked_parent_has_zeros_in_it_and_gets_its_weights_back() -> None:
    model = stream(one=Residual(8, 4))
    x, before = noise(1, 8, 6, 6), copy.deepcopy(model.state_dict())
    with masked(model, Plan({"blocks.one": REMOVED})):
        assert torch.equal(model.blocks.one(x), x)
    assert not torch.equal(model.blocks.one(x), x)
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


# What is refused ------------------------------------------------------------------------------------------------------
def swapped(model: nn.Module, name: str) -> nn.Module:
    """A copy in which the wrong module hands on."""
    return surgery.cut(copy.deepcopy(model), Plan({name: REMOVED}))


def test_another_branch_taken_out_is_refused() -> None:
    model = stream(one=Residual(8, 4), two=Residual(8, 4))
    plan = Plan({"blocks.one": REMOVED})
    with pytest.raises(VerifyError):
        proof.prove(model, swapped(model, "blocks.two"), plan, IMAGE)
    with pytest.raises(VerifyError):
        proof.prove(model, copy.deepcopy(model), plan, IMAGE)


def test_a_module_taken_out_that_is_no_branch_is_refused() -> None:
    model = stream(one=Residual(8, 4, shortcut=False), two=Residual(8, 4))
    plan = Plan({"blocks.one": REMOVED})
    with pytest.raises(VerifyError):
        proof.prove(model, swapped(model, "blocks.one"), plan, IMAGE)


def test_one_that_is_a_branch_on_the_example_alone_is_refused() -> None:
    """Weights of the stem make all that reaches it positive; where every layer is brought to life that is not so."""
    model = stream(one=Rectified(8, 4))
    nn.init.constant_(model.stem.weight, 1e-3)
    nn.init.constant_(model.stem.bias, 1.0)
    graph = traced(model)
    plan = graph.plan(without_branches(graph, "blocks.one"))
    small = cut_copy(model, plan)
    assert comparison.verify(model, small, plan, IMAGE) == 0.0
    with pytest.raises(VerifyError):
        proof.prove(model, small, plan, IMAGE)


def test_plans_that_do_not_fit_change_nothing() -> None:
    model = stream(one=Residual(8, 4))
    before = {name: p.shape for name, p in model.named_parameters()}
    for keep in (
        {"blocks.three": REMOVED},
        {"": REMOVED},
        {"blocks.one": REMOVED, "blocks.one.a": Keep((0,), of=(4, None))},
        {"blocks.one": REMOVED, "stem": Keep((9,), of=(8, None))},
    ):
        with pytest.raises(PlanError):
            surgery.cut(model, Plan(keep))
        assert {name: p.shape for name, p in model.named_parameters()} == before


# Networks of others ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("yolov8n", 6), ("yolo11n", 12), ("yolov5n", 7)])
@pytest.mark.parametrize("seed", range(3))
def test_random_branches_of_detectors(name: str, count: int, seed: int) -> None:
    model = ultralytics.YOLO(f"{name}.yaml").model
    settle(model, noise(1, 3, 64, 64)).eval()
    probe = yolo_tracing.probe(model, 64)
    graph = yolo_tracing.with_branches(model, yolo_tracing.trace_yolo(model, imgsz=64, probe=probe), (), probe)
    assert len(graph.branches) == count
    assert not any(branch.name.startswith(model_facts.head_name(model)) for branch in graph.branches)
    alive = random_branches(graph, seed)
    plan = graph.plan(alive)
    small = cut_copy(model, plan)
    proof.prove(model, small, plan, probe)
    cost, widths = Cost(graph), graph.widths(alive).astype(float)
    assert numbers(small) == cost.of("params", widths)
    from ultralytics.utils.torch_utils import get_flops

    assert get_flops(small, 64) == pytest.approx(cost.of("flops", widths) / 1e9, abs=1e-9)


@pytest.mark.slow
def test_resnet_loses_blocks() -> None:
    torch.manual_seed(0)
    model = settle(torchvision.models.resnet18(num_classes=10), noise(1, 3, 64, 64)).eval()
    graph = traced(model, noise(1, 3, 64, 64))
    names = [branch.name for branch in graph.branches]
    assert names == ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]  # without a change of width
    for seed in range(3):
        plan = graph.plan(random_branches(graph, seed))
        proof.prove(model, cut_copy(model, plan), plan, noise(2, 3, 64, 64))


@pytest.mark.slow
def test_prune_module_takes_blocks() -> None:
    torch.manual_seed(0)
    model = settle(torchvision.models.resnet18(num_classes=10), noise(1, 3, 64, 64)).eval()
    images, targets = noise(4, 3, 64, 64, seed=1), torch.tensor([0, 1, 2, 3])
    limits = Limits(depth="only")
    told = {"score": "taylor", "normalize": "cost", "batches": [(images, targets)], "loss": nn.functional.cross_entropy}
    done = yoloprune.prune_module(model, images, Budget(flops=0.8), limits, **told)
    assert done.plan.removed == list(done.plan.keep) and done.plan.removed
    assert done.after["flops"] <= 0.8 * done.before["flops"]
    assert done.moved["repaired"] < done.moved["cut"]
    fresh = yoloprune.rebuild(torchvision.models.resnet18(num_classes=10), done.plan)
    fresh.load_state_dict(done.model.state_dict())
    with pytest.raises(BudgetError, match="depth=only"):
        yoloprune.prune_module(model, images, Budget(flops=0.1), limits)
    with pytest.raises(ArgumentError, match="depth"):
        replace(limits, depth="all")
