"""What layers give is compared as well: a wrong cut that next to nothing of is left in the outputs is refused."""

from __future__ import annotations

import pytest
import torch
from conftest import classes, conv, cut_copy, noise, settle, without
from torch import Tensor, nn
from ultralytics.nn.modules.block import Attention

from yoloprune.cutting import width_attributes
from yoloprune.cutting.comparison import TOLERANCE, verify
from yoloprune.cutting.proof import prove
from yoloprune.errors import VerifyError
from yoloprune.planning.plan import REMOVED, Plan
from yoloprune.tracing.trace_network import trace

IMAGE = noise(2, 3, 8, 8)


class Drowned(nn.Module):
    """What two convolutions give, divided by their width where `wrong`, is a millionth of what comes out."""

    def __init__(self, *, wrong: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.small, self.large = conv(3, 16), conv(16, 8), conv(8, 2), conv(3, 2)
        self.wrong = wrong
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = self.b(y * (1.0 / y.shape[1] if self.wrong else 1 / 16))
        return self.small(y.relu()) * 1e-6 + self.large(x)


def test_a_wrong_cut_that_drowns_on_its_way_is_refused_where_it_begins() -> None:
    model = Drowned(wrong=True)
    graph = trace(model, IMAGE)
    plan = graph.plan(without(graph, "a.outputs", range(8)))
    child = cut_copy(model, plan)
    assert verify(model, child, plan, IMAGE) <= TOLERANCE, "the outputs say nothing of it"
    with pytest.raises(VerifyError, match="differs from its masked parent behind layer b in evaluation mode"):
        prove(model, child, plan, IMAGE)


def test_the_right_one_passes() -> None:
    model = Drowned(wrong=False)
    graph = trace(model, IMAGE)
    plan = graph.plan(without(graph, "a.outputs", range(8)))
    assert prove(model, cut_copy(model, plan), plan, IMAGE).error <= TOLERANCE


class Twice(nn.Module):
    """One layer that runs twice, on other sizes, and a block that gives more than one tensor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.again, self.out = conv(3, 8), conv(8, 8), conv(8, 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        y = self.again(self.a(x).relu())
        return self.out(self.again(y[..., ::2].relu()).relu())


def test_a_layer_that_runs_twice_is_compared_twice() -> None:
    model = Twice()
    graph = trace(model, IMAGE)
    plan = graph.plan(without(graph, "a.outputs", [1, 4]))
    assert "again" in plan.keep
    assert prove(model, cut_copy(model, plan), plan, IMAGE).error <= TOLERANCE


class Residual(nn.Module):
    """What it gets and what two layers make of it."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(8, 6), act, conv(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def test_a_layer_that_runs_less_often_is_left_out() -> None:
    """The first of two branches goes as a whole, and with it the second of four runs of the activation."""
    torch.manual_seed(0)
    act = nn.ReLU()
    model = nn.Sequential(conv(3, 8), act, Residual(act), Residual(act), act, conv(8, 2)).eval()
    plan = Plan({"2": REMOVED})
    assert prove(model, cut_copy(model, plan), plan, IMAGE).error <= TOLERANCE


def test_queries_that_are_scaled_to_make_up_for_their_width_are_no_fault() -> None:
    torch.manual_seed(0)
    example = noise(2, 32, 8, 8)
    model = settle(nn.Sequential(Attention(32, num_heads=1), conv(32, 2)).eval(), example)
    graph = trace(model, example, sized=width_attributes.corrected_numbers)
    queries = [i for i in range(16) if i % 4 == 0]
    plan = graph.plan(without(graph, "0.qkv.conv.outputs", queries))
    small = cut_copy(model, plan)
    assert small[0].key_dim == 12 and len(classes(graph, "0.qkv.conv.outputs")) == 64
    kept = [i for i in range(64) if i in plan.keep["0.qkv.bn"].outputs]
    assert not torch.equal(small[0].qkv.bn.weight, model[0].qkv.bn.weight[kept])
    assert prove(model, small, plan, example).error <= TOLERANCE
