"""Numbers that modules keep about their widths follow a cut where they count channels, and hold where they do more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import classes, conv, cut_copy, partners, reasons, without
from networks import FREE, IMAGE, exact, held, net
from torch import Tensor, nn
from torch.utils._python_dispatch import _len_torch_dispatch_stack

import yoloprune
from yoloprune.cutting import comparison
from yoloprune.errors import PlanError
from yoloprune.planning.plan import Keep, Plan
from yoloprune.tracing.trace_network import trace


class Keeps(nn.Module):
    """Numbers by name, and a function of them and a map."""

    def __init__(self, body: Any, **numbers: Any) -> None:
        super().__init__()
        self.body = body
        for name, value in numbers.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def between(body: Any, **numbers: Any) -> nn.Module:
    """Such a block between two convolutions, eight channels wide."""
    return net(lambda m, x: m.out(m.keeps(m.a(x))), a=(3, 8), keeps=Keeps(body, **numbers), out=(8, 2))


def narrowed(model: nn.Module, gone: list[int]) -> nn.Module:
    """The network without some channels of the first layer, compared with its masked parent."""
    graph = trace(model, IMAGE)
    plan = graph.plan(without(graph, "a.outputs", gone))
    small = cut_copy(model, plan)
    comparison.verify(model, small, plan, torch.cat([IMAGE, IMAGE * 2]))
    return small


# What a number counts follows -----------------------------------------------------------------------------------------
def test_a_number_in_a_view() -> None:
    model = between(lambda m, x: x.flatten(2).view(len(x), m.dim, 6, 6), dim=8)
    graph = exact(model)
    assert reasons(graph, "a.outputs") == FREE
    assert classes(graph, "keeps.dim.number") == classes(graph, "a.outputs")
    assert narrowed(model, [0, 5]).keeps.dim == 6
    assert model.keeps.dim == 8 and type(model.keeps.dim) is int


def test_numbers_in_a_list_and_in_a_tuple() -> None:
    """Of a list of three each follows its own piece."""
    for kind in (list, tuple):
        model = between(lambda m, x: torch.cat(x.split(m.dims, 1)[::-1], 1), dims=kind([2, 4, 2]))
        assert reasons(exact(model), "a.outputs") == FREE
        assert narrowed(model, [0, 2, 3]).keeps.dims == kind([1, 2, 2])


def test_one_number_that_counts_twice_ties_what_it_counts() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        one, other = x.split([m.dim, m.dim], 1)
        return torch.cat([other, one], 1)

    graph = exact(between(body, dim=4))
    assert partners(graph, "a.outputs") == [(4, 4)]


def test_heads_stay_and_their_width_goes() -> None:
    """Of (heads, width) it is the width that changes: every head keeps equally many."""
    model = between(lambda m, x: x.view(len(x), m.heads, m.dim, 36).transpose(1, 2).reshape(x.shape), heads=2, dim=4)
    assert partners(exact(model), "a.outputs") == [(4,)]  # interleaved, so both heads lose the same ones
    small = narrowed(model, [1, 5])
    assert (small.keeps.heads, small.keeps.dim) == (2, 3)


def to_heads(m: Keeps, x: Tensor) -> Tensor:
    return x.view(len(x), m.heads, m.dim, 36).transpose(1, 2).transpose(1, 2)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: to_heads(m, x).reshape(len(x), m.heads * m.dim, 6, 6),
        lambda m, x: to_heads(m, x).reshape(len(x), m.dim * m.heads, 6, 6),
        lambda m, x: to_heads(m, x.reshape(len(x), m.heads * m.dim, 36)).reshape(x.shape),
        lambda m, x: to_heads(m, x.reshape(len(x), m.dim * m.heads, 36)).reshape(x.shape),
    ],
    ids=["behind", "behind, turned", "before", "before, turned"],
)
def test_a_product_of_heads_and_their_width(body: Any) -> None:
    """Heads stay, whether the product comes before their number was seen alone or behind it, and in any order."""
    model = between(body, heads=2, dim=4)
    assert reasons(exact(model), "a.outputs") == FREE
    small = narrowed(model, [1, 2, 5, 6])
    assert (small.keeps.heads, small.keeps.dim) == (2, 2)


def test_a_product_of_numbers_that_are_used_otherwise_holds() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        return x.reshape(len(x), m.heads * m.dim, 6, 6) / (m.heads + 0.5) / (m.dim + 0.5)

    held(between(body, heads=2, dim=4))


def test_the_square_of_a_number_holds_what_it_counts() -> None:
    def square(m: Keeps, x: Tensor) -> Tensor:
        return x.reshape(len(x), m.side * m.side, 6, 6).flip(3)

    model = net(lambda m, x: m.out(m.keeps(m.a(x))), a=(3, 4), out=(4, 2), keeps=Keeps(square, side=2))
    held(model)


def test_a_width_that_is_compared_with_a_number() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        assert x.shape[1] == m.dim, "another width than was said"
        if m.dim != x.shape[1]:
            raise ValueError
        return x

    model = between(body, dim=8)
    assert reasons(exact(model), "a.outputs") == FREE
    assert narrowed(model, [7]).keeps.dim == 7


def test_a_multiple_of_a_width_that_is_compared_with_a_number() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        assert x.shape[1] * 2 == x.shape[1] + x.shape[1] == m.double
        return x

    model = between(body, double=16)
    assert reasons(exact(model), "a.outputs") == FREE
    assert narrowed(model, [0, 4, 5]).keeps.double == 10


def test_a_part_of_a_width_that_is_compared_with_a_number_holds_both() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        assert x.shape[1] // 2 == m.half
        return x

    assert None not in reasons(trace(between(body, half=4), IMAGE), "a.outputs")


def test_what_is_left_over_of_a_split_holds_all_of_it() -> None:
    """Eight channels by three: two pieces of three, and one of two that no number counts."""
    graph = trace(between(lambda m, x: torch.cat(x.split(m.dim, 1)[::-1], 1), dim=3), IMAGE)
    assert None not in reasons(graph, "a.outputs")


@pytest.mark.parametrize("affine", [False, True])
def test_instance_normalisation_asks_for_its_width(affine: bool) -> None:
    norm = nn.InstanceNorm2d(8, affine=affine, track_running_stats=affine)
    model = net(lambda m, x: m.b(m.norm(m.a(x))), a=(3, 8), norm=norm, b=(8, 2))
    assert reasons(exact(model), "a.outputs") == FREE
    assert narrowed(model, [2, 3]).norm.num_features == 6


# Sums -----------------------------------------------------------------------------------------------------------------
def test_a_sum_of_numbers_that_each_count_something() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        x = x.reshape(len(x), 2 * m.dim + m.rest, -1)
        first, second, rest = x.split([m.dim, m.dim, m.rest], 1)
        return torch.cat([rest, first, second], 1).view(len(x), m.rest + m.dim * 2, 6, 6)

    model = between(body, dim=3, rest=2)
    assert reasons(exact(model), "a.outputs") == FREE
    small = narrowed(model, [0, 4, 7])
    assert (small.keeps.dim, small.keeps.rest) == (2, 1)


def test_what_is_left_of_a_list_is_counted_by_its_sum() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        first, others = x.split((m.dims[0], sum(m.dims[1:])), 1)
        return torch.cat([first, *others.split(m.dims[1:], 1)], 1)

    model = between(body, dims=[2, 2, 4])
    assert reasons(exact(model), "a.outputs") == FREE
    assert narrowed(model, [0, 6, 7]).keeps.dims == [1, 2, 2]


def test_pieces_at_multiples_of_a_number() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        return torch.cat([x[:, i * m.dim : (i + 1) * m.dim] for i in (1, 0)], 1)

    model = between(body, dim=4)
    assert partners(exact(model), "a.outputs") == [(4, 4)]
    assert narrowed(model, [1, 6]).keeps.dim == 3


def test_a_part_of_a_number_counts() -> None:
    """Halves, by a number that is one as well: the whole is twice what either has left."""

    def body(m: Keeps, x: Tensor) -> Tensor:
        one, other = x.split(m.dim // m.paths, 1)
        return torch.cat([other, one], 1)

    model = between(body, dim=8, paths=2)
    graph = exact(model)
    assert partners(graph, "a.outputs") == [(4, 4)]
    assert classes(graph, "keeps.dim.number") == classes(graph, "a.outputs")[:4] * 2
    small = narrowed(model, [1, 6])
    assert (small.keeps.dim, small.keeps.paths) == (6, 2)


def test_a_number_and_its_half_count() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        one, other = x.flatten(2).view(len(x), m.dim, 6, 6).split(m.dim // 2, 1)
        return torch.cat([other, one], 1)

    model = between(body, dim=8)
    assert partners(exact(model), "a.outputs") == [(4, 4)]
    assert narrowed(model, [0, 3, 5, 6]).keeps.dim == 4


def test_a_half_in_a_sum() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        whole, half = x.view(len(x), m.dim + m.dim // 2, 36).split([m.dim, m.dim // 2], 1)
        return torch.cat([half, whole], 1).view(x.shape)

    layers = {"a": (3, 12), "keeps": Keeps(body, dim=8), "out": (12, 2)}
    model = net(lambda m, x: m.out(m.keeps(m.a(x))), **layers)
    graph = exact(model)
    assert reasons(graph, "a.outputs") == FREE


# What holds -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: x / m.dim,
        lambda m, x: x * float(m.dim),
        lambda m, x: x * (m.dim // 3),
        lambda m, x: x * (1 - m.dim % 3),
        lambda m, x: x * m.dim**0.5,
        lambda m, x: x if m.dim > 5 else -x,
        lambda m, x: x if m.dim in (8, 9) else -x,
        lambda m, x: x * len(f"{m.dim}"),
        lambda m, x: x * (m.dim - x.shape[1] + 1),
        lambda m, x: x + torch.arange(m.dim).sum(),
    ],
)
def test_a_number_that_is_used_for_more_holds_what_it_counts(use: Any) -> None:
    graph = trace(between(lambda m, x: use(m, x.flatten(2).view(len(x), m.dim, 6, 6)), dim=8), IMAGE)
    assert None not in reasons(graph, "a.outputs")


def test_the_reason_names_the_number() -> None:
    graph = held(between(lambda m, x: x.flatten(2).view(len(x), m.dim, 6, 6) / m.dim, dim=8))
    assert reasons(graph, "a.outputs") == {"counted by keeps.dim, which is used as a number"}


def test_a_sum_one_of_whose_numbers_counts_nothing_holds_all() -> None:
    """`rest` is seen in the sum alone, so nobody knows how it should change."""

    def body(m: Keeps, x: Tensor) -> Tensor:
        first, _ = x.view(len(x), m.dim + m.rest, 36).split([m.dim, x.shape[1] - 6], 1)
        return torch.cat([first, first[:, :2]], 1).view(x.shape)

    graph = trace(between(body, dim=6, rest=2), IMAGE)
    assert None not in reasons(graph, "a.outputs")


def test_a_number_that_counts_constants_too_stays() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(len(x), 2, 6, 6)], 1).flatten(2).view(len(x), m.dim, 6, 6)

    layers = {"a": (3, 6), "keeps": Keeps(body, dim=8), "out": (8, 2)}
    graph = trace(net(lambda m, x: m.out(m.keeps(m.a(x))), **layers), IMAGE)
    assert None not in reasons(graph, "a.outputs")


def test_a_number_that_counts_no_channels_is_left_alone() -> None:
    """A kernel size, a number of images, and one that is equal to a width by chance."""
    body = lambda m, x: nn.functional.max_pool2d(x, m.k, 1, m.k // 2).view(m.batch, -1, 6, 6)  # noqa: E731
    model = net(lambda m, x: m.out(m.keeps(m.a(x))), a=(3, 8), keeps=Keeps(body, k=3, batch=1, chance=8), out=(8, 2))
    graph = trace(model, IMAGE)
    assert not [axis for axis in graph.axes if axis.side == "number"]
    plan = graph.plan(without(graph, "a.outputs", [0, 1]))
    small = cut_copy(model, plan)
    assert (small.keeps.k, small.keeps.batch, small.keeps.chance) == (3, 1, 8)


def test_numbers_are_put_back_after_a_pass_that_fails() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        if type(m.dim) is not int:
            raise RuntimeError("only when it is traced")
        return x.flatten(2).view(len(x), m.dim, 6, 6)

    model = between(body, dim=8, dims=(4, 4))
    graph = held(model)  # traced again with mere numbers, which hold what they count
    assert reasons(graph, "a.outputs") == {"width written as a number in Keeps keeps"}
    assert type(model.keeps.dim) is int and all(type(n) is int for n in model.keeps.dims)


def test_a_network_that_fails_however_it_is_traced_says_why() -> None:
    """Only where somebody watches, which a plain pass does not."""

    def body(m: Keeps, x: Tensor) -> Tensor:
        if _len_torch_dispatch_stack():
            raise RuntimeError("no one may watch")
        return x

    with pytest.raises(RuntimeError, match="no one may watch"):
        trace(between(body, dim=8), IMAGE)


@pytest.mark.parametrize(
    "aside",
    [
        lambda m, x: x * (m.dim / 8 if x.shape[2] > 6 else 1.0),
        lambda m, x: x / m.dim if len(x) > 100 else x,
        lambda m, x: x if len(x) < 100 else x / getattr(m, "dim"),  # noqa: B009
    ],
)
def test_a_number_that_is_read_in_a_part_that_did_not_run_stays(aside: Any) -> None:
    """Another size, or another number of images: nobody saw what it is for there."""
    body = lambda m, x: aside(m, x.flatten(2).view(len(x), m.dim, *x.shape[2:]))  # noqa: E731
    graph = trace(between(body, dim=8), IMAGE)
    assert None not in reasons(graph, "a.outputs")


class Choice(Keeps):
    """Two ways by how it was built, and a third by what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        if self.two > 2 and not self.whole:
            first, rest = x.split([self.dim, self.rest], 1)
            if self.late and x.shape[2] > 6:
                return x * self.dim
            x = torch.cat([rest, first], 1)
        elif self.whole:
            x = x / self.dim
        else:
            x = x * self.rest
        return x


