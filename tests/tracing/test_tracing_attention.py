"""Attention: heads, contracted channels, and whether a channel that was cut counts as zero in a product."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import classes, noise, partners, reasons
from networks import FREE, Net, exact, held, net
from torch import Tensor, nn
from torch.nn import functional as F


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
    graph = exact(net(lambda m, x: m.c(m.b((y := m.a(x)) / y.shape[1])), a=(3, 4), b=(4, 5), c=(5, 2)))
    assert reasons(graph, "a.outputs") == {"width used as a number"}
    assert reasons(graph, "b.outputs") == FREE


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

    graph = held(net(body, a=(3, 4), l=nn.Linear(16, 2)))
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
        y = m.a(m.first(x)).mean((2, 3))
        return m.o(torch.addmm(first, y, m.w.t()) + torch.addmm(second, x[:, 0, 0, :4], m.w.t()))

    w, bias = nn.Parameter(noise(5, 4)), nn.Parameter(noise(10))
    graph = exact(net(body, first=(3, 6), a=(6, 4), w=w, bias=bias, o=nn.Linear(5, 2)))
    assert reasons(graph, "first.outputs") == FREE
    for axis in map(str, graph.axes):
        assert not axis.startswith("bias") or None not in reasons(graph, axis)


def test_attention_by_function_with_a_scale_of_its_own() -> None:
    """As timm writes it; the linear layer gets a transposed map, to which torch adds the bias in a step of its own."""

    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).flatten(2).transpose(1, 2)
        b, n, c = y.shape
        q, k, v = m.qkv(y).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        o = F.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2).reshape(b, n, c)
        return m.b((y + m.proj(o)).transpose(1, 2).reshape(b, c, *x.shape[2:]))

    layers = {"a": (3, 8), "qkv": nn.Linear(8, 24), "proj": nn.Linear(8, 8), "b": (8, 2)}
    graph = exact(net(body, **layers))
    assert reasons(graph, "qkv.outputs") == reasons(graph, "a.outputs") == FREE
