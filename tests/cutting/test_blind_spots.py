"""Ways of running that make a mistake visible: another image, noise, a loud one, training, the second frame.

The trace frees a width in each of these networks, and a cut of it is right on the example as it was given.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import conv, cut_copy, cutting_plan, noise, reasons
from torch import Tensor, nn
from torch.nn import functional

import yoloprune
from yoloprune import Budget, Limits
from yoloprune.backend import console
from yoloprune.cutting import trial_cut
from yoloprune.cutting.proof import prove
from yoloprune.cutting.width_attributes import corrected_numbers
from yoloprune.errors import ArgumentError, BudgetError, DataError, ModelError, VerifyError
from yoloprune.probing.examples import Example
from yoloprune.probing.survey import survey_around
from yoloprune.tracing.trace_network import trace

FINE = Limits(round_to=1, min_width=1)
ONE = noise(1, 3, 8, 8)


def factor(x: Tensor) -> float:
    """Of a width in a way that leaves no trace: 1 at sixteen."""
    return 16.0 / x.shape[1]


class Hidden(nn.Module):
    """Two convolutions; what lies between hangs on the width."""

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor], *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = conv(3, 16, 3, bias=bias), conv(16, 4, 1)
        self.between = between
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.between(self, self.a(x)))
        return out


def after_the_first_call(net: nn.Module, x: Tensor) -> Tensor:
    """In training alone."""
    if net.training:
        calls = net.calls
        assert isinstance(calls, Tensor)
        if calls > 0:
            x = x * factor(x)
        calls += 1
    return x


class Norm(nn.BatchNorm2d):
    """A batch-norm with a way of its own in training."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return out * factor(out) if self.training else out


BLIND: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "zeros": (lambda: Hidden(lambda _, x: x.relu() * factor(x), bias=False), torch.zeros(1, 3, 8, 8)),
    "a grey image": (
        lambda: Hidden(lambda _, x: (x - x[:, :, 3:4, 3:4])[:, :, 2:-2, 2:-2] * factor(x)),
        torch.full((1, 3, 8, 8), 0.5),
    ),
    "one image": (lambda: Hidden(lambda _, x: (x - x.mean(0, keepdim=True)) * factor(x)), ONE),
    "a limit": (lambda: Hidden(lambda _, x: x.clamp(-10 * factor(x), 10 * factor(x))), ONE),
    "the second step": (lambda: Hidden(after_the_first_call), ONE),
    "a norm in training": (lambda: nn.Sequential(conv(3, 16, 3), Norm(16), nn.ReLU(), conv(16, 4)).eval(), ONE),
}


@pytest.mark.parametrize("name", BLIND)
def test_a_cut_that_is_right_on_the_example_alone_is_found_out(name: str) -> None:
    build, example = BLIND[name]
    model = build()
    first = "0" if isinstance(model, nn.Sequential) else "a"
    probe = survey_around(model, (Example.of(example),))
    graph = trace(model, probe, sized=corrected_numbers, outputs=False)
    assert reasons(graph, f"{first}.outputs") == {None}, "else there is nothing to find"
    plan = cutting_plan(graph, 0)
    with pytest.raises(VerifyError, match="differs from its masked parent"):
        prove(model, cut_copy(model, plan), plan, probe, outputs=False)
    held = trial_cut.sound(model, graph, probe, outputs=False)
    assert reasons(held, f"{first}.outputs") == {trial_cut.WHY}


class Draws(nn.Dropout2d):
    """A dropout that draws a number for each channel: as many as there are, or as it was built for."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__(0.5)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        drawn = x.new_empty(len(x), self.channels or x.shape[1], 1, 1).bernoulli_(0.5)
        return x * drawn if self.training else x


def test_a_dropout_of_ones_own_that_fits_any_width_is_no_hindrance() -> None:
    model = nn.Sequential(conv(3, 16, 3), nn.ReLU(), Draws(), conv(16, 4)).eval()
    small = yoloprune.prune_module(model, ONE, Budget(ratio=0.5), FINE, score="random").model
    assert small[0].out_channels == 8 and small.train()(ONE).shape == (1, 4, 8, 8)


def test_one_that_knows_its_width_stays_right_in_training() -> None:
    model = nn.Sequential(conv(3, 16, 3), nn.ReLU(), Draws(16), conv(16, 8), nn.ReLU(), conv(8, 4)).eval()
    small = yoloprune.prune_module(model, ONE, Budget(ratio=0.1), FINE, score="random").model
    assert small[3].out_channels < 8 and small.train()(ONE).shape == (1, 4, 8, 8)


class Renormalizes(nn.BatchNorm2d):
    """In training it divides by a spread, of which one value has none."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        return (x - x.mean((0, 2, 3), keepdim=True)) / (x.std((0, 2, 3), keepdim=True) + 1e-3)


