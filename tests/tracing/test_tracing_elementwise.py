"""Maps and parameters that meet element by element, and weights that are shared or used by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import classes, cut_copy, noise, reasons, without
from networks import FREE, IMAGE, Net, exact, held, net
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.cutting import comparison
from yoloprune.tracing.trace_network import trace


@pytest.mark.parametrize("gate", [F.hardsigmoid, torch.sigmoid, F.hardswish, torch.tanh], ids=lambda f: f.__name__)
def test_squeeze_and_excitation(gate: Callable[[Tensor], Tensor]) -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = F.silu(m.a(x))
        return m.b(y * gate(m.e(m.s(F.adaptive_avg_pool2d(y, 1)).relu())))

    graph = exact(net(body, a=(3, 8), s=(8, 4), e=(4, 8), b=(8, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "e.outputs") == classes(graph, "s.inputs")
    assert classes(graph, "s.outputs") == classes(graph, "e.inputs")
    assert [g.size for g in graph.groups if g.frozen is None] == [8, 4]


def test_a_gate_of_one_channel_constrains_nothing() -> None:
    graph = exact(net(lambda m, x: m.b((y := m.a(x)) * m.g(y).sigmoid()), a=(3, 4), g=(4, 1), b=(4, 2)))
    assert reasons(graph, "a.outputs") == FREE
    assert reasons(graph, "g.outputs") == {"single channel"}


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1), (4,)], ids=str)
def test_loose_parameter_follows_the_channels(shape: tuple[int, ...]) -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        gamma = m.gamma.view(-1, 1, 1) if m.gamma.ndim == 1 else m.gamma
        return m.b(y + gamma * m.c(y))

    model = net(body, a=(3, 4), c=(4, 4), b=(4, 2), gamma=nn.Parameter(noise(*shape)))
    graph = exact(model)
    assert classes(graph, "gamma.outputs") == classes(graph, "a.outputs")
    small = cut_copy(model, graph.plan(without(graph, "a.outputs", [0, 1])))
    assert torch.equal(small.gamma.flatten(), model.gamma.flatten()[2:])
    assert isinstance(small.gamma, nn.Parameter)


def test_prelu_with_a_slope_per_channel() -> None:
    graph = exact(net(lambda m, x: m.b(m.p(m.a(x))), a=(3, 4), p=nn.PReLU(4), b=(4, 2)))
    assert classes(graph, "p.weight.outputs") == classes(graph, "a.outputs")


def test_a_parameter_of_a_layer_used_by_hand() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        shift = m.a.bias.view(1, -1, 1, 1) * 2
        return m.b(m.a(x) - shift)

    model = net(body, a=(3, 4), b=(4, 2))
    graph = exact(model)
    plan = graph.plan(without(graph, "a.outputs", [0, 1]))
    comparison.verify(model, cut_copy(model, plan), plan, IMAGE)


def test_a_constant_of_the_same_width_freezes() -> None:
    graph = held(net(lambda m, x: m.b(m.a(x) + torch.arange(4.0).view(-1, 1, 1)), a=(3, 4), b=(4, 2)))
    assert reasons(graph, "a.outputs") == {"a tensor of fixed width meets channels in add in the network's own code"}


@pytest.mark.parametrize("zeros", [torch.zeros_like, lambda y: torch.zeros(y.shape)], ids=["zeros_like", "zeros"])
def test_sum_collected_in_place(zeros: Callable[[Tensor], Tensor]) -> None:
    """`+=` into fresh zeros, as weighted sums of feature maps do it."""

    def body(m: Net, x: Tensor) -> Tensor:
        a = m.a(x)
        total = zeros(a)
        total += a
        total += m.b(x)
        return m.c(total)

    graph = exact(net(body, a=(3, 4), b=(3, 4), c=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs") == classes(graph, "c.inputs")
    assert reasons(graph, "a.outputs") == FREE


@pytest.mark.parametrize("overwritten", [False, True])
def test_in_place_through_a_view_unites(overwritten: bool) -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[:, :, 1:] += m.b(x)[:, :, 1:]
        if overwritten:
            y[:, :, 0] = 0
        return m.c(y)

    graph = (held if overwritten else exact)(net(body, a=(3, 4), b=(3, 4), c=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs")


def test_shared_module_called_twice() -> None:
    graph = exact(net(lambda m, x: m.o(m.s(m.a(x)) * m.s(m.b(x))), a=(3, 4), b=(3, 4), s=(4, 5), o=(5, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs") == classes(graph, "s.inputs")
    assert len(set(classes(graph, "s.outputs"))) == 5
    assert reasons(graph, "s.outputs") == reasons(graph, "a.outputs") == FREE


def test_weights_tied_between_two_layers() -> None:
    def tied() -> Net:
        model = net(
            lambda m, x: m.p(m.o(m.d(m.c(m.a(m.first(x))).relu()))),
            first=(3, 6),
            a=(6, 4),
            c=(4, 4),
            d=(4, 4),
            o=(4, 5),
            p=(5, 2),
        )
        model.d.weight = model.c.weight
        return model

    exact(tied())


def test_weight_of_a_linear_layer_used_by_hand_the_other_way_round() -> None:
    """A decoder with its encoder's weights: rows of one are columns of the other, square or not."""
    for inner in (4, 6):
        model = net(
            lambda m, x: m.p(m.o(m.e(m.a(m.first(x)).mean((2, 3))).relu() @ m.e.weight)),
            first=(3, 6),
            a=(6, 4),
            e=nn.Linear(4, inner),
            o=nn.Linear(4, 5),
            p=nn.Linear(5, 2),
        )
        exact(model)


