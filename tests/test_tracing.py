"""Channel identity through small plain networks: what is united, tied, repeated, frozen, and that cuts are exact."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import (
    assert_exact,
    classes,
    conv,
    cut_copy,
    noise,
    partners,
    reasons,
    settle,
    without,
)
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune import verify
from yoloprune.errors import ModelError, PlanError
from yoloprune.groups import ChannelGraph
from yoloprune.rules import RULES
from yoloprune.tracing import trace

IMAGE = noise(1, 3, 6, 6)
OUTPUT, INPUT = {"network output"}, {"fixed input"}
FREE = {None}


class Net(nn.Module):
    """Named layers and a function of them and the image."""

    def __init__(self, body: Callable[..., object], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> object:
        return self.body(self, x)


def net(body: Callable[..., object], **layers: object) -> Net:
    """A network with seeded weights; layers given as (inputs, outputs) are 1x1 convolutions."""
    torch.manual_seed(0)
    made = {k: conv(*v) if isinstance(v, tuple) else v for k, v in layers.items()}
    return settle(Net(body, **made)).eval()  # type: ignore[arg-type, return-value]


def exact(model: nn.Module, image: Tensor = IMAGE) -> ChannelGraph:
    """Trace, and check that random plans are cut exactly, also on a larger batch than the traced one."""
    graph = trace(model, image)
    assert_exact(model, graph, torch.cat([image, image.flip(-1) * 2]))
    return graph


# Layers ---------------------------------------------------------------------------------------------------------------
def chain() -> Net:
    return net(
        lambda m, x: m.b(m.bn(m.a(x)).relu()), a=conv(3, 4, 3, bias=False), bn=nn.BatchNorm2d(4), b=conv(4, 2, 3)
    )


def test_chain() -> None:
    graph = exact(chain())
    assert [str(a) for a in graph.axes] == ["a.outputs", "a.inputs", "bn.outputs", "b.outputs", "b.inputs"]
    assert [a.width for a in graph.axes] == [4, 3, 4, 2, 4]
    hidden = classes(graph, "a.outputs")
    assert len(set(hidden)) == 4
    assert hidden == classes(graph, "bn.outputs") == classes(graph, "b.inputs")
    assert reasons(graph, "a.outputs") == FREE
    assert reasons(graph, "a.inputs") == INPUT
    assert reasons(graph, "b.outputs") == OUTPUT
    assert {g.name: g.size for g in graph.groups} == {"a": 4, "a.inputs": 3, "b": 2}
    assert next(g.axes for g in graph.groups if g.name == "a") == ("a.outputs", "bn.outputs", "b.inputs")
    assert partners(graph, "a.outputs") == [(4,)]
    assert graph.unknown == {}


def test_residual_add_unites() -> None:
    graph = exact(net(lambda m, x: m.c((y := m.a(x)) + m.b(y).relu()), a=(3, 4), b=(4, 4), c=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs") == classes(graph, "b.inputs")
    assert classes(graph, "a.outputs") == classes(graph, "c.inputs")
    assert [g.size for g in graph.groups if g.frozen is None] == [4]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_concat_keeps_positions(order: tuple[str, str]) -> None:
    graph = exact(net(lambda m, x: m.c(torch.cat([getattr(m, k)(x) for k in order], 1)), a=(3, 4), b=(3, 3), c=(7, 2)))
    assert classes(graph, "c.inputs") == classes(graph, f"{order[0]}.outputs") + classes(graph, f"{order[1]}.outputs")
    assert sorted(partners(graph, "c.inputs")) == [(3,), (4,)]


def test_concat_of_one_group_four_times_repeats_its_positions() -> None:
    def sppf(m: Net, x: Tensor) -> Tensor:
        y = [m.a(x)]
        y += [p := F.max_pool2d(y[0], 3, 1, 1), F.max_pool2d(p, 3, 1, 1), F.max_pool2d(p, 5, 1, 2)]
        return m.b(torch.cat(y, 1))

    graph = exact(net(sppf, a=(3, 4), b=(16, 2)))
    assert classes(graph, "b.inputs") == classes(graph, "a.outputs") * 4
    plan = graph.plan(without(graph, "a.outputs", [1, 3]))
    assert plan.keep["a"].outputs == (0, 2)
    assert plan.keep["b"].inputs == (0, 2, 4, 6, 8, 10, 12, 14)


def test_concat_along_space_unites_channel_by_channel() -> None:
    graph = exact(net(lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], 2)), a=(3, 4), b=(3, 4), c=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs")


def test_concat_of_a_learned_token() -> None:
    """As in a vision transformer: a parameter of as many channels, put before the positions of the image."""

    def tokens(m: Net, x: Tensor) -> Tensor:
        y = torch.cat([m.token.expand(len(x), -1, -1), m.a(x).flatten(2).transpose(1, 2)], 1)
        return m.b(y)

    graph = exact(net(tokens, a=(3, 4), token=nn.Parameter(noise(1, 1, 4)), b=nn.Linear(4, 2)), torch.cat([IMAGE] * 2))
    assert classes(graph, "token.outputs") == classes(graph, "a.outputs") == classes(graph, "b.inputs")
    assert reasons(graph, "a.outputs") == FREE


def test_concat_with_a_constant_freezes_its_positions_only() -> None:
    def coordinates(m: Net, x: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, x.shape[3]).expand(len(x), 1, x.shape[2], x.shape[3])
        return m.b(torch.cat([m.a(x), ramp, -ramp], 1))

    graph = exact(net(coordinates, a=(3, 4), b=(6, 2)))
    assert classes(graph, "b.inputs")[:4] == classes(graph, "a.outputs")
    assert reasons(graph, "a.outputs") == FREE
    with pytest.raises(PlanError, match="fixed input"):
        graph.plan(without(graph, "b.inputs", [5]))


def test_depthwise_passes_channels_on() -> None:
    graph = exact(net(lambda m, x: m.b(m.d(m.a(x))), a=(3, 4), d=conv(4, 4, 3, groups=4), b=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "d.outputs") == classes(graph, "b.inputs")
    assert "d.inputs" not in {str(a) for a in graph.axes}


def test_depthwise_with_multiplier() -> None:
    model = net(lambda m, x: m.b(m.d(m.a(x))), a=(3, 4), d=conv(4, 8, 3, groups=4), b=(8, 2))
    graph = exact(model)
    assert classes(graph, "d.outputs") == np.repeat(classes(graph, "a.outputs"), 2).tolist()
    small = cut_copy(model, graph.plan(without(graph, "a.outputs", [0, 2])))
    assert (small.d.groups, small.d.in_channels, small.d.out_channels) == (2, 2, 4)
    assert torch.equal(small.d.weight, model.d.weight[[2, 3, 6, 7]])


def test_depthwise_on_the_image_is_frozen() -> None:
    graph = exact(net(lambda m, x: m.b(m.d(x)), d=conv(3, 6, 3, groups=3), b=(6, 2)))
    assert reasons(graph, "d.outputs") == INPUT


def test_grouped_convolution_is_frozen_on_both_sides() -> None:
    graph = exact(net(lambda m, x: m.c(m.g(m.a(x))), a=(3, 4), g=conv(4, 4, 3, groups=2), c=(4, 2)))
    assert reasons(graph, "a.outputs") == {"grouped convolution in g"}
    assert reasons(graph, "g.outputs") == {"grouped convolution g"}


def test_transposed_convolution() -> None:
    model = net(lambda m, x: m.b(m.t(m.a(x)).relu()), a=(3, 4), t=nn.ConvTranspose2d(4, 5, 2, 2), b=(5, 2))
    graph = exact(model)
    assert classes(graph, "t.inputs") == classes(graph, "a.outputs")
    assert classes(graph, "t.outputs") == classes(graph, "b.inputs")
    assert len(set(classes(graph, "t.outputs"))) == 5


def test_flatten_into_a_linear_layer() -> None:
    model = net(lambda m, x: m.l(F.adaptive_avg_pool2d(m.a(x), 7).flatten(1)), a=(3, 4), l=nn.Linear(4 * 49, 5))
    graph = exact(model, noise(1, 3, 14, 14))
    assert classes(graph, "l.inputs") == np.repeat(classes(graph, "a.outputs"), 49).tolist()
    small = cut_copy(model, graph.plan(without(graph, "a.outputs", [1])))
    assert small.l.in_features == 3 * 49
    assert torch.equal(small.l.weight, model.l.weight[:, [*range(49), *range(98, 196)]])


def test_linear_layers_on_tokens() -> None:
    def tokens(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        t = y.flatten(2).transpose(1, 2)
        t = t + m.l2(m.bn(m.l1(t).transpose(1, 2)).transpose(1, 2).relu())
        return m.b(t.transpose(1, 2).reshape(y.shape))

    layers = {"l1": nn.Linear(4, 8), "bn": nn.BatchNorm1d(8), "l2": nn.Linear(8, 4)}
    graph = exact(net(tokens, a=(3, 4), b=(4, 2), **layers))
    assert classes(graph, "a.outputs") == classes(graph, "l1.inputs") == classes(graph, "l2.outputs")
    assert classes(graph, "l1.outputs") == classes(graph, "bn.outputs") == classes(graph, "l2.inputs")


# Splits ---------------------------------------------------------------------------------------------------------------
def halves(m: Net, x: Tensor) -> Tensor:
    u, v = m.a(x).chunk(2, 1)
    return m.c(torch.cat([u, v, m.b(v) + v], 1))


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

    graph = exact(net(uneven, a=(3, 5), b=(3, 2), c=(2, 2)))
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
    assert reasons(exact(model), "a.outputs") == {"width written as a number in Net "}
    graph = trace(model, IMAGE, sized=lambda m: isinstance(m, Net))
    assert reasons(graph, "a.outputs") == FREE
    assert partners(graph, "a.outputs") == [(4, 4)]


@pytest.mark.parametrize(
    "pick",
    [
        lambda y: y[:, :2],
        lambda y: y[:, 0::2],
        lambda y: torch.stack([y[:, 0], y[:, 3]], 1),
        lambda y: torch.stack(y.unbind(1)[:2], 1),
        lambda y: y.roll(1, 1)[:, :2],
        lambda y: y.index_select(1, torch.tensor([2, 0])),
    ],
    ids=["slice", "steps", "select", "unbind", "roll", "index_select"],
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


@pytest.mark.parametrize(
    "shift",
    [lambda y: F.pad(y, (0, 0, 0, 0, 1, -1)), lambda y: y.narrow(1, 0, 4), lambda y: y.roll(1, 1)],
    ids=["pad", "narrow", "roll"],
)
def test_what_counts_channels_without_changing_their_number_is_frozen(shift: Callable[[Tensor], Tensor]) -> None:
    graph = exact(net(lambda m, x: m.b(shift(m.a(x))), a=(3, 4), b=(4, 2)))
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
    verify.verify(model, cut_copy(model, plan), plan, IMAGE)


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

    graph = exact(net(body, a=(3, 16 - constants), b=(8, 2), c=(8, 2)))
    assert None not in reasons(graph, "a.outputs")


# Element by element ---------------------------------------------------------------------------------------------------
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
    verify.verify(model, cut_copy(model, plan), plan, IMAGE)


def test_a_constant_of_the_same_width_freezes() -> None:
    graph = exact(net(lambda m, x: m.b(m.a(x) + torch.arange(4.0).view(-1, 1, 1)), a=(3, 4), b=(4, 2)))
    assert reasons(graph, "a.outputs") == {"a tensor of fixed width meets channels in add in "}


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
    if zeros is torch.zeros_like:
        assert classes(graph, "a.outputs") == classes(graph, "b.outputs") == classes(graph, "c.inputs")
        assert reasons(graph, "a.outputs") == FREE
    else:
        assert None not in reasons(graph, "a.outputs") | reasons(graph, "b.outputs")


def test_in_place_through_a_view_unites() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[:, :, 1:] += m.b(x)[:, :, 1:]
        y[:, :, 0] = 0
        return m.c(y)

    graph = exact(net(body, a=(3, 4), b=(3, 4), c=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs")


def test_shared_module_called_twice() -> None:
    graph = exact(net(lambda m, x: m.o(m.s(m.a(x)) * m.s(m.b(x))), a=(3, 4), b=(3, 4), s=(4, 5), o=(5, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs") == classes(graph, "s.inputs")
    assert len(set(classes(graph, "s.outputs"))) == 5
    assert reasons(graph, "s.outputs") == reasons(graph, "a.outputs") == FREE


def test_weights_tied_between_two_layers() -> None:
    def tied() -> Net:
        model = net(lambda m, x: m.o(m.d(m.c(m.a(x)).relu())), a=(3, 4), c=(4, 4), d=(4, 4), o=(4, 2))
        model.d.weight = model.c.weight
        return model

    exact(tied())


def test_weight_of_a_linear_layer_used_by_hand_the_other_way_round() -> None:
    """A decoder with its encoder's weights: rows of one are columns of the other, square or not."""
    for inner in (4, 6):
        model = net(
            lambda m, x: m.o(m.e(m.a(x).mean((2, 3))).relu() @ m.e.weight),
            a=(3, 4),
            e=nn.Linear(4, inner),
            o=nn.Linear(4, 2),
        )
        exact(model)


