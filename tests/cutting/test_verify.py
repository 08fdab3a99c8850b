"""The proof by running: right cuts pass, wrong ones fail however small the fault, and the parent is left as it was."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from conftest import assert_exact, conv, cut_copy, cutting_alive, cutting_plan, filled, noise, settle, without
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.cutting import comparison
from yoloprune.cutting.comparison import TOLERANCE, verify
from yoloprune.cutting.masked_parent import masked
from yoloprune.errors import VerifyError
from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.plan import Keep, Plan
from yoloprune.tracing.trace_network import trace

IMAGE = noise(2, 3, 6, 6)


class Net(nn.Module):
    """A small network with every kind of joint: batch-norm, residual, concat, depthwise, linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.bn, self.r = conv(3, 6, 3), nn.BatchNorm2d(6), conv(6, 6, 3)
        self.d, self.b, self.l = conv(6, 6, 3, groups=6), conv(12, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.bn(self.a(x)))
        y = y + self.r(y)
        z = self.b(torch.cat([y, self.d(y)], 1))
        return self.l(z.mean((2, 3)))


@pytest.fixture
def cut() -> tuple[nn.Module, nn.Module, Plan, ChannelGraph]:
    """Parent, cut model, plan and graph; channels 1 and 4 of six are cut."""
    parent = settle(Net())
    graph = trace(parent, noise(1, 3, 6, 6))
    plan = graph.plan(without(graph, "a.outputs", [1, 4]))
    return parent, cut_copy(parent, plan), plan, graph


Cut = tuple[nn.Module, nn.Module, Plan, ChannelGraph]


def test_a_right_cut_passes(cut: Cut) -> None:
    parent, small, plan, graph = cut
    assert verify(parent, small, plan, IMAGE) <= comparison.TOLERANCE
    for seed in range(5):
        plan = cutting_plan(graph, seed)
        assert verify(parent, cut_copy(parent, plan), plan, IMAGE) <= comparison.TOLERANCE


def test_the_error_is_relative_to_the_largest_value() -> None:
    parent = nn.Sequential(filled(conv(1, 2), [1, 2], [0, 0]), filled(conv(2, 1), [3, 100], [0]))
    plan = Plan({"0": Keep(outputs=(0,), of=(2, None)), "1": Keep(inputs=(0,), of=(None, 2))})
    small = cut_copy(parent, plan)
    small[1].weight.data.mul_(1 + 2**-15)  # 3e-5: wrong, and within the tolerance
    assert verify(parent, small, plan, torch.ones(1, 1, 2, 2)) == pytest.approx(2**-15, rel=1e-2)
    small[1].weight.data.mul_(1 + 2**-12)
    with pytest.raises(VerifyError, match=r"relative error 2\.7e-04"):
        verify(parent, small, plan, torch.ones(1, 1, 2, 2))


# Wrong cuts -----------------------------------------------------------------------------------------------------------
def swap_columns(small: nn.Module) -> None:
    small.b.weight.data[:, [0, 1]] = small.b.weight.data[:, [1, 0]]


def swap_statistics(small: nn.Module) -> None:
    small.bn.running_mean[[0, 1]] = small.bn.running_mean[[1, 0]]


def nudge_one_weight(small: nn.Module) -> None:
    small.r.weight.data[0, 0, 1, 1] += 0.1


def forget_a_bias(small: nn.Module) -> None:
    small.d.bias.data[2] = 0


def not_a_number(small: nn.Module) -> None:
    small.l.weight.data[0, 0] = float("nan")


@pytest.mark.parametrize("fault", [swap_columns, swap_statistics, nudge_one_weight, forget_a_bias, not_a_number])
def test_a_wrong_weight_fails(cut: Cut, fault: object) -> None:
    parent, small, plan, _ = cut
    fault(small)  # type: ignore[operator]
    with pytest.raises(VerifyError, match="differs from its masked parent"):
        verify(parent, small, plan, IMAGE)


@pytest.mark.parametrize(
    "module, side", [("a", "outputs"), ("bn", "outputs"), ("r", "inputs"), ("r", "outputs"), ("d", "outputs")]
)
def test_one_index_off_fails(cut: Cut, module: str, side: str) -> None:
    """The cut keeps channel 1 where the plan says 0."""
    parent, _, plan, _ = cut
    keep = plan.keep[module]
    assert getattr(keep, side) == (0, 2, 3, 5)
    off = Plan({**plan.keep, module: replace(keep, **{side: (1, 2, 3, 5)})})
    with pytest.raises(VerifyError):
        verify(parent, cut_copy(parent, off), plan, IMAGE)


def test_a_plan_that_forgets_one_reader_fails(cut: Cut) -> None:
    """The plan itself is wrong: `d` loses channel 0 instead of 1, so it reads other channels than it is added to."""
    parent, _, plan, _ = cut
    wrong = Plan({**plan.keep, "d": Keep(outputs=(1, 2, 3, 5), of=(6, None))})
    with pytest.raises(VerifyError):
        verify(parent, cut_copy(parent, wrong), wrong, IMAGE)


