"""Numbers that modules keep about their widths follow a cut where they count channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import classes, partners, reasons
from kept_widths import Keeps, between, narrowed
from networks import FREE, IMAGE, exact, held, net
from torch import Tensor, nn

from yoloprune.tracing.trace_network import trace


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
