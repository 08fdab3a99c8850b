"""Plans name the numbers that modules keep, and what is made of them."""

from __future__ import annotations

import pytest
import torch
from conftest import classes, conv, cut_copy, reasons, without
from kept_widths import between, narrowed
from networks import FREE, IMAGE, exact, net
from torch import Tensor, nn

import yoloprune
from yoloprune.errors import PlanError
from yoloprune.planning.plan import Keep, Plan
from yoloprune.tracing.trace_network import trace


def test_a_plan_gives_a_fresh_network_its_numbers() -> None:
    def fresh() -> nn.Module:
        return between(lambda m, x: torch.cat(x.split([m.dim, *m.dims], 1), 1), dim=4, dims=[2, 2])

    graph = trace(fresh(), IMAGE)
    plan = graph.plan(without(graph, "a.outputs", [0, 1, 4]))
    assert plan.keep["keeps.dim"] == Keep(outputs=(2, 3), of=(4, None))
    assert plan.keep["keeps.dims.0"] == Keep(outputs=(1,), of=(2, None))
    small = yoloprune.rebuild(fresh(), Plan.from_dict(plan.to_dict()))
    assert (small.keeps.dim, small.keeps.dims) == (2, [1, 2])
    same = cut_copy(fresh(), Plan.from_widths(plan.widths()))
    assert (same.keeps.dim, same.keeps.dims) == (2, [1, 2])  # a number may have become 1
    again = trace(small, IMAGE)
    assert classes(again, "keeps.dim.number") == classes(again, "a.outputs")[:2]


def test_a_plan_of_another_number_is_refused() -> None:
    model = between(lambda m, x: x.view(len(x), m.dim, 6, 6), dim=8)
    graph = trace(model, IMAGE)
    plan = graph.plan(without(graph, "a.outputs", [0]))
    model.keeps.dim = 9
    with pytest.raises(PlanError, match=r"keeps\.dim has 9 outputs"):
        cut_copy(model, plan)
    del model.keeps.dim
    with pytest.raises(PlanError, match=r"there is no convolution, linear or batch-norm 'keeps\.dim'"):
        cut_copy(model, plan)


def test_a_convolution_of_its_own_class_keeps_its_numbers() -> None:
    """What a layer itself keeps is cut with its weight, also where it is of a user's class."""

    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1] == self.in_channels
            return super().forward(x)

    torch.manual_seed(0)
    model = net(lambda m, x: m.b(m.a(x)), a=conv(3, 8), b=Own(8, 2, 1))
    assert reasons(exact(model), "a.outputs") == FREE
    assert narrowed(model, [3]).b.in_channels == 7