def test_weight_of_a_convolution_used_by_hand() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(m.first(x))
        return m.p(m.o(m.b(y) + F.conv2d(y.flip(2), m.b.weight.abs())))

    def alone(m: Net, x: Tensor) -> Tensor:
        return m.p(m.o(F.conv2d(m.a(m.first(x)), m.b.weight)))

    def back(m: Net, x: Tensor) -> Tensor:
        return m.p(m.o(F.conv_transpose2d(m.b(m.a(m.first(x))), m.b.weight)))

    for by_hand, inner in ((body, 4), (alone, 5), (back, 4)):
        graph = exact(net(by_hand, first=(3, 6), a=(6, 4), b=(4, inner), o=(inner, 5), p=(5, 2)))
        assert reasons(graph, "first.outputs") == reasons(graph, "o.outputs") == FREE


def test_a_norm_of_weights_used_by_hand() -> None:
    """A number computed from weights, as regularisers do it, changes when the weights shrink."""
    for number in (lambda b: b.weight.norm(), lambda b: b.bias.sum()):
        body = lambda m, x, of=number: m.p(m.o(m.b(m.a(m.first(x))) * of(m.b)))  # noqa: E731
        exact(net(body, first=(3, 6), a=(6, 4), b=(4, 5), o=(5, 4), p=(4, 2)))


def test_product_of_two_maps_unites_what_it_multiplies() -> None:
    graph = exact(net(lambda m, x: m.c(m.a(x) * m.b(x) - m.a(x) / 3), a=(3, 4), b=(3, 4), c=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs")


# Zero where channels are cut, whatever the image --------------------------------------------------------------------
def product(change: Callable[[Tensor, Tensor], Tensor], above: float) -> Net:
    """Two maps multiplied so that their channels meet, after a change where the image is brighter than that."""

    def body(m: Net, x: Tensor) -> Tensor:
        hot = x.amax(1, keepdim=True) > above
        left, right = (change(layer(x), hot).flatten(2) for layer in (m.a, m.c))
        return m.b((left.transpose(1, 2) @ right)[:, None])

    return net(body, a=(3, 4), c=(3, 4), b=(1, 2))


@pytest.mark.parametrize(
    "fill",
    [
        lambda y, hot: y.masked_fill(hot, 1.0),
        lambda y, hot: torch.where(hot, y + 1, y),
        lambda y, hot: torch.where(hot, 1.0, y),
        lambda y, hot: y.clone().masked_fill_(hot, 1.0),
        lambda y, hot: y + hot,
        lambda y, hot: torch.maximum(y, hot.float()),
    ],
    ids=["filled", "where", "literal", "in place", "added", "maximum"],
)
def test_what_another_image_fills_is_not_taken_for_zero(fill: Callable[[Tensor, Tensor], Tensor]) -> None:
    """On the example no position is hot; on one of which some are, the product sums over what was filled in."""
    graph = held(product(fill, above=100))
    assert reasons(graph, "a.outputs") == {"channels are mixed by bmm in the network's own code"}


@pytest.mark.parametrize(
    "gate",
    [
        lambda y, hot: y.masked_fill(hot, 0.0),
        lambda y, hot: torch.where(hot, torch.tensor(0.0), y),
        lambda y, hot: torch.where(hot, 0.0, y),
        lambda y, hot: y * hot,
        lambda y, hot: y / (1 + hot),
        lambda y, hot: torch.where(hot, y * 2, y).clamp(-torch.ones(1), torch.ones(1)),
    ],
    ids=["filled", "tensor", "literal", "times", "divided", "clamped"],
)
def test_what_stays_zero_whatever_the_image_is(gate: Callable[[Tensor, Tensor], Tensor]) -> None:
    graph = exact(product(gate, above=0.5))
    assert classes(graph, "a.outputs") == classes(graph, "c.outputs") and reasons(graph, "a.outputs") == FREE


@pytest.mark.parametrize(
    "double",
    [lambda y: y.sigmoid().mul_(2), lambda y: torch.mul(y, 2, out=torch.empty_like(y))],
    ids=["in place", "into another"],
)
def test_operations_in_place_are_done_once(double: Callable[[Tensor], Tensor]) -> None:
    seen = []

    def body(m: Net, x: Tensor) -> Tensor:
        doubled = double(m.a(x))
        seen.append(float(doubled.mean()))
        return m.b(doubled)

    trace(net(body, a=(3, 4), b=(4, 2)), IMAGE)
    assert len(seen) > 2 and set(seen) == {seen[0]}  # the first pass counts the work, unlabelled


def turned(y: Tensor) -> Tensor:
    """Neighbours as parts of one complex number, as rotary embeddings have them."""
    return torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (-1, 2)).contiguous()) * 1j).flatten(-2)