def test_weight_of_a_convolution_used_by_hand() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.o(m.b(y) + F.conv2d(y.flip(2), m.b.weight.abs()))

    exact(net(body, a=(3, 4), b=(4, 4), o=(4, 2)))
    exact(net(lambda m, x: m.o(F.conv2d(m.a(x), m.b.weight)), a=(3, 4), b=(4, 5), o=(5, 2)))
    exact(net(lambda m, x: m.o(F.conv_transpose2d(m.b(m.a(x)), m.b.weight)), a=(3, 4), b=(4, 4), o=(4, 2)))


def test_a_norm_of_weights_used_by_hand() -> None:
    """A number computed from weights, as regularisers do it, changes when the weights shrink."""
    exact(net(lambda m, x: m.o(m.b(m.a(x)) * m.b.weight.norm()), a=(3, 4), b=(4, 5), o=(5, 2)))
    exact(net(lambda m, x: m.o(m.b(m.a(x)) * m.b.bias.sum()), a=(3, 4), b=(4, 5), o=(5, 2)))


def test_product_of_two_maps_unites_what_it_multiplies() -> None:
    graph = exact(net(lambda m, x: m.c(m.a(x) * m.b(x) - m.a(x) / 3), a=(3, 4), b=(3, 4), c=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs")


# Attention ------------------------------------------------------------------------------------------------------------
def attention(m: Net, x: Tensor, scale: Callable[[Tensor], object] = lambda q: 0.5) -> Tensor:
    """Two heads; the values go back to the shape of what came in."""
    y = m.a(x)
    b, c, h, w = y.shape
    q, k, v = (layer(y).view(b, 2, -1, h * w) for layer in (m.q, m.k, m.v))
    weights = (q.transpose(-2, -1) @ k * scale(q)).softmax(-1)
    return m.o((v @ weights.transpose(-2, -1)).view(b, c, h, w))


LAYERS = {"a": (3, 8), "q": (8, 4), "k": (8, 4), "v": (8, 8), "o": (8, 2)}


def test_attention() -> None:
    graph = exact(net(attention, **LAYERS))
    assert classes(graph, "q.outputs") == classes(graph, "k.outputs")  # contracted
    assert len(set(classes(graph, "q.outputs"))) == 4
    assert partners(graph, "q.outputs") == [(2, 2)]  # equally many per head
    # v is of the shape of the map it came from: two heads of 4, tied to a's 8 channels, yet none the same channel
    assert sorted(partners(graph, "v.outputs")[0]) == [4, 4, 8]
    assert partners(graph, "v.outputs") == partners(graph, "a.outputs")
    assert not set(classes(graph, "v.outputs")) & set(classes(graph, "a.outputs"))
    assert classes(graph, "o.inputs") == classes(graph, "v.outputs")


@pytest.mark.parametrize(
    "scale",
    [lambda q: q.shape[2] ** -0.5, lambda q: 1 / math.sqrt(q.size(2)), lambda q: 1 / q.shape[2]],
    ids=["power", "sqrt", "division"],
)
def test_a_softmax_scale_from_the_width_is_the_parents(scale: Callable[[Tensor], object]) -> None:
    """A width used as a number of its own changes the result when it shrinks: it has to freeze what it counts."""
    graph = exact(net(lambda m, x: attention(m, x, scale), **LAYERS))
    assert None not in reasons(graph, "q.outputs")
    assert reasons(graph, "v.outputs") == FREE


def test_a_map_divided_by_its_width() -> None:
    exact(net(lambda m, x: m.b((y := m.a(x)) / y.shape[1]), a=(3, 4), b=(4, 2)))


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "elu": lambda t: F.elu(t) + 1,
    "softmax": lambda t: t.softmax(2),
    "clamp": lambda t: t.clamp(min=0.5),
    "threshold": lambda t: F.threshold(t, 0.1, 2.0),
    "power": lambda t: t**0,
    "maximum": lambda t: torch.maximum(t, torch.tensor(0.5)),
    "subtracted": lambda t: 1 - t,
    "added": lambda t: t.add(torch.ones(1)),
    "filled": lambda t: t.masked_fill(t < 0.3, 1.0),
    "where": lambda t: torch.where(t > 0, t, 1.0),
    "padded": lambda t: F.pad(t, (1, 1), value=1.0)[..., 1:-1] + F.pad(t, (0, 1), value=1.0)[..., 1:],
    "filled in place": lambda t: t.clone().fill_(1.0),
    "written in place": lambda t: t.clone().sigmoid_(),
    "ones": lambda t: torch.ones_like(t) + t,
}


@pytest.mark.parametrize("kernel", list(KERNELS.values()), ids=list(KERNELS))
def test_contracted_channels_that_are_not_zero_at_zero(kernel: Callable[[Tensor], Tensor]) -> None:
    """exp(q)·exp(k) of a cut channel is 1 in the masked parent and absent from the cut model."""

    def linear(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        q, k, v = (layer(y).flatten(2) for layer in (m.q, m.k, m.v))
        return m.o((v @ (kernel(k).transpose(1, 2) @ kernel(q))).view(y.shape))

    graph = exact(net(linear, **LAYERS))
    assert reasons(graph, "v.outputs") == FREE


def test_product_with_channels_beside_constants() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).flatten(2)
        weights = (m.q(x).flatten(2).transpose(1, 2) @ m.k(x).flatten(2)).softmax(-1)
        fixed = torch.cat([y, torch.ones(len(x), 2, y.shape[2])], 1)
        return m.o((fixed @ weights).unflatten(2, x.shape[2:]))

    graph = exact(net(body, a=(3, 4), q=(3, 4), k=(3, 4), o=(6, 2)))
    assert reasons(graph, "a.outputs") == FREE


def test_contraction_across_heads_unites_the_heads() -> None:
    """Each head's query meets every head's key: channel i of all heads is one class."""

    def body(m: Net, x: Tensor) -> Tensor:
        q, k = (layer(x).mean((2, 3)).view(len(x), 2, -1) for layer in (m.q, m.k))
        return m.l((q @ k.transpose(1, 2)).flatten(1))

    graph = exact(net(body, q=(3, 6), k=(3, 6), l=nn.Linear(4, 2)))
    q, k = classes(graph, "q.outputs"), classes(graph, "k.outputs")
    assert q[:3] == q[3:] == k[:3] == k[3:]
    assert len(set(q)) == 3


def test_gram_matrix_is_frozen() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).flatten(2)
        return m.l((y @ y.transpose(1, 2)).flatten(1))

    graph = exact(net(body, a=(3, 4), l=nn.Linear(16, 2)))
    assert None not in reasons(graph, "a.outputs")


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_multi_head_attention_module(positions: bool, weights: bool) -> None:
    """Packed weights that belong to no linear layer: nothing inside is cut, everything around may be.

    With positions added to queries and keys, as DETR does it, the packed weights and biases are taken apart.
    """

    def body(m: Net, x: Tensor) -> Tensor:
        y = m.b(m.a(x).relu())
        t = y.flatten(2).transpose(1, 2)
        q = t + torch.linspace(-1, 1, t.shape[1])[:, None] if positions else t
        return m.o(m.mha(q, q, t, need_weights=weights)[0].transpose(1, 2).reshape(y.shape))

    mha = nn.MultiheadAttention(8, 2, batch_first=True)
    nn.init.normal_(mha.in_proj_bias)
    graph = exact(net(body, a=(3, 4), b=(4, 8), o=(8, 2), mha=mha))
    assert reasons(graph, "a.outputs") == FREE
    for axis in map(str, graph.axes):
        assert not axis.startswith("mha.in_proj") or None not in reasons(graph, axis)


