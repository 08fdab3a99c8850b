"""Further blocks that users build networks of; importing this file adds them to the table."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from campaign_blocks import WIDTHS, Own, block, conv, unit
from torch import Tensor, nn


@block
def library_attention(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Tokens through `nn.MultiheadAttention` or an encoder layer."""
    tokens = nn.MultiheadAttention(c, 2, batch_first=True)

    def body(m: Any, x: Tensor) -> Any:
        t = x.flatten(2).transpose(1, 2)
        t = t + m.a(t, t, t, need_weights=False)[0]
        return m.b(t).transpose(1, 2).view(x.shape)

    return Own(body, a=tokens, b=nn.Linear(c, c)), c


@block
def shared(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """One layer called twice, or one weight in two layers."""
    layer = unit(r, c, c)
    if r.random() < 0.5:
        return Own(lambda m, x: m.a(m.a(x)), a=layer), c
    other: Any = conv(c, c, 3)
    other.weight = layer.get_submodule("0").weight
    return Own(lambda m, x: m.a(x) + m.b(x), a=layer, b=other), c


@block
def loose_weights(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Weights that no layer holds, through `F.conv2d`, `F.linear` or a product."""
    n, how = r.choice(WIDTHS), r.randrange(3)
    weight = nn.Parameter(torch.randn(n, c, 1, 1) * 0.3)
    if how == 0:
        return Own(lambda m, x: F.conv2d(x, m.w).relu(), w=weight), n
    if how == 1:
        return Own(lambda m, x: F.linear(x.movedim(1, -1), m.w[..., 0, 0]).movedim(-1, 1), w=weight), n
    return Own(lambda m, x: torch.einsum("nc,bchw->bnhw", m.w[..., 0, 0], x), w=weight), n


@block
def pooled(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Pools of a pool, as SPPF has it."""
    n = r.choice(WIDTHS)

    def body(m: Any, x: Tensor) -> Any:
        y = [m.a(x)]
        for _ in range(3):
            y.append(F.max_pool2d(y[-1], 5, 1, 2))
        return m.b(torch.cat(y, 1))

    return Own(body, a=unit(r, c, n, 1), b=unit(r, 4 * n, c, 1)), c


@block
def spatial_attention(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """CBAM's second half: the mean and the largest of all channels."""

    def body(m: Any, x: Tensor) -> Any:
        return x * m.a(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()

    return Own(body, a=conv(2, 1, 7)), c


@block
def coordinates(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Coordinate attention: pools along rows and columns."""
    n = r.choice(WIDTHS)

    def body(m: Any, x: Tensor) -> Any:
        h, w = x.shape[2:]
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        y = m.a(torch.cat([rows, columns], 2))
        a, b = y.split([h, w], 2)
        return x * m.b(a).sigmoid() * m.c(b.transpose(2, 3)).sigmoid()

    return Own(body, a=unit(r, c, n, 1), b=conv(n, c), c=conv(n, c)), c


@block
def transposed(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Down by a stride, up by a transposed convolution."""
    n = r.choice(WIDTHS)
    return nn.Sequential(nn.Conv2d(c, n, 2, 2), nn.BatchNorm2d(n), nn.ReLU(), nn.ConvTranspose2d(n, c, 2, 2)), c


@block
def resized(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Down by a pool, up by interpolation, and a sum with what was not."""
    mode = r.choice(("nearest", "bilinear"))

    def body(m: Any, x: Tensor) -> Any:
        y = m.a(F.avg_pool2d(x, 2))
        return x + F.interpolate(y, size=x.shape[2:], mode=mode)

    return Own(body, a=unit(r, c, c)), c


@block
def einops_views(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """`b (g d) h w -> b g d (h w)`, a softmax over the map, and back."""
    g = 2

    def body(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        b, k, h, w = x.shape
        if k % g:
            raise ValueError("no such groups")
        y = x.reshape(b, g, k // g, h * w)
        return m.b((y * y.softmax(-1)).reshape(b, k, h, w))

    return Own(body, a=conv(c, c), b=conv(c, c)), c


@block
def tokens(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Tokens through a perceptron behind a norm across channels, as a transformer has it."""
    n = r.choice(WIDTHS)
    layers = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, n), nn.GELU(), nn.Linear(n, c))
    return Own(lambda m, x: x + m.a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), a=layers), c


@block
def dynamic(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """A gate that chooses between kernels, as CondConv and ODConv do."""
    weight = nn.Parameter(torch.randn(3, c, c, 3, 3) * 0.1)

    def body(m: Any, x: Tensor) -> Any:
        chosen = m.gate(x.mean((2, 3))).softmax(1)
        b, k, h, w = x.shape
        kernels = torch.einsum("be,eoikl->boikl", chosen, m.w).reshape(b * k, k, 3, 3)
        return F.conv2d(x.reshape(1, b * k, h, w), kernels, padding=1, groups=b).view(b, k, h, w)

    return Own(body, gate=nn.Linear(c, 3), w=weight), c


@block
def rolled(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Channels moved on by one, turned around, or taken by an index."""
    how = r.randrange(3)
    order = torch.randperm(c, generator=torch.Generator().manual_seed(r.randrange(99)))

    def body(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y = y.roll(1, 1) if how == 0 else y.flip(1) if how == 1 else y[:, m.order]
        return x + y

    made = Own(body, a=unit(r, c, c))
    made.register_buffer("order", order)
    return made, c


@block
def buffers(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """A buffer along the channels, and a mask of some."""
    made = Own(lambda m, x: m.a((x - m.mean) / m.std), a=unit(r, c, c))
    made.register_buffer("mean", torch.rand(1, c, 1, 1))
    made.register_buffer("std", torch.rand(1, c, 1, 1) + 0.5)
    return made, c


@block
def reparametrised(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """RepVGG in training: three branches that are summed."""
    parts = {
        "a": nn.Sequential(conv(c, c, 3, bias=False), nn.BatchNorm2d(c)),
        "b": nn.Sequential(conv(c, c, bias=False), nn.BatchNorm2d(c)),
        "n": nn.BatchNorm2d(c),
    }
    return Own(lambda m, x: (m.a(x) + m.b(x) + m.n(x)).relu(), **parts), c


@block
def maxout(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """The larger of two halves, a GLU, or a product of them."""
    how = r.randrange(3)

    def body(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        a, b = y.chunk(2, 1)
        return F.glu(y, 1) if how == 0 else torch.maximum(a, b) if how == 1 else a * b.sigmoid()

    return Own(body, a=unit(r, c, 2 * c)), c


@block
def stacked(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Branches stacked, weighted by a softmax over them, and summed: selective kernels."""

    def body(m: Any, x: Tensor) -> Any:
        y = torch.stack([m.a(x), m.b(x)], 1)
        gate = m.gate(y.sum(1).mean((2, 3), keepdim=True)).view(x.shape[0], 2, -1, 1, 1)
        return (y * gate.softmax(1)).sum(1)

    return Own(body, a=unit(r, c, c), b=unit(r, c, c, 1), gate=conv(c, 2 * c)), c


@block
def padded(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """A shortcut that is padded with channels of zeros, as the first ResNets have it."""
    return Own(lambda m, x: m.a(x) + F.pad(x, (0, 0, 0, 0, 0, 8)), a=unit(r, c, c + 8)), c + 8