ALONG: dict[str, Callable[[Tensor, int], Tensor]] = {
    "cumsum": lambda y, d: y.cumsum(d),
    "cumprod": lambda y, d: (y + 2).cumprod(d),
    "sort": lambda y, d: y.sort(d)[0],
    "sort, stable": lambda y, d: torch.sort(y, dim=d, stable=True, descending=True)[0],
    "topk": lambda y, d: y.topk(2, d)[0].mean(d, keepdim=True) + y,
    "median": lambda y, d: y.median(d, keepdim=True)[0] * y,
    "kthvalue": lambda y, d: y.kthvalue(2, d, keepdim=True)[0] * y,
    "prod": lambda y, d: y.prod(d, keepdim=True) * y,
    "where it is largest": lambda y, d: y.argmax(d, keepdim=True) * y,
    "where each belongs": lambda y, d: y.argsort(d) * y,
    "spectrum": lambda y, d: torch.fft.irfft(torch.fft.rfft(y, dim=d) * 0.5, n=y.shape[d], dim=d),
    "complex spectrum": lambda y, d: torch.fft.ifft(torch.fft.fft(y, dim=d).exp(), dim=d).real,
}


@pytest.mark.parametrize("name", ALONG)
def test_along_positions_channels_pass_and_along_channels_they_stay(name: str) -> None:
    for dim in (2, 3, -1):
        model = net(lambda m, x, d=dim: m.b(ALONG[name](m.a(x), d)), a=(3, 6), b=(6, 2))
        assert reasons(exact(model), "a.outputs") == FREE
    held(net(lambda m, x: m.b(ALONG[name](m.a(x), 1)), a=(3, 6), b=(6, 2)))


def test_parts_of_complex_numbers() -> None:
    """Along positions each channel is turned by itself; two channels that are one number go together."""

    def body(dim: int) -> Callable[[Net, Tensor], Tensor]:
        return lambda m, x: m.b(turned(m.a(x).movedim(dim, -1)).movedim(-1, dim))

    graph = exact(net(body(3), a=(3, 6), b=(6, 2)))
    assert reasons(graph, "a.outputs") == FREE and len(set(classes(graph, "a.outputs"))) == 6
    pairs = classes(exact(net(body(1), a=(3, 6), b=(6, 2))), "a.outputs")
    assert pairs[::2] == pairs[1::2] and len(set(pairs)) == 3


def test_indices_are_not_zero_where_channels_are() -> None:
    """A channel of zeros is sorted as well: what is added to it there cannot go, unless it goes as a whole."""
    graph = exact(net(lambda m, x: m.b(m.a(x).sort(3)[1] + m.c(x)), a=(3, 5), b=(5, 2), c=(3, 5)))
    assert classes(graph, "a.outputs") == classes(graph, "c.outputs")
    assert reasons(graph, "a.outputs") == FREE
    mixed = net(lambda m, x: m.b(m.a(x).sort(3)[1].float().sum(1, keepdim=True)), a=(3, 5), b=(1, 2))
    held(mixed)


def test_where_no_dimension_is_named_it_is_the_last_or_all() -> None:
    assert reasons(exact(net(lambda m, x: m.b(m.a(x).sort()[0]), a=(3, 5), b=(5, 2))), "a.outputs") == FREE
    held(net(lambda m, x: m.b(m.a(x).sort()[0].transpose(1, 3).topk(2)[0].transpose(1, 3)), a=(3, 5), b=(2, 2)))
    held(net(lambda m, x: m.b(m.a(x) * m.a(x).median()), a=(3, 5), b=(5, 2)))
    held(net(lambda m, x: m.b(m.a(x) + m.a(x).argmax()), a=(3, 5), b=(5, 2)))