def test_a_bias_of_computed_weights() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        first, second = m.bias.chunk(2)
        y = m.a(x).mean((2, 3))
        return m.o(torch.addmm(first, y, m.w.t()) + torch.addmm(second, x[:, 0, 0, :4], m.w.t()))

    w, bias = nn.Parameter(noise(5, 4)), nn.Parameter(noise(10))
    graph = exact(net(body, a=(3, 4), w=w, bias=bias, o=nn.Linear(5, 2)))
    for axis in map(str, graph.axes):
        assert not axis.startswith("bias") or None not in reasons(graph, axis)


# What is not known ----------------------------------------------------------------------------------------------------
class Scan(nn.Module):
    """A running sum across channels: no rule, and rightly so."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


class Spectrum(nn.Module):
    """Filtering in the frequency domain."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * 0.5, s=x.shape[2:])


@pytest.mark.parametrize("module, op", [(Scan(), "cumsum"), (Spectrum(), "_fft_r2c")], ids=["cumsum", "fft"])
def test_unknown_operation_freezes_exactly_what_it_touches(module: nn.Module, op: str) -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).relu()
        return m.d(torch.cat([m.c(m.odd(m.b(y))), m.e(y)], 1))

    graph = exact(net(body, a=(3, 4), b=(4, 5), odd=module, c=(5, 6), e=(4, 3), d=(9, 2)))
    assert graph.unknown == {op: "odd"}
    assert reasons(graph, "b.outputs") == {f"no rule for {op} in odd"}
    assert reasons(graph, "c.inputs") == INPUT  # what comes out has no channel identity
    for name, width in (("a", 4), ("c", 6), ("e", 3)):
        assert reasons(graph, f"{name}.outputs") == FREE
        assert len(set(classes(graph, f"{name}.outputs"))) == width