def test_a_norm_that_has_no_training_mode_for_one_value_is_compared_where_it_has_one() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(3, 16), Renormalizes(16), nn.ReLU(), conv(16, 4)).eval()
    small = yoloprune.prune_module(model, ONE, Budget(ratio=0.5), FINE).model
    assert small[1].out_channels == 8


CHECKED: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], Tensor]] = {
    "from 0 to 1": (lambda _, x: within(x, 0, 1), noise(1, 3, 8, 8).sigmoid()),
    "flat, from 0 to 1": (lambda _, x: within(x, 0, 1), torch.zeros(1, 3, 8, 8)),
    "a probability": (lambda _, x: torch.bernoulli(x), noise(1, 3, 8, 8).sigmoid()),
    "a root": (lambda _, x: x.sqrt(), torch.ones(1, 3, 8, 8)),
    "large ones": (lambda _, x: within(x, 0, 7e4), torch.full((1, 3, 8, 8), 6e4)),
    "whole ones": (lambda _, x: nn.functional.one_hot(whole(x), 4).float().sum(-1), torch.ones(1, 3, 8, 8)),
    "eight bits": (lambda _, x: x.float(), noise(1, 3, 8, 8).to(torch.float8_e4m3fn)),
}


def within(x: Tensor, low: float, high: float) -> Tensor:
    if not (x.amin() >= low and x.amax() <= high):
        raise AssertionError("of another range")
    return x


def whole(x: Tensor) -> Tensor:
    if not bool((x == x.round()).all()):
        raise AssertionError("no whole numbers")
    return x.long()


@pytest.mark.parametrize("name", CHECKED)
def test_a_network_that_takes_certain_numbers_alone_is_pruned(name: str) -> None:
    """What is tried beside the example is left out where the network does not take it."""
    first, example = CHECKED[name]

    class Checks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 16), conv(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(first(self, x)).relu())
            return out

    small = yoloprune.prune_module(Checks().eval(), example, Budget(ratio=0.5), FINE).model
    assert small.a.out_channels == 8


