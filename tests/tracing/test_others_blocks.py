"""Blocks that others put into their detectors, in small: which channels may go, worked out by hand, and cut exactly.

Slim-neck, RFAConv, CARAFE, DySample, ECA, deformable convolution, ODConv and FasterNet write their shuffles, weights
and numbers in ways of their own. What is element-wise, a single slice or a single view stands beside its rule.
"""

from __future__ import annotations

import pytest
import torch
from blocks import ECA, DCNv2, GSConv, ODConv, PConv, RFAConv, Slicing
from conftest import classes, conv, cut_copy, noise, partners, reasons, without
from networks import FREE, IMAGE, Net, exact, held, net
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.cutting import comparison
from yoloprune.errors import PlanError
from yoloprune.planning.channel_graph import ChannelGraph


def loose(graph: ChannelGraph, axis: str) -> list[bool]:
    """Whether each channel of an axis may go."""
    return [bool(free) for free in graph.prunable[classes(graph, axis)]]


# Slim-neck ------------------------------------------------------------------------------------------------------------
def test_gsconv_loses_neighbours_together() -> None:
    """Channels 0 to 3 and their depthwise copies come as 0 2 0 2 1 3 1 3; with 0 alone gone, 1 would pair with 2."""
    model = net(lambda m, x: m.out(m.gs(x)), gs=GSConv(3, 8), out=(8, 2))
    graph = exact(model)
    first, partner, second, other = classes(graph, "gs.a.outputs")
    assert first == partner and second == other and first != second
    assert classes(graph, "gs.b.outputs") == [first, first, second, second]
    assert classes(graph, "out.inputs") == [first, second] * 4
    assert reasons(graph, "gs.a.outputs") == FREE
    plan = graph.plan(without(graph, "gs.a.outputs", [0, 1]))
    small = cut_copy(model, plan)
    assert (small.gs.a.out_channels, small.gs.b.groups, small.out.in_channels) == (2, 2, 4)
    assert torch.equal(small.out.weight, model.out.weight[:, [1, 3, 5, 7]])
    comparison.verify(model, small, plan, torch.cat([IMAGE, IMAGE * 2]))


def test_a_stage_of_slim_neck() -> None:
    """VoV-GSCSP: two GSConv in a row beside a shortcut, joined with another branch."""

    def body(m: Net, x: Tensor) -> Tensor:
        y = m.one(x)
        return m.out(m.join(torch.cat([m.two(x), m.g2(m.g1(y)) + m.short(y)], 1)))

    layers = {"one": (3, 8), "two": (3, 6), "g1": GSConv(8, 8), "g2": GSConv(8, 8), "short": (8, 8), "join": (14, 4)}
    graph = exact(net(body, **layers, out=(4, 2)))
    for name in ("one", "two", "g1.a", "g2.a", "short", "join"):
        assert reasons(graph, f"{name}.outputs") == FREE, name
    a, b, c, d = (classes(graph, "g2.a.outputs")[i] for i in (0, 2, 0, 2))
    assert classes(graph, "short.outputs") == [a, b, c, d] * 2


# Neighbourhoods that are weighted -------------------------------------------------------------------------------------
def test_rfaconv_loses_a_channel_with_its_nine_values() -> None:
    model = net(lambda m, x: m.out(m.rfa(m.a(x))), a=(3, 4), rfa=RFAConv(4, 5), out=(5, 2))
    graph = exact(model)
    a = classes(graph, "a.outputs")
    assert len(set(a)) == 4 and reasons(graph, "a.outputs") == reasons(graph, "rfa.conv.outputs") == FREE
    assert (
        classes(graph, "rfa.weigh.1.outputs")
        == classes(graph, "rfa.grow.0.outputs")
        == [i for i in a for _ in range(9)]
    )
    assert classes(graph, "rfa.conv.inputs") == a
    small = cut_copy(model, graph.plan(without(graph, "a.outputs", [2])))
    assert (small.rfa.grow[0].out_channels, small.rfa.grow[0].groups, small.rfa.conv.in_channels) == (27, 3, 3)


def test_a_softmax_over_values_taken_out_by_unfold() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        b, c, h, w = y.shape
        near = F.unfold(y, 3, padding=1).view(b, c, 9, h, w)
        return m.b((near * F.unfold(m.g(y), 3, padding=1).view(b, c, 9, h, w).softmax(2)).sum(2))

    graph = exact(net(body, a=(3, 4), g=conv(4, 4, groups=4), b=(4, 2)))
    assert classes(graph, "a.outputs") == classes(graph, "g.outputs") == classes(graph, "b.inputs")
    assert len(set(classes(graph, "a.outputs"))) == 4 and reasons(graph, "a.outputs") == FREE