def test_unknown_operation_on_two_maps_freezes_both() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        return m.c(torch.cdist(m.a(x), m.b(x)))

    graph = exact(net(body, a=(3, 4), b=(3, 4), c=(4, 2)))
    assert list(graph.unknown) == ["_cdist_forward"]
    assert None not in reasons(graph, "a.outputs") | reasons(graph, "b.outputs")


@pytest.mark.parametrize(
    "mix",
    [
        lambda y: y.softmax(1),
        lambda y: y - y.mean(1, keepdim=True),
        lambda y: y / y.norm(dim=1, keepdim=True),
        lambda y: F.normalize(y),
        lambda y: y - y.mean(),
        lambda y: y * y.amax(),
        lambda y: F.layer_norm(y, y.shape[1:]),
        lambda y: F.group_norm(y, 2),
        lambda y: y.sort(1)[0],
        lambda y: F.max_pool2d(y.transpose(1, 3), 3, 1, 1).transpose(1, 3),
        lambda y: F.avg_pool3d(y[:, None], 3, 1, 1)[:, 0],
        lambda y: F.local_response_norm(y, 3),
    ],
    ids=["softmax", "mean", "norm", "normalize", "all", "max", "layer_norm", "group_norm", "sort", "pool", "3d", "lrn"],
)
def test_mixing_channels_is_frozen(mix: Callable[[Tensor], Tensor]) -> None:
    graph = exact(net(lambda m, x: m.c(m.b(mix(m.a(x)))), a=(3, 4), b=(4, 5), c=(5, 2)))
    assert None not in reasons(graph, "a.outputs")
    assert reasons(graph, "b.outputs") == FREE


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm([4, 6, 6]), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)],
    ids=["layer", "group", "instance"],
)
def test_parameters_of_an_unknown_layer_are_frozen_with_it(norm: nn.Module) -> None:
    graph = exact(net(lambda m, x: m.c(m.b(m.norm(m.a(x)))), a=(3, 4), norm=norm, b=(4, 5), c=(5, 2)))
    assert reasons(graph, "b.outputs") == FREE
    for axis in map(str, graph.axes):
        assert not axis.startswith("norm") or None not in reasons(graph, axis)