class Grey(nn.Module):
    """Takes images of one number alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 16), conv(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        if bool((x != x.flatten()[0]).any()):
            raise AssertionError("not grey")
        out: Tensor = self.b(self.a(x).relu())
        return out


def test_a_flat_example_that_nothing_stands_in_for_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    flat = torch.full((2, 3, 8, 8), 0.5)
    for model, told in ((Grey(), 1), (Hidden(lambda _, x: x), 0)):
        said.clear()
        yoloprune.prune_module(model.eval(), flat, Budget(ratio=0.5), FINE)
        assert sum("the example is one number everywhere" in text for text in said) == told


def test_one_row_is_enough() -> None:
    """The network brought to life had zeros there, to which rounding was compared."""
    for seed in range(6):
        torch.manual_seed(seed)
        model = nn.Sequential(Named(6, 8), Named(8, 4)).eval()
        small = yoloprune.prune_module(model, noise(1, 6, seed=seed), Budget(ratio=0.5), FINE).model
        assert small[0].out_features == 4


class Named(nn.Linear):
    """Of no known package, so that a cut is tried first."""


class Residual(nn.Module):
    """relu(x + f(x)), or another activation behind the sum."""

    def __init__(self, behind: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.behind = nn.Sequential(conv(16, 16, 3), nn.ReLU(), conv(16, 16, 3)), behind

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(x + self.inner(x))


@pytest.mark.parametrize(
    ("behind", "first", "example"),
    [
        (functional.relu6, nn.Sequential(conv(3, 16, 3), nn.ReLU()), ONE),
        (functional.hardtanh, conv(3, 16, 3), 0.01 * ONE),
        (functional.relu, conv(3, 16, 3, bias=False), torch.zeros(1, 3, 8, 8)),
    ],
    ids=["relu6 of small numbers", "hardtanh of smaller ones", "relu of zeros"],
)
def test_a_block_that_hands_on_some_inputs_alone_stays(
    behind: Callable[[Tensor], Tensor], first: nn.Module, example: Tensor
) -> None:
    model = nn.Sequential(first, Residual(behind), conv(16, 4)).eval()
    for depth, said in (("only", "out of reach"), (True, None)):
        limits = Limits(round_to=1, min_width=16, depth=depth)
        with pytest.raises(BudgetError, match=said):
            yoloprune.prune_module(model, example, Budget(params=0.5), limits)


def test_a_block_behind_a_relu_that_ends_in_one_goes() -> None:
    model = nn.Sequential(conv(3, 16, 3), nn.ReLU(), Residual(functional.relu), conv(16, 4)).eval()
    small = yoloprune.prune_module(model, ONE, Budget(params=0.5), Limits(round_to=1, depth="only")).model
    loud = 50 * noise(2, 3, 8, 8, seed=1)
    assert isinstance(small[2], nn.Identity)
    torch.testing.assert_close(small(loud), model[3](model[1](model[0](loud))))


# Networks that cannot be taken ----------------------------------------------------------------------------------------
class Shared(nn.Conv2d):
    """Its copy is itself, as of a backbone that several networks share."""

    def __deepcopy__(self, memo: Any) -> Shared:
        return self


class Single(nn.Module):
    """One object for all networks, which holds nothing."""

    def __deepcopy__(self, memo: Any) -> Single:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_what_holds_nothing_may_be_shared() -> None:
    model = nn.Sequential(conv(3, 16), Single(), conv(16, 4)).eval()
    small = yoloprune.prune_module(model, ONE, Budget(ratio=0.5), FINE).model
    assert small[0].out_channels == 8


def test_a_layer_that_is_its_own_copy_is_not_cut() -> None:
    model = nn.Sequential(conv(3, 16, 3), nn.ReLU(), Shared(16, 8, 1), nn.ReLU(), conv(8, 4)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"a copy of the network shares '2' with it: Shared makes no copy of itself"):
        yoloprune.prune_module(model, ONE, Budget(ratio=0.4), FINE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def plain(**more: Any) -> nn.Module:
    model = nn.Sequential(conv(3, 16, 3), nn.ReLU(), conv(16, 4)).eval()
    vars(model).update(more)
    return model


class Mixes(nn.Module):
    """Multiplies by a sparse matrix, which is not cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 16, 3), conv(16, 4)
        self.register_buffer("graph", torch.eye(4).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.graph, self.b(self.a(x).relu()).mean((2, 3)).T)


def test_a_sparse_buffer_is_no_hindrance() -> None:
    small = yoloprune.prune_module(Mixes().eval(), ONE, Budget(ratio=0.5), FINE).model
    assert small.a.out_channels == 8


def test_what_cannot_be_taken_is_named_before_work() -> None:
    budget = Budget(ratio=0.5)
    with pytest.raises(ModelError, match=r"the network cannot be copied: cannot pickle '_thread\.lock'"):
        yoloprune.prune_module(plain(lock=threading.Lock()), ONE, budget, FINE)
    with pytest.raises(ArgumentError, match="lazy layers that were never run"):
        yoloprune.prune_module(nn.Sequential(nn.LazyConv2d(16, 3), conv(16, 4)), ONE, budget, FINE)
    with pytest.raises(ArgumentError, match="is on the device meta"):
        yoloprune.prune_module(copy.deepcopy(plain()).to("meta"), ONE, budget, FINE)
    for batch, said in ((noise(1, 5, 8, 8), r"of shape \(1, 5, 8, 8\)"), (None, r"None \(NoneType\)")):
        with pytest.raises(DataError, match=rf"batches: the network does not run on the first, {said}: "):
            yoloprune.prune_module(plain(), ONE, budget, FINE, batches=[batch])
    with pytest.raises(BudgetError, match="Held by: nothing, there is no layer of weights"):
        yoloprune.prune_module(nn.Sequential(nn.ReLU()), ONE, budget, FINE)