@pytest.mark.parametrize(("late", "free"), [(False, False), (True, False), (None, True)])
def test_what_another_module_would_do_holds_nothing(late: bool | None, free: bool) -> None:
    """By `whole` and `two` it was built so; how large an image is, is another matter, whatever stands beside it."""
    keeps = (Choice if late is not None else Built)(None, dim=2, rest=6, whole=False, two=3, late=late)
    graph = trace(net(lambda m, x: m.out(m.keeps(m.a(x))), a=(3, 8), keeps=keeps, out=(8, 2)), IMAGE)
    first, *rest = (graph.groups[graph.group_of[c]].frozen is None for c in classes(graph, "a.outputs")[::2])
    assert first is free and all(rest), "`rest` is read nowhere else"


class Built(Keeps):
    """The same without the third."""

    def forward(self, x: Tensor) -> Tensor:
        if self.two > 2 and not self.whole:
            first, rest = x.split([self.dim, self.rest], 1)
            x = torch.cat([rest, first], 1)
        elif self.whole:
            x = x / self.dim
        else:
            x = x * self.rest
        return x


class InTraining(Keeps):
    """A loss that only a training with targets computes."""

    def forward(self, x: Tensor) -> Tensor:
        first, rest = x.split([self.dim, self.rest], 1)
        if self.training:
            raise ValueError("targets")
        if self.training and self.rest:
            return x.mean() / self.dim
        return torch.cat([rest, first], 1)