def test_carafe_moves_channels_by_weights_that_stay() -> None:
    """The kernels are a softmax over all channels that make them, so these stay; what they move and hang on may go."""

    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        weight = F.pixel_shuffle(m.encode(m.small(y).relu()), 2).softmax(1)
        y = F.interpolate(y, scale_factor=2)
        b, c, h, w = y.shape
        near = F.unfold(y, 3, dilation=2, padding=2).view(b, c, -1, h, w)
        return m.b(torch.einsum("bkhw,bckhw->bchw", weight, near))

    graph = exact(net(body, a=(3, 6), small=(6, 4), encode=conv(4, 36, 3), b=(6, 2)))
    assert reasons(graph, "a.outputs") == reasons(graph, "small.outputs") == FREE
    assert reasons(graph, "encode.outputs") == {"channels are mixed by _softmax in the network's own code"}


# Pixels and heads as views --------------------------------------------------------------------------------------------
def test_channels_that_become_pixels_by_views_go_by_four() -> None:
    """Each channel of the larger map is made of four that follow each other, and is read as one behind."""

    def body(m: Net, x: Tensor) -> Tensor:
        n, c, h, w = (y := m.a(x)).shape
        y = y.view(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return m.b(y.reshape(n, c // 4, 2 * h, 2 * w))

    model = net(body, a=(3, 12), b=(3, 2))
    graph = exact(model)
    b = classes(graph, "b.inputs")
    assert len(set(b)) == 3 and classes(graph, "a.outputs") == [i for i in b for _ in range(4)]
    small = cut_copy(model, graph.plan(without(graph, "a.outputs", [4, 5, 6, 7])))
    assert torch.equal(small.b.weight, model.b.weight[:, [0, 2]])
    assert torch.equal(small.a.weight, model.a.weight[[0, 1, 2, 3, 8, 9, 10, 11]])


def test_heads_taken_apart_and_put_together_as_einops_does() -> None:
    """b (g d) h w -> b h w g d, a softmax over positions in each head, and back: heads lose equally many."""

    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        b, c, h, w = y.shape
        assert c % 2 == 0
        y = y.reshape(b, 2, c // 2, h, w).permute(0, 3, 4, 1, 2).reshape(b, h * w, 2, c // 2)
        y = y * y.softmax(1)
        return m.b(y.reshape(b, h, w, 2, c // 2).permute(0, 3, 4, 1, 2).reshape(b, c, h, w))

    graph = exact(net(body, a=(3, 8), b=(8, 2)))
    assert partners(graph, "a.outputs") == [(4, 4)]
    assert classes(graph, "b.inputs") == classes(graph, "a.outputs")
    with pytest.raises(PlanError, match="proportion"):
        graph.plan(without(graph, "a.outputs", [0]))


def test_dysample_takes_the_same_number_of_every_group() -> None:
    """Groups of channels are sampled at places of their own; the places stay, and each group keeps equally many."""

    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        b, _, h, w = y.shape
        offset = m.offset(x).view(b * 2, 2, h, w).permute(0, 2, 3, 1).tanh()
        y = F.grid_sample(y.reshape(b * 2, -1, h, w), offset, align_corners=False, padding_mode="border")
        return m.b(y.view(b, -1, h, w))

    graph = exact(net(body, a=(3, 8), offset=(3, 4), b=(8, 2)))
    assert partners(graph, "a.outputs") == [(4, 4)] and reasons(graph, "a.outputs") == FREE
    assert None not in reasons(graph, "offset.outputs")


# Numbers of their own -------------------------------------------------------------------------------------------------
def _faster(mixing: nn.Module) -> Net:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.out(y + m.down(m.bn(m.up(m.mix(y))).relu()))

    layers = {"a": (3, 8), "mix": mixing, "up": conv(8, 16, bias=False), "bn": nn.BatchNorm2d(16), "down": (16, 8)}
    return net(body, **layers, out=(8, 2))


def test_integers_of_a_partial_convolution_follow_what_they_count() -> None:
    model = _faster(PConv(8))
    graph = exact(model)
    for axis in ("a.outputs", "down.outputs", "mix.conv.inputs", "mix.conv.outputs", "up.outputs"):
        assert reasons(graph, axis) == FREE, axis
    assert classes(graph, "mix.one.number") == classes(graph, "a.outputs")[:2]
    plan = graph.plan(without(graph, "a.outputs", [1, 3, 4]))
    small = cut_copy(model, plan)
    assert (small.mix.one, small.mix.rest) == (1, 4)
    assert (model.mix.one, model.mix.rest) == (2, 6)
    comparison.verify(model, small, plan, torch.cat([IMAGE, IMAGE * 2]))


def test_a_partial_convolution_in_place_counts_its_own_part_alone() -> None:
    """`x[:, : self.one] = …`: the number follows its two channels, and the rest is nobody's."""
    graph = exact(_faster(Slicing(8)))
    assert loose(graph, "a.outputs") == loose(graph, "down.outputs") == [True] * 8
    assert classes(graph, "mix.one.number") == classes(graph, "a.outputs")[:2]
    assert not [axis for axis in graph.axes if axis.module == "mix.rest"]


def test_a_literal_in_a_split_of_joined_maps_holds_its_own_piece() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        a, b = m.a(x), m.b(x)
        big, small = torch.cat((a, b), 1).relu().split([a.shape[1], 4], 1)
        return m.c(big) + m.d(small)

    graph = exact(net(body, a=(3, 8), b=(3, 4), c=(8, 2), d=(4, 2)))
    assert loose(graph, "a.outputs") == [True] * 8
    assert reasons(graph, "b.outputs") == {"width written as a number in Net"}


# What is held, and why ------------------------------------------------------------------------------------------------
def test_a_gate_of_one_channel_holds_nothing_and_one_along_the_channels_all() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.out(m.eca(m.b(y * m.spatial(y).sigmoid().expand_as(y))))

    graph = exact(net(body, a=(3, 6), spatial=(6, 1), b=(6, 5), eca=ECA(), out=(5, 2)))
    assert reasons(graph, "a.outputs") == FREE
    assert reasons(graph, "b.outputs") == {"labels vary along the image in convolution in eca.along"}


def test_a_deformable_convolution_is_held_by_name() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        return m.out(m.b(m.dcn(m.a(m.first(x)))))

    graph = exact(net(body, first=(3, 6), a=(6, 4), dcn=DCNv2(4, 5), b=(5, 6), out=(6, 2)))
    for axis in ("a.outputs", "dcn.places.outputs", "dcn.bias.outputs"):
        assert reasons(graph, axis) == {"no rule for torchvision::deform_conv2d in dcn"}, axis
    assert reasons(graph, "first.outputs") == reasons(graph, "b.outputs") == FREE


def test_dynamic_weights_are_held_and_what_chooses_them_may_go() -> None:
    """Kernels are computed for each image, from weights of fixed width; the hidden layer of the gates is plain."""
    layers = {"a": (3, 6), "od": ODConv(6, 5), "b": (5, 6), "out": (6, 2)}
    graph = exact(net(lambda m, x: m.out(m.b(m.od(m.a(x)))), **layers))
    computed = {"computed weights of convolution in od"}
    assert reasons(graph, "a.outputs") == reasons(graph, "od.channel.outputs") == computed
    assert reasons(graph, "od.spatial.outputs") == {"width written as a number in ODConv od"}
    assert reasons(graph, "od.kernel.outputs") == {"channels are mixed by _softmax in od"}
    assert reasons(graph, "od.filter.outputs") == {"a tensor of fixed width meets channels in mul in od"}
    assert reasons(graph, "od.fc.outputs") == reasons(graph, "b.outputs") == FREE


def test_kernels_chosen_image_by_image_hold_the_whole_of_a_network() -> None:
    """The width becomes a factor of the batch, twice, and a kernel's own: nothing may go."""

    def body(m: Net, x: Tensor) -> Tensor:
        b, c, h, w = (y := m.a(x)).shape
        kernels = torch.einsum("be,eoi->boi", m.gate(y.mean((2, 3))).softmax(1), m.weight).reshape(b * c, c, 1, 1)
        return m.out(F.conv2d(y.reshape(1, b * c, h, w), kernels, groups=b).view(b, c, h, w))

    layers = {"a": (3, 6), "gate": nn.Linear(6, 2), "weight": nn.Parameter(noise(2, 6, 6)), "out": (6, 2)}
    graph = held(net(body, **layers))
    assert reasons(graph, "a.outputs") == {"width used as a number"}
