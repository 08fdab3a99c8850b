"""Channels taken apart: chunks and splits that stay in proportion, picked channels, shuffles, reshapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import classes, cut_copy, partners, reasons, without
from networks import FREE, IMAGE, Net, exact, halves, held, net
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.cutting import comparison
from yoloprune.errors import PlanError
from yoloprune.tracing.trace_network import trace


def test_chunk_halves_stay_equal() -> None:
    graph = exact(net(halves, a=(3, 8), b=(4, 4), c=(12, 2)))
    assert partners(graph, "a.outputs") == [(4, 4)]
    assert {g.name for g in graph.groups if g.frozen is None} == {"a[0:4]", "a[4:8]"}
    first, second = classes(graph, "a.outputs")[:4], classes(graph, "a.outputs")[4:]
    assert second == classes(graph, "b.outputs")
    assert classes(graph, "c.inputs") == first + second + second
    with pytest.raises(PlanError, match="proportion"):
        graph.plan(without(graph, "a.outputs", [0]))
    with pytest.raises(PlanError, match="proportion"):
        graph.plan(without(graph, "a.outputs", [5, 6]))
    assert graph.plan(without(graph, "a.outputs", [0, 5])).keep["c"].inputs == (1, 2, 3, 4, 6, 7, 8, 10, 11)


def test_uneven_chunk_is_frozen() -> None:
    def uneven(m: Net, x: Tensor) -> Tensor:
        u, v = m.a(x).chunk(2, 1)
        return m.b(u) + m.c(v)

    graph = held(net(uneven, a=(3, 5), b=(3, 2), c=(2, 2)))
    assert all(r and r.startswith("uneven split") for r in reasons(graph, "a.outputs"))


def test_split_by_a_share_of_the_width() -> None:
    def quarters(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(torch.cat(y.split(y.shape[1] // 4, 1)[1:], 1))

    graph = exact(net(quarters, a=(3, 8), b=(6, 2)))
    assert partners(graph, "a.outputs") == [(2, 2, 2, 2)]


def test_split_into_unequal_shares_of_the_width() -> None:
    def shares(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        u, v = y.split([y.shape[1] // 4, y.shape[1] // 4 * 3], 1)
        return m.b(u) + m.c(v)

    graph = exact(net(shares, a=(3, 16), b=(4, 2), c=(12, 2)))
    assert partners(graph, "a.outputs") in ([(4, 12)], [])  # in proportion, or frozen


def test_split_by_a_number_is_frozen_unless_the_number_is_corrected() -> None:
    model = net(lambda m, x: m.b(m.a(x).split(4, 1)[0]), a=(3, 8), b=(4, 2))
    assert reasons(held(model), "a.outputs") == {"width written as a number in Net"}
    graph = trace(model, IMAGE, sized=lambda m: isinstance(m, Net))
    assert reasons(graph, "a.outputs") == FREE
    assert partners(graph, "a.outputs") == [(4, 4)]


@pytest.mark.parametrize(
    "pick",
    [
        lambda y: y[:, 0:4:3],
        lambda y: torch.stack([y[:, 0], y[:, 3]], 1),
        lambda y: torch.stack(y.unbind(1)[:2], 1),
        lambda y: y.roll(1, 1)[:, :2],
        lambda y: y.index_select(1, torch.tensor([2, 0])),
    ],
    ids=["steps", "select", "unbind", "roll", "index_select"],
)
def test_picking_channels_by_number_is_frozen(pick: Callable[[Tensor], Tensor]) -> None:
    graph = exact(net(lambda m, x: m.c(m.b(pick(m.a(x)))), a=(3, 4), b=(2, 5), c=(5, 2)))
    assert None not in reasons(graph, "a.outputs")
    assert reasons(graph, "b.outputs") == FREE


@pytest.mark.parametrize(
    "whole",
    [
        lambda y: y[:, :, 1:, ::2],
        lambda y: y[:, :],
        lambda y: y[:, : y.shape[1]],
        lambda y: y[:, :4],
        lambda y: y.flip(1),
        lambda y: y.roll(1, 2),
        lambda y: torch.stack(y.unbind(2), 2).amax((2, 3), keepdim=True),
        lambda y: y[:, :, 2][:, :, None],
        lambda y: F.pad(y, (1, 0, 2, 1)),
        lambda y: y.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda y: F.interpolate(y, scale_factor=2),
        lambda y: y.repeat_interleave(2, 3),
        lambda y: y.clone().detach().to(torch.float64).float(),
        lambda y: y.amax(1 + 1, keepdim=True) + y.mean((2, 3), keepdim=True),
        lambda y: y.flatten(2).softmax(-1).view(y.shape),
        lambda y: F.normalize(y, dim=2),
        lambda y: F.avg_pool2d(y, 2) + F.max_pool2d(y, 2),
    ],
)
def test_movement_beside_the_channels_is_free(whole: Callable[[Tensor], Tensor]) -> None:
    graph = exact(net(lambda m, x: m.b(whole(m.a(x))), a=(3, 4), b=(4, 2)))
    assert reasons(graph, "a.outputs") == FREE


def test_stacked_maps_are_free() -> None:
    graph = exact(net(lambda m, x: m.b(torch.stack(m.a(x).unbind(2), 2)), a=(3, 4), b=(4, 2)))
    assert reasons(graph, "a.outputs") == FREE


def test_flipped_channels_are_read_backwards() -> None:
    graph = trace(net(lambda m, x: m.b(m.a(x).flip(1)), a=(3, 4), b=(4, 2)), IMAGE)
    assert classes(graph, "b.inputs") == classes(graph, "a.outputs")[::-1]


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_constants_beside_the_channels_are_no_channels(value: float) -> None:
    """The shortcut of a ResNet for small images (He et al. 2015, arXiv 1512.03385, section 4.2, option A)."""

    def shortcut(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.c(m.b(y) + F.pad(y, (0, 0, 0, 0, 2, 2), value=value))

    graph = exact(net(shortcut, a=(3, 4), b=(4, 8), c=(8, 2)))
    a, b = classes(graph, "a.outputs"), classes(graph, "b.outputs")
    assert reasons(graph, "a.outputs") == FREE and b[2:6] == a
    beside = {graph.groups[graph.group_of[c]].frozen for c in (*b[:2], *b[6:])}
    assert None not in beside


def test_constants_beside_the_channels_alone() -> None:
    graph = exact(net(lambda m, x: m.b(F.pad(m.a(x), (1, 1, 0, 0, 1, 3))), a=(3, 4), b=(8, 2)))
    assert reasons(graph, "a.outputs") == FREE
    assert classes(graph, "b.inputs")[1:5] == classes(graph, "a.outputs")


@pytest.mark.parametrize(
    "shift",
    [lambda y: F.pad(y, (0, 0, 0, 0, 1, -1)), lambda y: y.narrow(1, 0, 4), lambda y: y.roll(1, 1)],
    ids=["pad", "narrow", "roll"],
)
def test_what_counts_channels_without_changing_their_number_is_frozen(shift: Callable[[Tensor], Tensor]) -> None:
    graph = held(net(lambda m, x: m.b(shift(m.a(x))), a=(3, 4), b=(4, 2)))
    assert reasons(graph, "a.outputs") != FREE


def test_channel_shuffle() -> None:
    def shuffle(m: Net, x: Tensor) -> Tensor:
        b, c, h, w = (y := m.a(x)).shape
        return m.b(y.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))

    graph = exact(net(shuffle, a=(3, 8), b=(8, 2)))
    a = classes(graph, "a.outputs")
    assert classes(graph, "b.inputs") == [a[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)]
    assert partners(graph, "a.outputs") in ([(4, 4)], [(4,)])  # halves of equal width, or the same in both


INTERLEAVED = {
    "shuffle": lambda y: y.view(len(y), 2, y.shape[1] // 2, -1).transpose(1, 2).reshape(y.shape),
    "stack": lambda y: torch.stack(y.chunk(2, 1), 2).flatten(1, 2),
}


@pytest.mark.parametrize("how", list(INTERLEAVED))
def test_interleaved_halves_that_lose_different_channels(how: str) -> None:
    """Kept 1, 2 of one half and 0, 3 of the other: interleaved after the cut they come in another order than before."""
    model = net(lambda m, x: m.b(INTERLEAVED[how](m.a(x))), a=(3, 8), b=(8, 2))
    graph = exact(model)
    try:
        plan = graph.plan(without(graph, "a.outputs", [0, 3, 5, 6]))
    except PlanError:
        return  # refused is as good as right
    comparison.verify(model, cut_copy(model, plan), plan, IMAGE)


@pytest.mark.parametrize(
    "reshape",
    [
        lambda y: y.view(len(y), 4, 2, *y.shape[2:]).sum(1),
        lambda y: y.reshape((len(y), -1, 2, *y.shape[2:])).sum(1),
        lambda y: y.unflatten(1, (4, 2)).sum(1),
        lambda y: y.view(len(y), 8, -1)[..., :2].unflatten(2, (1, 2)).sum(1, keepdim=True).expand(-1, 2, -1, -1),
        lambda y: nn.Unflatten(1, (4, 2))(y).sum(1),
    ],
    ids=["view", "reshape", "unflatten", "reduce", "module"],
)
def test_widths_written_as_numbers_are_frozen(reshape: Callable[[Tensor], Tensor]) -> None:
    graph = exact(net(lambda m, x: m.c(m.b(reshape(m.a(x)))), a=(3, 8), b=(2, 4), c=(4, 2)))
    assert None not in reasons(graph, "a.outputs")
    assert reasons(graph, "b.outputs") == FREE


def test_reshape_like_another_tensor_ties_the_two() -> None:
    def alike(m: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = m.a(x), m.b(x)
        return m.c(torch.cat([b, b], 1).view_as(a)), m.d(a)

    graph = exact(net(alike, a=(3, 8), b=(3, 4), c=(8, 2), d=(8, 2)))
    assert partners(graph, "a.outputs") in ([(8, 4)], [])  # in proportion, or frozen


@pytest.mark.parametrize("constants", [4, 8])
@pytest.mark.parametrize("use", ["chunk", "heads"])
def test_constants_count_where_channels_are_divided(constants: int, use: str) -> None:
    """A chunk of channels and constants moves its boundary when only the channels shrink."""

    def body(m: Net, x: Tensor) -> Tensor:
        fixed = torch.ones(len(x), constants, *x.shape[2:])
        y = torch.cat([m.a(x), fixed], 1)
        u, v = y.chunk(2, 1) if use == "chunk" else y.view(len(x), 2, -1, *x.shape[2:]).unbind(1)
        return m.b(u) + m.c(v)

    graph = held(net(body, a=(3, 16 - constants), b=(8, 2), c=(8, 2)))
    assert None not in reasons(graph, "a.outputs")


def test_values_taken_out_by_a_kernel_that_is_no_square() -> None:
    """One row of three: three positions for each channel."""

    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        n, c, h, w = y.shape
        return m.b(F.unfold(y, (1, 3), padding=(0, 1)).view(n, c, 3, h, w).sum(2))

    assert reasons(exact(net(body, a=(3, 4), b=(4, 2))), "a.outputs") == FREE


@pytest.mark.parametrize("rolled", [lambda y: y.roll(1), lambda y: y.roll((3,))], ids=["a number", "a tuple"])
def test_rolling_over_all_dimensions_is_frozen(rolled: Callable[[Tensor], Tensor]) -> None:
    """Without `dims` a tensor is rolled as if it were flat: of one image of one pixel these are the channels."""
    graph = held(net(lambda m, x: m.b(rolled(m.a(x[:1].mean((2, 3))))), a=nn.Linear(3, 4), b=nn.Linear(4, 2)))
    assert reasons(graph, "a.outputs") == {"channels are picked by number by roll in the network's own code"}