def test_a_mode_is_no_way_in_which_a_module_is_built() -> None:
    keeps = InTraining(None, dim=2, rest=6)
    graph = trace(net(lambda m, x: m.out(m.keeps(m.a(x))), a=(3, 8), keeps=keeps, out=(8, 2)), IMAGE)
    assert graph.groups[graph.group_of[classes(graph, "a.outputs")[0]]].frozen is not None


class Ways(Keeps):
    """Two ways of the same, of which one is never gone."""

    def forward(self, x: Tensor) -> Tensor:
        first, rest = x.split([self.dim, self.rest], 1)
        return torch.cat([rest, first], 1)

    def at_inference(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, self.dim :], x[:, : self.dim]], 1)


def test_a_function_that_did_not_run_at_all_holds_nothing() -> None:
    model = net(lambda m, x: m.out(m.keeps(m.a(x))), a=(3, 8), keeps=Ways(None, dim=2, rest=6), out=(8, 2))
    assert reasons(exact(model), "a.outputs") == FREE


# Differences ----------------------------------------------------------------------------------------------------------
def test_a_difference_of_nothing() -> None:
    """All of the channels in the first piece, as many as there are, and none in the second."""

    def body(m: Keeps, x: Tensor) -> Tensor:
        first, rest = x.split([m.part, m.dim - m.part], 1)
        return torch.cat([first.relu(), rest], 1)

    graph = trace(between(body, dim=8, part=8), IMAGE)
    assert None not in reasons(graph, "a.outputs")


def test_a_difference_that_is_negative() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        x = x.flatten(2).view(len(x), m.dim, 6, 6)
        first, _ = x.split([m.part, m.dim - m.part], 1)
        return torch.cat([x[:, m.part - m.dim :], first], 1)

    model = between(body, dim=8, part=3)
    assert reasons(exact(model), "a.outputs") == FREE
    small = narrowed(model, [0, 4])
    assert (small.keeps.dim, small.keeps.part) == (6, 2)


# Plans ----------------------------------------------------------------------------------------------------------------
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