def test_another_model_fails(cut: Cut) -> None:
    parent, small, plan, _ = cut
    with pytest.raises(VerifyError, match="outputs"):
        verify(parent, nn.Sequential(small, _Twice()), plan, IMAGE)
    with pytest.raises(VerifyError, match="shape"):
        verify(parent, nn.Sequential(small, nn.Flatten(0)), plan, IMAGE)
    with pytest.raises(VerifyError, match="shape"):
        verify(parent, nn.Sequential(small, nn.Linear(4, 5)), plan, IMAGE)  # wider than its parent


class _Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


# The masked parent ----------------------------------------------------------------------------------------------------
def test_masked_channels_are_zero_where_they_are_written_and_read() -> None:
    model = nn.Sequential(filled(conv(1, 3), [1, 2, 3], [10, 20, 30]), filled(conv(3, 1), [1, 10, 100], [0]))
    one = torch.ones(1, 1, 1, 1)
    assert model(one).item() == 11 + 220 + 3300
    with masked(model, Plan({"0": Keep(outputs=(0, 2), of=(3, None))})) as m:
        assert m is model
        assert model[0](one).flatten().tolist() == [11, 0, 33]
        assert model(one).item() == 11 + 3300
    with masked(model, Plan({"1": Keep(inputs=(1,), of=(None, 3))})):
        assert model[0](one).flatten().tolist() == [11, 22, 33]
        assert model(one).item() == 220
    assert model(one).item() == 3531


def test_linear_layers_are_masked_along_the_last_dimension() -> None:
    layer = filled(nn.Linear(2, 2), [[1, 2], [3, 4]], [0, 0])
    with masked(nn.ModuleDict({"l": layer}), Plan({"l": Keep(outputs=(1,), inputs=(0,), of=(2, 2))})):
        assert layer(torch.ones(2, 2, 2)).tolist() == [[[0, 3], [0, 3]], [[0, 3], [0, 3]]]


def test_masked_channels_that_are_not_finite_are_zero_too() -> None:
    layer = filled(conv(1, 2), [1, 1], [0, 0])
    with masked(nn.ModuleDict({"c": layer}), Plan({"c": Keep(outputs=(0,), of=(2, None))})):
        assert layer(torch.full((1, 1, 1, 1), float("inf"))).flatten().tolist() == [float("inf"), 0]


def test_masking_leaves_no_hook(cut: Cut) -> None:
    parent, small, plan, _ = cut
    expected = parent.eval()(IMAGE)
    with masked(parent, plan):
        assert not torch.equal(parent(IMAGE), expected)
    assert torch.equal(parent(IMAGE), expected)
    with pytest.raises(RuntimeError, match="inside"), masked(parent, plan):
        raise RuntimeError("inside")
    verify(parent, small, plan, IMAGE)
    small.b.weight.data.zero_()
    with pytest.raises(VerifyError):
        verify(parent, small, plan, IMAGE)
    for model in (parent, small):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(parent(IMAGE), expected)


@pytest.mark.parametrize("training", [True, False])
def test_verification_leaves_both_models_as_they_were(cut: Cut, training: bool) -> None:
    parent, small, plan, _ = cut
    for model in (parent, small):
        model.train(training)
        model.bn.eval()
    before = [copy.deepcopy(m.state_dict()) for m in (parent, small)]
    verify(parent, small, plan, IMAGE)
    for model, state in zip((parent, small), before, strict=True):
        assert [m.training for m in model.modules()] == [training and m is not model.bn for m in model.modules()]
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


# What is compared -----------------------------------------------------------------------------------------------------
class Head(nn.Module):
    """Returns raw maps when training, and only the best of them otherwise; needs targets when asked to."""

    def __init__(self, targets: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.drop, self.targets = conv(3, 4), conv(4, 2), nn.Dropout(0.5), targets

    def forward(self, x: Tensor) -> object:
        y = self.drop(self.a(x))
        if self.training and self.targets:
            raise ValueError("targets")
        return {"maps": [y, self.b(y)], "n": 3} if self.training else self.b(y).amax((2, 3))


@pytest.mark.parametrize("targets", [False, True])
def test_models_with_two_faces(targets: bool) -> None:
    parent = Head(targets)
    graph = trace(parent, noise(1, 3, 6, 6), outputs=True)
    plan = graph.plan(without(graph, "a.outputs", [1]))
    small = cut_copy(parent, plan)
    assert verify(parent, small, plan, IMAGE) <= 1e-4
    small.b.weight.data[0, 0] += 0.1
    with pytest.raises(VerifyError):
        verify(parent, small, plan, IMAGE)


def test_class_numbers_are_compared_exactly() -> None:
    class Numbers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4), conv(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)).argmax(1)

    torch.manual_seed(0)
    parent = Numbers()
    graph = trace(parent, noise(1, 3, 6, 6))
    plan = graph.plan(without(graph, "a.outputs", [1]))
    small = cut_copy(parent, plan)
    assert verify(parent, small, plan, IMAGE) == 0
    small.b.weight.data, small.b.bias.data = small.b.weight.data.flip(0), small.b.bias.data.flip(0)
    with pytest.raises(VerifyError, match="relative error inf"):
        verify(parent, small, plan, IMAGE)


