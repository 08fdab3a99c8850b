"""A trial cut of what others wrote: numbers that Python takes out of the trace's sight hold their width alone."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import classes, conv, cut_copy, noise, reasons, settle
from torch import Tensor, nn
from ultralytics.nn.modules.block import C2PSA, Attention

import yoloprune
from yoloprune import Budget, Limits
from yoloprune.cutting import trial_cut
from yoloprune.cutting.proof import prove
from yoloprune.cutting.width_attributes import corrected_numbers
from yoloprune.errors import UndecidedError
from yoloprune.probing.examples import Probe
from yoloprune.probing.own_code import has_own_code
from yoloprune.tracing.trace_network import trace

IMAGE = noise(2, 3, 8, 8)
FINE = Limits(round_to=1, min_width=1)
FREE = {None}
HELD = {trial_cut.WHY}


class Leaks(nn.Module):
    """Three convolutions in a row; what the first gives is multiplied by a function of its width."""

    def __init__(self, number: Callable[[Any], float]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.out = conv(3, 16, 3), conv(16, 16, 3), conv(16, 8, 3), conv(8, 2)
        self.number = number
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(self.c(self.b(x * self.number(x.shape[1])).relu()).relu())


LEAKS: dict[str, Callable[[Any], float]] = {
    "1 / c": lambda c: 1.0 / c,
    "c / 2": lambda c: 0.5 * c,
    "12 < c": lambda c: 1.0 if float.__lt__(12.0, c) else 2.0,
    "power": lambda c: 0.9**c,
    "log": math.log,
    "gcd": lambda c: math.gcd(c, 12),
    "range": lambda c: float(len(range(c))),
    "format": lambda c: float("%d" % c),  # noqa: UP031
    "list": lambda c: [*range(99)][c],
    "mean": lambda c: statistics.mean([c, c]),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_number_that_the_trace_does_not_see_holds_its_width(name: str) -> None:
    model = Leaks(LEAKS[name])
    traced = trace(model, IMAGE)
    assert reasons(traced, "a.outputs") == FREE, "else there is nothing to find"
    graph = trial_cut.sound(model, traced, Probe.of(IMAGE))
    assert reasons(graph, "a.outputs") == reasons(graph, "b.inputs") == HELD
    assert reasons(graph, "b.outputs") == reasons(graph, "c.outputs") == FREE


def test_such_a_network_is_pruned() -> None:
    small = yoloprune.prune_module(Leaks(LEAKS["1 / c"]), IMAGE, Budget(flops=0.6), FINE).model
    assert small.a.out_channels == 16 and small.b.out_channels < 16


def test_what_is_right_is_left_as_it_was() -> None:
    model = Leaks(lambda c: 3.0)
    graph = trace(model, IMAGE)
    assert trial_cut.sound(model, graph, Probe.of(IMAGE)) is graph


class Both(nn.Module):
    """Two branches; what comes out is doubled as soon as both are narrower than 12, which neither causes alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.left, self.right = conv(3, 16), conv(3, 16), conv(16, 2), conv(16, 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        factor = 1.0 if any(float.__lt__(12.0, n.shape[1]) for n in (a, b)) else 2.0
        return (self.left(a) + self.right(b)) * factor


def test_of_widths_that_are_wrong_together_one_is_held() -> None:
    model = Both()
    graph = trial_cut.sound(model, trace(model, IMAGE), Probe.of(IMAGE))
    assert reasons(graph, "a.outputs") == FREE
    assert reasons(graph, "b.outputs") == HELD


TICKS = itertools.count()


class Clock(nn.Module):
    """Gives something else every time, whatever is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) + float(next(TICKS))


def test_what_cannot_be_compared_at_all_is_left_to_the_proof() -> None:
    model = Clock()
    graph = trace(model, IMAGE)
    assert reasons(graph, "a.outputs") == FREE
    assert trial_cut.sound(model, graph, Probe.of(IMAGE)) is graph


def test_a_network_of_known_blocks_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(trial_cut, "lively_copy", lambda *given: tried.append(given))
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 2)).eval()
    graph = trace(model, IMAGE)
    assert trial_cut.sound(model, graph, Probe.of(IMAGE)) is graph and not tried
    model.append(Own())
    assert trial_cut.sound(model, graph, Probe.of(IMAGE)) is graph and tried


class Own(nn.Identity):
    """Of no known package."""


def test_a_forward_that_was_replaced_is_own_code() -> None:
    model = nn.Sequential(conv(3, 8))
    assert not has_own_code(model)
    model[0].forward = functools.partial(nn.Conv2d.forward, model[0])  # type: ignore[method-assign]
    assert has_own_code(model)


# What a trial has to bear ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("normed", [False, True])
def test_other_precisions(dtype: torch.dtype, normed: bool) -> None:
    model = Leaks(lambda c: 1.0).to(dtype)
    if normed:
        model.b = nn.Sequential(model.b, nn.BatchNorm2d(16).to(dtype)).eval()  # type: ignore[assignment]
    small = yoloprune.prune_module(model, IMAGE.to(dtype), Budget(flops=0.6), FINE).model
    assert small.a.out_channels < 16


def test_a_scripted_layer_is_not_listened_to() -> None:
    model = Leaks(lambda c: 1.0)
    model.c = nn.Sequential(model.c, torch.jit.script(nn.ReLU()))  # type: ignore[assignment]
    small = yoloprune.prune_module(model, IMAGE, Budget(flops=0.6), FINE).model
    assert small.a.out_channels < 16


class Checks(nn.Module):
    """Takes no values but those that it knows."""

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().max() > 0.1:
            raise ValueError("what is this?")
        return x


def test_a_network_that_does_not_run_once_it_is_brought_to_life_is_left_to_the_proof() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), Checks(), conv(8, 2)).eval()
    nn.init.constant_(model[1].weight, 1e-3)
    graph = trace(model, IMAGE)
    assert trial_cut.sound(model, graph, Probe.of(IMAGE)) is graph


def test_what_float64_cannot_decide_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def undecided(*given: object, **how: object) -> None:
        raise UndecidedError("rounding or a fault")

    model = Leaks(lambda c: 1.0)
    graph = trace(model, IMAGE)
    monkeypatch.setattr(trial_cut, "compare", undecided)
    assert trial_cut.sound(model, graph, Probe.of(IMAGE)) is graph


# Subclasses of Ultralytics' blocks ------------------------------------------------------------------------------------
class TwiceScaled(Attention):
    """Scales queries and keys, where a cut makes up for one scale."""

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(x).view(B, self.num_heads, self.key_dim * 2 + self.head_dim, H * W)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.head_dim], dim=2)
        attention = ((q * self.scale).transpose(-2, -1) @ (k * self.scale)).softmax(-1)
        x = (v @ attention.transpose(-2, -1)).view(B, C, H, W) + self.pe(v.reshape(B, C, H, W))
        return self.proj(x)


def attentive(attention: type[Attention]) -> nn.Sequential:
    """A block with attention between convolutions, behind which six more average away what it does."""
    torch.manual_seed(0)
    block = C2PSA(32, 32)
    for one in block.m:
        one.attn = attention(block.c, attn_ratio=0.5, num_heads=1)
    behind = [layer for _ in range(6) for layer in (conv(32, 32, 3), nn.BatchNorm2d(32), nn.SiLU())]
    return settle(nn.Sequential(conv(3, 32), block, *behind, conv(32, 2)).eval(), noise(2, 3, 16, 16))


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "found"), [(Attention, FREE), (TwiceScaled, HELD)])
def test_a_subclass_that_computes_otherwise_is_held_where_it_does(
    attention: type[Attention], found: set[str | None]
) -> None:
    model, example = attentive(attention), noise(2, 3, 16, 16)
    traced = trace(model, example, sized=corrected_numbers)
    queries = classes(traced, "1.m.0.attn.qkv.conv.outputs")[:8]
    graph = trial_cut.sound(model, traced, Probe.of(example))
    assert {graph.groups[graph.group_of[c]].frozen for c in queries} == found
    assert reasons(graph, "1.m.0.ffn.0.conv.outputs") == FREE
    alive = torch.ones(graph.n_classes, dtype=torch.bool).numpy()
    alive[classes(graph, "1.m.0.ffn.0.conv.outputs")[::2]] = False
    plan = graph.plan(alive)
    prove(model, cut_copy(model, plan), plan, example)