class Own(nn.Module):
    """A layer that keeps its weights itself."""

    def __init__(self, *shape: int, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight, self.function = nn.Parameter(noise(*shape)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


def test_convolution_of_an_unknown_class() -> None:
    own = Own(5, 4, 1, 1, function=F.conv2d)
    graph = exact(net(lambda m, x: m.c(m.own(m.b(m.a(x)))), a=(3, 6), b=(6, 4), own=own, c=(5, 2)))
    assert reasons(graph, "a.outputs") == FREE


def test_linear_layer_of_an_unknown_class() -> None:
    own = Own(5, 4, function=lambda x, w: F.linear(x.mean((2, 3)), w))
    graph = exact(net(lambda m, x: m.c(m.own(m.b(m.a(x)))), a=(3, 6), b=(6, 4), own=own, c=nn.Linear(5, 2)))
    assert reasons(graph, "a.outputs") == FREE


def test_two_weights_in_one_module() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Parameter(noise(6, 4, 1, 1)), nn.Parameter(noise(5, 6, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(F.conv2d(x, self.first).relu(), self.second)

    graph = exact(net(lambda m, x: m.c(m.two(m.b(m.a(x)))), a=(3, 6), b=(6, 4), two=Two(), c=(5, 2)))
    assert reasons(graph, "a.outputs") == FREE


def test_computed_weights_are_frozen() -> None:
    def standardised(m: Net, x: Tensor) -> Tensor:
        w = m.b.weight
        return m.c(F.conv2d(m.a(x), (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)))

    graph = exact(net(standardised, a=(3, 4), b=(4, 5), c=(5, 2)))
    assert reasons(graph, "a.outputs") == {"computed weights of convolution in "}


def test_network_input_is_frozen_where_it_joins_channels() -> None:
    graph = exact(net(lambda m, x: m.b(m.a(x) + x), a=(3, 3), b=(3, 2)))
    assert None not in reasons(graph, "a.outputs")


# What the caller says -------------------------------------------------------------------------------------------------
def test_keep_freezes_the_outputs_of_the_named_modules() -> None:
    graph = trace(chain(), IMAGE, keep={"a": "keep=a"})
    assert reasons(graph, "a.outputs") == {"keep=a"}
    model = net(lambda m, x: m.c(m.b(m.a(x))), a=(3, 4), b=(4, 5), c=(5, 2))
    graph = trace(model, IMAGE, keep={"b": "keep=b*"})
    assert reasons(graph, "b.outputs") == {"keep=b*"}
    assert reasons(graph, "a.outputs") == FREE


def test_keep_freezes_what_is_tied_to_it() -> None:
    model = net(lambda m, x: m.o(torch.cat([m.s(h) for h in m.a(x).chunk(2, 1)], 1)), a=(3, 8), s=(4, 4), o=(8, 2))
    assert reasons(trace(model, IMAGE, keep={"s": "keep=s"}), "a.outputs") == FREE
    model = net(halves, a=(3, 8), b=(4, 4), c=(12, 2))
    kept = reasons(trace(model, IMAGE, keep={"b": "keep=b"}), "a.outputs")
    assert kept == {"keep=b", "tied to a[4:8]: keep=b"}


def test_frozen_parts_keep_what_they_make_and_follow_what_comes_in() -> None:
    """A head: its entrance follows the neck, depthwise layers included; what it makes stays."""
    head = nn.Sequential(conv(4, 4, 3, groups=4), nn.BatchNorm2d(4), conv(4, 6), nn.BatchNorm2d(6), conv(6, 2))
    model = settle(net(lambda m, x: m.head(m.a(x)), a=(3, 4), head=head, header=(3, 3)))
    graph = trace(model, IMAGE, frozen={"head": "Detect head"})
    assert reasons(graph, "a.outputs") == FREE
    assert classes(graph, "a.outputs") == classes(graph, "head.0.outputs") == classes(graph, "head.1.outputs")
    assert classes(graph, "a.outputs") == classes(graph, "head.2.inputs")
    assert reasons(graph, "head.2.outputs") == reasons(graph, "head.4.outputs") == {"Detect head"}
    assert_exact(model, graph, IMAGE)


def test_frozen_is_a_prefix_of_names_not_of_letters() -> None:
    model = net(lambda m, x: m.c(m.head(m.header(x))), header=(3, 4), head=(4, 5), c=(5, 2))
    graph = trace(model, IMAGE, frozen={"head": "head"})
    assert reasons(graph, "header.outputs") == FREE
    assert reasons(graph, "head.outputs") == {"head"}


def test_network_outputs_are_frozen_unless_asked_for() -> None:
    model = net(lambda m, x: {"one": [m.a(x)], "two": (m.b(x), 3)}, a=(3, 4), b=(3, 5))
    for axis in ("a.outputs", "b.outputs"):
        assert reasons(trace(model, IMAGE), axis) == OUTPUT
        assert reasons(trace(model, IMAGE, outputs=True), axis) == FREE


def test_a_model_that_does_not_run() -> None:
    with pytest.raises(ModelError, match=r"shape \(1, 5, 6, 6\)"):
        trace(chain(), noise(1, 5, 6, 6))


def test_a_rule_that_fails_names_the_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(call: object) -> None:
        raise IndexError("no such dimension")

    monkeypatch.setitem(RULES, "aten::relu", broken)
    with pytest.raises(ModelError, match="cannot follow relu in act: no such dimension"):
        trace(net(lambda m, x: m.b(m.act(m.a(x))), a=(3, 4), act=nn.ReLU(), b=(4, 2)), IMAGE)


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = conv(3, 4), conv(2, 4), conv(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.c(self.a(x) + self.b(y))

    graph = trace(Two(), (IMAGE, noise(1, 2, 6, 6)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs")


# What is left behind --------------------------------------------------------------------------------------------------
class Remembers(nn.Module):
    """Keeps what a detection head keeps: the last shape, anchors, and a buffer that counts."""

    shape: object = None

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b, self.drop = conv(3, 4), nn.BatchNorm2d(4), conv(4, 2), nn.Dropout(0.5)
        self.anchors, self.note = torch.empty(0), "kept"
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.anchors, self.shape = torch.ones(x.shape[2:]), x.shape
        if self.training:
            self.extra = x
        return self.b(self.drop(self.bn(self.a(x))))


@pytest.mark.parametrize("training", [False, True])
def test_a_trace_leaves_no_mark(training: bool) -> None:
    model = settle(Remembers()).train(training)
    model.bn.eval()
    anchors, state = model.anchors, copy.deepcopy(model.state_dict())
    flags = [m.training for m in model.modules()]
    names = [set(vars(m)) for m in model.modules()]
    parameters = {n: id(p) for n, p in model.named_parameters()}
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    trace(model, IMAGE)
    assert model.anchors is anchors
    assert model.shape is None
    assert [m.training for m in model.modules()] == flags
    assert [set(vars(m)) for m in model.modules()] == names
    assert {n: id(p) for n, p in model.named_parameters()} == parameters
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)
    assert torch.is_grad_enabled()


def test_a_trace_leaves_buffers_alone() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4), conv(4, 2)
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            self.seen += 1
            return self.b(self.a(x))

    model = Counts()
    trace(model, IMAGE)
    assert model.calls.item() == 0
    assert model.seen.item() == 0


def test_a_failed_trace_leaves_no_mark() -> None:
    model = Remembers().train()
    with pytest.raises(ModelError):
        trace(model, noise(1, 5, 6, 6))
    assert model.training
    assert model.drop.training
    assert model.shape is None
    chain()(IMAGE)  # no dispatch mode is left on


def test_layers_used_in_training_only_are_seen() -> None:
    def body(m: Net, x: Tensor) -> object:
        y = m.a(x)
        return (m.b(y), m.aux(y)) if m.training else m.b(y)

    model = net(body, a=(3, 4), b=(4, 2), aux=(4, 3))
    graph = exact(model)
    assert classes(graph, "aux.inputs") == classes(graph, "a.outputs")
    assert reasons(graph, "aux.outputs") == OUTPUT


def test_a_model_that_needs_targets_in_training_mode() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        if m.training:
            raise RuntimeError("where are the targets?")
        return m.b(m.a(x))

    assert reasons(trace(net(body, a=(3, 4), b=(4, 2)), IMAGE), "a.outputs") == FREE


# Widths and norms ----------------------------------------------------------------------------------------------------
SIDE = IMAGE.shape[-1]
PER_POSITION = {
    "layer": nn.LayerNorm([SIDE, SIDE]),
    "rows": nn.LayerNorm(SIDE),
    "plain": nn.LayerNorm([SIDE, SIDE], elementwise_affine=False),
}


@pytest.mark.parametrize("norm", PER_POSITION.values(), ids=PER_POSITION.keys())
def test_layer_norm_over_positions_is_free(norm: nn.LayerNorm) -> None:
    for p in norm.parameters():
        p.data = noise(*p.shape) + 1
    graph = exact(net(lambda m, x: m.b(m.norm(m.a(x))), a=(3, 4), norm=norm, b=(4, 2)))
    assert reasons(graph, "a.outputs") == FREE


def test_a_bias_of_positions_is_not_zero_where_channels_are_cut() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.norm(m.a(x)).flatten(2)
        return m.b(x) * (y.transpose(1, 2) @ y).mean(1).view(-1, 1, SIDE, SIDE)

    norm = nn.LayerNorm([SIDE, SIDE])
    norm.bias.data = noise(SIDE, SIDE)
    assert None not in reasons(exact(net(body, a=(3, 4), norm=norm, b=(3, 2))), "a.outputs")


@pytest.mark.parametrize(
    "norm, op", [(nn.LayerNorm([4, SIDE, SIDE]), "native_layer_norm"), (nn.GroupNorm(2, 4), "native_group_norm")]
)
def test_norms_over_channels_say_why_they_are_frozen(norm: nn.Module, op: str) -> None:
    graph = exact(net(lambda m, x: m.b(m.norm(m.a(x))), a=(3, 4), norm=norm, b=(4, 2)))
    assert reasons(graph, "a.outputs") == {f"channels share one mean in {op} in norm"}
    assert graph.unknown == {}


@pytest.mark.parametrize(
    "pool",
    [
        lambda y: F.max_pool2d(y.flatten(2), 3, 1, 1).view(y.shape),
        lambda y: F.avg_pool2d(y.flatten(2), 3, 1, 1).view(y.shape),
        lambda y: torch.stack([F.max_pool2d(i.transpose(0, 1), 3, 1, 1).transpose(0, 1) for i in y]),
    ],
    ids=["max", "average", "one image"],
)
def test_pooling_an_image_made_of_channels_and_positions_is_frozen(pool: Callable[[Tensor], Tensor]) -> None:
    graph = exact(net(lambda m, x: m.b(pool(m.a(x))), a=(3, 4), b=(4, 2)))
    assert None not in reasons(graph, "a.outputs")


def test_images_without_a_batch_dimension() -> None:
    graph = exact(net(lambda m, x: torch.stack([m.b(m.a(image)) for image in x]), a=conv(3, 4, 3), b=conv(4, 2, 3)))
    assert reasons(graph, "a.outputs") == FREE


@pytest.mark.parametrize(
    "use",
    [
        lambda m, y: y * 3 if y.shape[1] == 8 else y,
        lambda m, y: y * 3 if y.shape[1] != 8 else y,
        lambda m, y: y * 3 if y.shape[1] > 7 else y,
        lambda m, y: y * 3 if y.size(1) >= 8 else y,
        lambda m, y: y * 3 if y.shape[1] % 8 == 0 else y,
        lambda m, y: y * 3 if y.shape[1:] == (8, SIDE, SIDE) else y,
        lambda m, y: y / (y.shape[1] + 1),
        lambda m, y: y * (9 - y.shape[1]),
        lambda m, y: y * int(y.shape[1]),
        lambda m, y: y * (40 // y.shape[1]),
        lambda m, y: y / y.numel(),
        lambda m, y: y * len(y[0]),
        lambda m, y: y * torch.full((1,), y.shape[1]),
        lambda m, y: y * y.new_full((1,), fill_value=y.shape[1]),
        lambda m, y: y * torch.ones(1).repeat(y.shape[1]).sum(),
        lambda m, y: F.scaled_dot_product_attention(*[y.flatten(2).transpose(1, 2)] * 3).transpose(1, 2).view(y.shape),
    ],
)  # fmt: skip
def test_a_width_used_as_a_number_is_held(use: Callable[[Net, Tensor], Tensor]) -> None:
    graph = exact(net(lambda m, x: m.b(use(m, m.a(x))), a=(3, 8), b=(8, 2)))
    assert None not in reasons(graph, "a.outputs")


def test_a_width_given_to_a_tensor_without_channels_is_held() -> None:
    """`y` may not shrink while the running sum, which has no channels to cut, is viewed with its width."""
    graph = exact(
        net(
            lambda m, x: m.d(m.b(x).cumsum(1).view((y := m.a(x)).shape)) + m.e(y),
            a=(3, 8),
            b=(3, 8),
            d=(8, 2),
            e=(8, 2),
        )
    )
    assert reasons(graph, "a.outputs") == {"width used as a number"}


@pytest.mark.parametrize(
    "join",
    [
        lambda y, z: y * 3 if y.shape[1] == z.shape[1] else y,
        lambda y, z: y * 3 if y.shape == z.shape else y,
        lambda y, z: y * 3 if y.shape[1] < 2 * z.shape[1] else y,
    ],
    ids=["width", "shape", "order"],
)
def test_widths_that_are_compared_keep_their_proportion(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y, z = m.a(x), m.b(x)
        return m.d(torch.cat([join(y, z), m.c(z)], 1))

    graph = exact(net(body, a=(3, 8), b=(3, 8), c=(8, 4), d=(12, 2)))
    assert partners(graph, "a.outputs") == partners(graph, "b.outputs") == [(8, 8)]


def test_maps_repeated_along_the_image_are_free() -> None:
    graph = exact(net(lambda m, x: m.b(m.a(x).repeat(1, 1, 2, 2)), a=(3, 4), b=(4, 2)))
    assert reasons(graph, "a.outputs") == FREE


# Random networks ------------------------------------------------------------------------------------------------------
class Block(nn.Module):
    """One random step that keeps the width."""

    def __init__(self, kind: str, c: int) -> None:
        super().__init__()
        self.kind, self.even = kind, c % 2 == 0
        half = c // 2
        self.a = conv(c, 2 * half if kind == "c2f" else c, 3)
        self.b = conv(half, half) if kind == "c2f" else conv(c, c, 3, groups=c if kind == "depthwise" else 1)
        self.d = conv(3 * half if kind == "c2f" else 4 * c if kind == "sppf" else c, c)
        self.gamma = nn.Parameter(noise(c, 1, 1))
        self.bn = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "c2f":
            u, v = self.a(x).chunk(2, 1)
            return self.d(torch.cat([u, v, v + self.b(v)], 1))
        if self.kind == "sppf":
            y = [self.a(x)]
            for _ in range(3):
                y.append(F.max_pool2d(y[-1], 3, 1, 1))
            return self.d(torch.cat(y, 1))
        if self.kind == "shuffle" and self.even:
            b, c, h, w = x.shape
            return self.d(x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w))
        if self.kind == "gate":
            return x * self.b(self.a(x).mean((2, 3), keepdim=True)).sigmoid()
        if self.kind == "attention":
            q, k, v = (t.flatten(2) for t in (self.a(x), self.b(x), self.d(x)))
            return x + (v @ (q.transpose(1, 2) @ k * 0.1).softmax(-1)).view(x.shape)
        if self.kind == "odd":
            return self.b(self.a(x).cumsum(1))
        return x + self.gamma * self.d(self.b(F.silu(self.bn(self.a(x)))))  # residual, depthwise


class Stack(nn.Module):
    """A random stack of blocks, with joins back to earlier maps by sum or concatenation."""

    KINDS = ("c2f", "sppf", "shuffle", "gate", "attention", "odd", "residual", "depthwise")

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        c = int(rng.integers(4, 13))
        self.stem = conv(3, c, 3)
        self.blocks, self.joins = nn.ModuleList(), []
        widths = [c]
        for _ in range(int(rng.integers(3, 7))):
            self.blocks.append(Block(str(rng.choice(self.KINDS)), widths[-1]))
            widths.append(widths[-1])
            back = int(rng.integers(0, len(widths) - 1))
            how = str(rng.choice(["none", "none", "cat", "sum"]))
            how = "none" if how == "sum" and widths[back] != widths[-1] else how
            self.joins.append((how, back))
            if how == "cat":
                widths[-1] += widths[back]
        self.out = conv(widths[-1], 3)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                m.weight.data *= 3**0.5  # PyTorch's default shrinks the signal by that much in every layer

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for block, (how, back) in zip(self.blocks, self.joins, strict=True):
            y = block(maps[-1])
            y = torch.cat([y, maps[back]], 1) if how == "cat" else y + maps[back] if how == "sum" else y
            maps.append(F.silu(y))
        return self.out(maps[-1])


@pytest.mark.parametrize("seed", range(25))
def test_random_networks_are_cut_exactly(seed: int) -> None:
    model = settle(Stack(seed)).eval()
    graph = trace(model, IMAGE)
    assert_exact(model, graph, torch.cat([IMAGE, IMAGE * -1]), seeds=(seed, seed + 100))
    sizes = [(t.sizes, {graph.groups[g].frozen for g in t.groups}) for t in graph.ties]
    assert all(r == FREE for _, r in sizes)
    tied = sorted(g for t in graph.ties for g in t.groups)
    assert tied == [g for g, group in enumerate(graph.groups) if group.frozen is None]  # a partition