def test_branches_of_training_are_compared_too() -> None:
    """As the one-to-many branch of YOLO26, which evaluation leaves out."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.aux = conv(3, 4), conv(4, 2), conv(4, 2)

        def forward(self, x: Tensor) -> object:
            y = self.a(x)
            return (self.b(y), self.aux(y)) if self.training else self.b(y)

    parent = Auxiliary()
    graph = trace(parent, noise(1, 3, 6, 6))
    plan = graph.plan(without(graph, "a.outputs", [1]))
    small = cut_copy(parent, plan)
    assert verify(parent, small, plan, IMAGE) <= 1e-4
    small.aux.weight.data[0, 0] += 0.1
    with pytest.raises(VerifyError):
        verify(parent, small, plan, IMAGE)


def test_an_output_that_lost_channels_is_compared_without_them() -> None:
    parent = nn.Sequential(conv(3, 5), nn.SiLU())
    plan = Plan({"0": Keep(outputs=(0, 3, 4), of=(5, None))})
    small = cut_copy(parent, plan)
    assert verify(parent, small, plan, IMAGE) <= 1e-4
    with pytest.raises(VerifyError):
        verify(parent, cut_copy(parent, Plan({"0": Keep(outputs=(1, 3, 4), of=(5, None))})), plan, IMAGE)


def test_dropout_by_function_does_not_fail_a_right_cut() -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4), conv(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.b(self.a(x)), 0.5, self.training)

    parent = Drops()
    graph = trace(parent, noise(1, 3, 6, 6))
    plan = graph.plan(without(graph, "a.outputs", [1]))
    assert verify(parent, cut_copy(parent, plan), plan, IMAGE) <= 1e-4


def test_an_example_of_zeros_is_no_proof() -> None:
    """Without biases nothing but zeros comes out, whatever was cut."""
    model = nn.Sequential(conv(3, 4, bias=False), nn.ReLU(), conv(4, 2, bias=False))
    plan = (graph := trace(model, IMAGE)).plan(cutting_alive(graph, 0))
    with pytest.raises(VerifyError, match="All outputs are zero"):
        verify(model, cut_copy(model, plan), plan, torch.zeros_like(IMAGE))


class DropPath(nn.Module):
    """A residual branch that is left out at random for some images of a batch, in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 8), conv(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        kept = torch.rand(len(x), 1, 1, 1) > 0.5 if self.training else 1.0
        return self.c(y + self.b(y) * kept)


@pytest.mark.parametrize("seed", range(8))
def test_a_branch_dropped_at_random_does_not_fail_a_right_cut(seed: int) -> None:
    """With two images two runs agree by luck every fourth time."""
    torch.manual_seed(seed)
    model = DropPath().eval()
    assert_exact(model, trace(model, IMAGE), IMAGE, seeds=[seed])


def test_state_that_a_forward_pass_changes_is_put_back() -> None:
    """Spectral norm takes a step of its power iteration at every forward pass in training mode."""
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(3, 6), conv(6, 8), nn.utils.parametrizations.spectral_norm(conv(8, 8)), conv(8, 2)
    ).eval()
    before = copy.deepcopy(model.state_dict())
    assert_exact(model, trace(model, IMAGE), IMAGE)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Words(nn.Module):
    """Tells the best class in words, and hands out something that cannot be looked into where asked to."""

    def __init__(self, closed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.closed = conv(3, 4), conv(4, 2), closed

    def forward(self, x: Tensor) -> object:
        y = self.b(self.a(x)).mean((0, 2, 3))
        return (y.sum(), (lambda: y)) if self.closed else (y.sum(), "first" if y[0] > y[1] else "second")


def test_noise_excuses_no_words() -> None:
    """A fault that turns the words around is one whatever rounding does; a function cannot be compared at all."""
    parent = Words(closed=False)
    graph = trace(parent, IMAGE)
    plan = graph.plan(without(graph, "a.outputs", [1]))
    small = cut_copy(parent, plan)
    assert verify(parent, small, plan, IMAGE) <= TOLERANCE
    small.b.weight.data, small.b.bias.data = small.b.weight.data.flip(0), small.b.bias.data.flip(0)
    with pytest.raises(VerifyError, match=r"\[1\]"):
        verify(parent, small, plan, IMAGE)
    with pytest.raises(VerifyError, match="cannot be looked into"):
        verify(Words(closed=True), cut_copy(Words(closed=True), plan), plan, IMAGE)
