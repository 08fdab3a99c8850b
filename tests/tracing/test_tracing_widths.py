"""Widths in arithmetic: slices and splits by sums of widths, packs, quotients, repeated constants, tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
from conftest import conv, partners, reasons
from networks import FREE, IMAGE, Net, exact, held, net
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.tracing.trace_network import trace

PICKED = "channels are picked by number by slice in the network's own code"


def _one(piece: Callable[[Tensor], Tensor], width: int = 8) -> Net:
    """A layer, a piece of its channels, and layers that read it and the whole."""
    with torch.no_grad():
        left = piece(torch.zeros(1, width, 6, 6)).shape[1]
    return net(lambda m, x: m.b(piece(m.a(x))) + m.c(m.a(x)), a=(3, width), b=(left, 2), c=(width, 2))


# Slices and splits ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "piece",
    [
        lambda y: y[:, y.shape[1] // 2 :],
        lambda y: y[:, : y.shape[1] // 4],
        lambda y: y[:, -y.shape[1] // 2 :],
        lambda y: y[..., y.shape[1] // 4 : -(y.shape[1] // 4), :, :],
        lambda y: y[:, y.size(1) >> 1 : y.shape[1], 0:],
        lambda y: y[None, :, y.shape[1] - y.shape[1] // 4 :][0],
        lambda y: y.narrow(1, y.shape[1] // 2, y.shape[1] // 2),
        lambda y: y.narrow(1, 0, y.shape[1] // 4 * 3),
        lambda y: y[:, ::2],
        lambda y: torch.cat([y[:, 1::2], y[:, ::2]], 1),
        lambda y: y.split([y.shape[1] // 4, y.shape[1] - y.shape[1] // 4], 1)[1],
        lambda y: y.split((y.shape[1] * 3 // 4, y.shape[1] // 4), 1)[0],
    ],
)
def test_pieces_whose_bounds_are_shares_of_the_width(piece: Callable[[Tensor], Tensor]) -> None:
    assert reasons(exact(_one(piece)), "a.outputs") == FREE


@pytest.mark.parametrize(
    ("piece", "stay"),
    [
        (lambda y: y[:, 2:], (0, 1)),
        (lambda y: y[:, :2], (0, 1)),
        (lambda y: y[:, 1:3], (0, 1, 2)),
        (lambda y: y[:, -3:], (5, 6, 7)),
        (lambda y: y[:, :-3], (5, 6, 7)),
        (lambda y: y[:, 2 : y.shape[1]], (0, 1)),
        (lambda y: y[:, 2 : y.shape[1] - 3], (0, 1, 5, 6, 7)),
        (lambda y: y.narrow(1, 2, y.shape[1] - 2), (0, 1)),
        (lambda y: y.split([3, y.shape[1] - 3], 1)[1], (0, 1, 2)),
        (lambda y: y.split([y.shape[1] - 2, 2], 1)[0], (6, 7)),
        (lambda y: y.split([1, y.shape[1] - 2, 1], 1)[1], (0, 7)),
    ],
)
def test_a_literal_holds_the_channels_that_it_counts(piece: Callable[[Tensor], Tensor], stay: tuple[int, ...]) -> None:
    graph = exact(_one(piece))
    classes = next(c for a, c in zip(graph.axes, graph.class_of, strict=True) if str(a) == "a.outputs")
    assert tuple(np.flatnonzero(~graph.prunable[classes])) == stay


@pytest.mark.parametrize(
    "piece",
    [
        lambda y: y[:, 3 : y.shape[1] - 1 : 2],
        lambda y: y[:, y.shape[1] // 3 :],
        lambda y: y[:, : int(y.shape[1] * 0.5)],
        lambda y: y.narrow(1, 0, 8),
        lambda y: y.split([y.shape[1] // 2 + 1, y.shape[1] // 2 - 1], 1)[0],
        lambda y: torch.ops.aten.slice(y, 1, 0, 4),
        lambda y: torch.ops.aten.split_with_sizes(y, [2, 6], 1)[1],
    ],
)
def test_pieces_that_no_share_says_are_held(piece: Callable[[Tensor], Tensor]) -> None:
    left = piece(torch.zeros(1, 8, 6, 6)).shape[1]
    layers = {"a": (3, 8), "b": (left, 4), "c": (8, 4), "d": (4, 2)}
    graph = exact(net(lambda m, x: m.d(m.b(piece(m.a(x))) + m.c(m.a(x))), **layers))
    assert None not in reasons(graph, "a.outputs")
    assert reasons(graph, "b.outputs") == FREE


def test_joined_maps_are_split_by_the_widths_that_they_had() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        a, b, c = m.a(x), m.b(x), m.c(x)
        y = torch.cat([a, b, c], 1)
        one, two = y.relu().split([a.shape[1] + b.shape[1], c.shape[1]], 1)
        three = y[:, a.shape[1] : a.shape[1] + b.shape[1]]
        assert y.shape[1] == a.shape[1] + b.shape[1] + c.shape[1]
        return m.d(one) + m.e(two) + m.f(three)

    graph = exact(net(body, a=(3, 4), b=(3, 6), c=(3, 5), d=(10, 2), e=(5, 2), f=(6, 2)))
    assert all(reasons(graph, f"{name}.outputs") == FREE for name in "abc")
    assert not [t for t in graph.ties if len(t.groups) > 1]


@pytest.mark.parametrize("ask", [lambda a, b: a - b == 2, lambda a, b: a + 2 > b * 2, lambda a, b: a - 2 == b])
def test_questions_about_sums_hold_what_they_ask(ask: Callable[[int, int], bool]) -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        a, b = m.a(x), m.b(x)
        return m.c(torch.cat([a, b * 3 if ask(a.shape[1], b.shape[1]) else b], 1))

    graph = held(net(body, a=(3, 6), b=(3, 4), c=(10, 2)))
    assert None not in reasons(graph, "a.outputs") | reasons(graph, "b.outputs")


def test_a_multiple_of_a_width_holds_as_many_positions() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(torch.cat([y, y], 1).relu().reshape(len(y), 2 * y.shape[1], 6, 6))

    graph = exact(net(body, a=(3, 4), b=(8, 2)))
    assert reasons(graph, "a.outputs") == FREE


@pytest.mark.parametrize("width", [8, 6])
def test_a_question_about_a_multiple_ties_both(width: int) -> None:
    """Both keep their ratio, and so the answer stays."""

    def body(m: Net, x: Tensor) -> Tensor:
        a, b = m.a(x), m.b(x)
        return m.c(torch.cat([a, b * 3 if a.shape[1] == 2 * b.shape[1] else b], 1))

    graph = exact(net(body, a=(3, width), b=(3, 4), c=(width + 4, 2)))
    assert reasons(graph, "a.outputs") | reasons(graph, "b.outputs") == FREE
    assert {t.groups: t.sizes for t in graph.ties if len(t.groups) > 1} == {(0, 2): (width, 4)}


# Packs and quotients --------------------------------------------------------------------------------------------------
def _shuffled(y: Tensor) -> Tensor:
    n, c, h, w = y.shape
    return y.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)


PACKS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "view": (_shuffled, 4),
    "open": (lambda y: y.view(len(y), -1, 2, 6, 6).amax(2), 2),
    "a quotient of a multiple": (lambda y: y.view(len(y), y.shape[1] * 2 // 4, 2, 6, 6).amax(2), 2),
    "unflatten": (lambda y: y.unflatten(1, (y.shape[1] // 2, 2)).sum(2), 2),
    "pixel shuffle": (lambda y: F.pixel_shuffle(y, 2), 4),
    "pixel unshuffle": (lambda y: F.pixel_unshuffle(y, 2), 1),
    "unfold": (lambda y: F.unfold(y, 3, padding=1).view(len(y), -1, 6, 6), 1),
    "fold": (lambda y: F.fold(y.flatten(2), (12, 12), 2, stride=2), 4),
    "glu": (lambda y: F.glu(y, 1), 1),
}  # fmt: skip


@pytest.mark.parametrize("how", PACKS)
def test_channels_that_become_positions_go_in_packs(how: str) -> None:
    rearrange, pack = PACKS[how]
    width = rearrange(torch.zeros(1, 16, 6, 6)).shape[1]
    graph = exact(net(lambda m, x: m.b(rearrange(m.a(x))), a=(3, 16), b=(width, 2)))
    assert reasons(graph, "a.outputs") == FREE
    classes = next(c for a, c in zip(graph.axes, graph.class_of, strict=True) if str(a) == "a.outputs")
    assert (classes.reshape(-1, pack) == classes.reshape(-1, pack)[:, :1]).all()


def test_a_shuffle_by_an_operation_takes_the_same_of_every_group() -> None:
    graph = exact(net(lambda m, x: m.b(F.channel_shuffle(m.a(x), 2)), a=(3, 8), b=(8, 2)))
    assert reasons(graph, "a.outputs") == FREE


@pytest.mark.parametrize(
    "use",
    [
        lambda y: y * 2 if y.shape[1] % 4 == 0 else y,
        lambda y: y * (y.shape[1] // 4 * 4 == y.shape[1]),
        lambda y: y * 2 if divmod(y.shape[1], 4)[1] == 0 else y,
        lambda y: y * 2 if not y.shape[1] & 0 and not y.shape[1] % 4 else y,
    ],
)
def test_a_width_that_divides_keeps_dividing(use: Callable[[Tensor], Tensor]) -> None:
    graph = trace(net(lambda m, x: m.b(use(m.a(x))), a=(3, 16), b=(16, 2)), IMAGE)
    for tie in graph.ties:
        assert tie.allowed == (4, 8, 12)


def test_a_joined_width_that_divides_ties_its_parts() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = torch.cat([m.a(x), m.b(x)], 1)
        return m.c(y if y.shape[1] % 4 else y * 3)

    graph = exact(net(body, a=(3, 6), b=(3, 10), c=(16, 2)))
    assert partners(graph, "a.outputs") in ([(6, 10)], [])


# Repeated constants ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "spread",
    [
        lambda g, y: g.expand_as(y),
        lambda g, y: g.expand(-1, y.shape[1], -1, -1),
        lambda g, y: g.expand(y.shape),
        lambda g, y: g.repeat(1, y.size(1), 1, 1),
        lambda g, y: torch.tile(g, (1, y.shape[1], 1, 1)),
        lambda g, y: g.broadcast_to(y.shape),
        lambda g, y: g[:, 0].expand(y.shape[1], -1, -1, -1).transpose(0, 1),
        lambda g, y: y.new_ones(1, y.shape[1], 1, 1) * g,
        lambda g, y: torch.full((y.shape[1], 1, 1), 0.5) + g,
    ],
)
def test_one_map_that_is_spread_over_all_channels(spread: Callable[[Tensor, Tensor], Tensor]) -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(y * spread(m.g(x).sigmoid(), y))

    assert reasons(exact(net(body, a=(3, 6), b=(6, 2), g=(3, 1))), "a.outputs") == FREE


def test_channels_are_filled_up_with_zeros() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(torch.cat([y, y.new_zeros(len(y), y.shape[1] // 2, 6, 6)], 1))

    assert reasons(exact(net(body, a=(3, 6), b=(9, 2))), "a.outputs") == FREE


def test_a_spread_map_that_is_counted_is_held() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.b(y) * m.g(x).expand(-1, y.shape[1], -1, -1).sum(1, keepdim=True)

    assert None not in reasons(held(net(body, a=(3, 6), b=(6, 2), g=(3, 1))), "a.outputs")


# Tables ---------------------------------------------------------------------------------------------------------------
@lru_cache(32)
def _recipe(shape: tuple[int, ...], heads: int) -> tuple[int, ...]:
    n, c, h, w = shape
    assert c % heads == 0
    return n, heads, c // heads, h, w


def test_shapes_that_are_worked_out_by_a_cache() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).reshape(_recipe(tuple(m.a(x).shape), 2))
        y = y * y.mean((3, 4), keepdim=True).sigmoid()
        n, heads, c, h, w = y.shape
        return m.b(y.reshape(n, heads * c, h, w))

    _recipe((1, 8, 6, 6), 2)
    graph = exact(net(body, a=(3, 8), b=(8, 2)))
    assert reasons(graph, "a.outputs") == FREE
    assert partners(graph, "a.outputs") == [(4, 4)]
    assert _recipe((1, 8, 6, 6), 2) == (1, 2, 4, 6, 6)  # plain numbers, as before


@pytest.mark.parametrize(
    "table",
    [
        lambda w: {8: 3.0, 4: 2.0}[w],
        lambda w: {8: 3.0}.get(w, 2.0),
        lambda w: 3.0 if w in {8, 16} else 2.0,
    ],
    ids=["item", "get", "set"],
)
def test_a_width_that_is_looked_up_is_held(table: Callable[[int], float]) -> None:
    graph = held(net(lambda m, x: m.b((y := m.a(x)) * table(y.shape[1])), a=(3, 8), b=(8, 2)))
    assert reasons(graph, "a.outputs") == {"width used as a number"}


# Random pieces --------------------------------------------------------------------------------------------------------
class Pieces(nn.Module):
    """Random slices, splits, shuffles and spread constants of three joined maps."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.widths = [int(w) for w in self.rng.choice([4, 6, 8, 12], 3)]
        self.maps = nn.ModuleList(conv(3, w) for w in self.widths)
        self.gate, self.kinds = conv(3, 1), self.rng.integers(0, 7, 4).tolist()
        maps, gate = self._join(torch.zeros(1, 3, 6, 6)), torch.zeros(1, 1, 6, 6)
        self.out = nn.ModuleList(conv(self._piece(k, maps, gate).shape[1], 2) for k in self.kinds)

    def _join(self, x: Tensor) -> list[Tensor]:
        return [m(x) for m in self.maps]

    def _piece(self, kind: int, maps: list[Tensor], gate: Tensor) -> Tensor:
        a, b, c = maps
        y = torch.cat(maps, 1).relu()
        if kind == 0:
            return y[:, a.shape[1] : -c.shape[1]]
        if kind == 1:
            return torch.cat(y.split([a.shape[1] // 2, y.shape[1] - a.shape[1] // 2], 1)[::-1], 1)
        if kind == 2:
            return y[:, 2 : a.shape[1] + b.shape[1]]
        if kind == 3:
            return y.view(len(y), y.shape[1] // 2, 2, 6, 6).amax(2)
        if kind == 4:
            return y * gate.expand_as(y)
        if kind == 5:
            return F.pixel_unshuffle(y[:, ::2], 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return torch.cat([y, y.new_zeros(len(y), b.shape[1], 6, 6)], 1)[:, b.shape[1] :]

    def forward(self, x: Tensor) -> Tensor:
        maps, gate = self._join(x), self.gate(x).sigmoid()
        return sum(o(self._piece(k, maps, gate)) for k, o in zip(self.kinds, self.out, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(16))
def test_random_pieces_are_cut_exactly(seed: int) -> None:
    model = Pieces(seed).eval()
    graph = trace(model, IMAGE)
    if any(tie.units > 1 and tie.allowed != () for tie in graph.ties):
        exact(model)


def test_the_first_channels_are_written_anew() -> None:
    """A partial convolution in place, as FasterNet has it at inference; what is written elsewhere is held."""

    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[:, :2] = m.p(y[:, :2])
        return m.b(y)

    graph = exact(net(body, a=(3, 8), p=(2, 2), b=(8, 2)))
    classes = next(c for a, c in zip(graph.axes, graph.class_of, strict=True) if str(a) == "a.outputs")
    assert graph.prunable[classes].tolist() == [False] * 2 + [True] * 6


@pytest.mark.parametrize("at", [slice(2, None), slice(-2, None), slice(1, 3)])
def test_channels_that_are_written_by_number_are_held(at: slice) -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[:, at] = 0.5
        return m.c(m.b(y))

    graph = exact(net(body, a=(3, 8), b=(8, 4), c=(4, 2)))
    assert None not in reasons(graph, "a.outputs")


def test_equal_pieces_by_tensor_split() -> None:
    graph = exact(net(lambda m, x: m.b(torch.mul(*torch.tensor_split(m.a(x), 2, 1))), a=(3, 8), b=(4, 2)))
    assert reasons(graph, "a.outputs") == FREE
