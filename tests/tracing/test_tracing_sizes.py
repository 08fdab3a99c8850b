"""Widths that a network counts with, norms and pools beside channels or across them, and random networks."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import assert_exact, conv, noise, partners, reasons, settle
from networks import FREE, IMAGE, Net, exact, held, net
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.tracing.trace_network import trace

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
    assert None not in reasons(held(net(body, a=(3, 4), norm=norm, b=(3, 2))), "a.outputs")


@pytest.mark.parametrize(
    "norm, op",
    [
        (nn.LayerNorm([4, SIDE, SIDE]), "native_layer_norm"),
        (nn.GroupNorm(2, 4, affine=False), "native_group_norm"),
    ],
)
def test_norms_over_channels_say_why_they_are_frozen(norm: nn.Module, op: str) -> None:
    graph = held(net(lambda m, x: m.b(m.norm(m.a(x))), a=(3, 4), norm=norm, b=(4, 2)))
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
    graph = held(net(lambda m, x: m.b(pool(m.a(x))), a=(3, 4), b=(4, 2)))
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
def test_a_width_used_as_a_number_is_exact(use: Callable[[Net, Tensor], Tensor]) -> None:
    graph = held(net(lambda m, x: m.b(use(m, m.a(x))), a=(3, 8), b=(8, 2)))
    assert None not in reasons(graph, "a.outputs")


def test_a_number_of_the_kind_of_a_width_counts_no_channels() -> None:
    graph = exact(net(lambda m, x: m.b(m.a(x) * type(m.a(x).shape[1])(3)), a=(3, 4), b=(4, 2)))
    assert reasons(graph, "a.outputs") == FREE


def test_a_copied_width_is_still_one() -> None:
    graph = held(net(lambda m, x: m.b(m.a(x) / copy.deepcopy(m.a(x).shape[1])), a=(3, 4), b=(4, 2)))
    assert reasons(graph, "a.outputs") == {"width used as a number"}


def test_a_width_given_to_a_tensor_without_channels_is_exact() -> None:
    """`y` may not shrink while the running sum, which has no channels to cut, is viewed with its width."""
    graph = held(
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

    USED = {"c2f": {*"abd"}, "sppf": {*"ad"}, "shuffle": {"d"}, "gate": {*"ab"}, "attention": {*"abd"}, "odd": {*"ab"}}

    def __init__(self, kind: str, c: int) -> None:
        super().__init__()
        half = c // 2
        self.a = conv(c, 2 * half if kind == "c2f" else c, 3)
        self.b = conv(half, half) if kind == "c2f" else conv(c, c, 3, groups=c if kind == "depthwise" else 1)
        self.d = conv(3 * half if kind == "c2f" else 4 * c if kind == "sppf" else c, c)
        self.gamma = nn.Parameter(noise(c, 1, 1))
        self.bn = nn.BatchNorm2d(c)
        self.kind = "residual" if kind == "shuffle" and c % 2 else kind
        for name in {"a", "b", "d", "gamma", "bn"} - self.USED.get(self.kind, {"a", "b", "d", "gamma", "bn"}):
            delattr(self, name)  # what nobody calls holds all that it could read

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "c2f":
            u, v = self.a(x).chunk(2, 1)
            return self.d(torch.cat([u, v, v + self.b(v)], 1))
        if self.kind == "sppf":
            y = [self.a(x)]
            for _ in range(3):
                y.append(F.max_pool2d(y[-1], 3, 1, 1))
            return self.d(torch.cat(y, 1))
        if self.kind == "shuffle":
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
    image = torch.cat([IMAGE, IMAGE * -1])
    assert_exact(model, graph, image, seeds=(seed, seed + 100))
    sizes = [(t.sizes, {graph.groups[g].frozen for g in t.groups}) for t in graph.ties]
    assert all(r == FREE for _, r in sizes)
    tied = sorted(g for t in graph.ties for g in t.groups)
    assert tied == [g for g, group in enumerate(graph.groups) if group.frozen is None]  # a partition


# Numbers that no width can reach -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "ask", [lambda w: w == 0, lambda w: w <= 0, lambda w: w < 1, lambda w: w > -1, lambda w: w != 0, lambda w: not w]
)
def test_a_question_that_every_width_answers_alike_holds_nothing(ask: Callable[[int], bool]) -> None:
    graph = exact(net(lambda m, x: m.b(y * 3 if ask((y := m.a(x)).shape[1]) else y), a=(3, 4), b=(4, 2)))
    assert reasons(graph, "a.outputs") == FREE


@pytest.mark.parametrize("ask", [lambda w: w == 1, lambda w: w > 1, lambda w: w < 2])
def test_a_question_that_a_cut_could_answer_otherwise_holds(ask: Callable[[int], bool]) -> None:
    graph = held(net(lambda m, x: m.b(y * 3 if ask((y := m.a(x)).shape[1]) else y), a=(3, 4), b=(4, 2)))
    assert reasons(graph, "a.outputs") == {"width used as a number"}


def test_synchronised_batch_norm_is_cut_as_any_other() -> None:
    plain = net(lambda m, x: m.b(m.bn(m.a(x))), a=(3, 4), bn=nn.BatchNorm2d(4), b=(4, 2))
    graph = exact(nn.SyncBatchNorm.convert_sync_batchnorm(plain).eval())
    assert reasons(graph, "a.outputs") == FREE
