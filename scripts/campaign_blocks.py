"""Blocks that users build networks of: each takes and gives maps of one size, and draws its widths by chance."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (8, 12, 16, 24)
ACTIVATIONS = (nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.ELU)


class Own(nn.Module):
    """Layers by name, and what a forward pass does with them."""

    def __init__(self, does: Callable[[Any, Tensor], Any], /, **layers: Any) -> None:
        super().__init__()
        self.does = does
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        """Whatever it does."""
        return self.does(self, x)


class ScaleNorm(nn.Module):
    """A norm of a user's own: statistics per channel over the map, a scale and a shift."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(1, c, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(1, c, 1, 1) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """As an instance norm."""
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-3).sqrt() * self.scale + self.shift


class ChannelNorm(nn.Module):
    """Across channels, as ConvNeXt has it: every channel hangs on all."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(c) + 0.5), nn.Parameter(torch.randn(c) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each position."""
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias).permute(0, 3, 1, 2)


def conv(c: int, n: int, k: int = 1, **more: Any) -> nn.Conv2d:
    """A convolution that keeps the size of the map."""
    return nn.Conv2d(c, n, k, padding=more.pop("padding", k // 2), **more)


def unit(r: random.Random, c: int, n: int, k: int = 3, **more: Any) -> nn.Sequential:
    """A convolution, one of several norms, an activation."""
    norms: list[Callable[[], nn.Module]] = [lambda: nn.BatchNorm2d(n)] * 4
    norms += [nn.Identity, lambda: ScaleNorm(n), lambda: nn.InstanceNorm2d(n, affine=True), lambda: ChannelNorm(n)]
    norms.append(lambda: nn.GroupNorm(4, n))
    norm = r.choice(norms)()
    return nn.Sequential(conv(c, n, k, bias=r.random() < 0.5, **more), norm, r.choice(ACTIVATIONS)())


Block = Callable[[random.Random, int], tuple[nn.Module, int]]
"""From chance and a width to a module and the width that it gives."""
BLOCKS: dict[str, Block] = {}


def block(make: Block) -> Block:
    """Put a maker into the table under its name."""
    BLOCKS[make.__name__.replace("_", " ")] = make
    return make


@block
def plain(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """A convolution, norm and activation."""
    n = r.choice(WIDTHS)
    return unit(r, c, n, r.choice((1, 3, 5))), n


@block
def residual(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Two units and a sum, the second with a scale of its own in some."""
    n, scale = r.choice(WIDTHS), nn.Parameter(torch.rand(c, 1, 1) + 0.5)
    return Own(lambda m, x: x + m.scale * m.b(m.a(x)), a=unit(r, c, n), b=unit(r, n, c, 1), scale=scale), c


@block
def concat(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Branches side by side, the input among them."""
    n, k = r.choice(WIDTHS), r.choice(WIDTHS)
    return Own(lambda m, x: torch.cat([m.a(x), x, m.b(x)], 1), a=unit(r, c, n), b=unit(r, c, k, 1)), n + c + k


@block
def chunk(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Two halves, of which one goes on, as in C2f."""
    n = r.choice(WIDTHS)

    def body(m: Any, x: Tensor) -> Any:
        a, b = m.a(x).chunk(2, 1)
        return m.c(torch.cat([a, b, m.b(b) + b], 1))

    return Own(body, a=unit(r, c, 2 * n), b=unit(r, n, n), c=unit(r, 3 * n, c, 1)), c


@block
def split(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Part of the channels is convolved, as FasterNet has it."""
    n = c // 4

    def body(m: Any, x: Tensor) -> Any:
        a, b = x.split([n, x.shape[1] - n], 1) if r_literal else (x[:, : x.shape[1] // 4], x[:, x.shape[1] // 4 :])
        return torch.cat([m.a(a), b], 1)

    r_literal = r.random() < 0.5
    return Own(body, a=conv(n, n, 3)), c


@block
def squeeze(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Squeeze and excitation, by convolutions or by linear layers."""
    n = r.choice(WIDTHS)
    if r.random() < 0.5:
        gate: nn.Module = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(c, n), nn.ReLU(), conv(n, c), nn.Sigmoid())
        return Own(lambda m, x: x * m.gate(x), gate=gate), c
    gate = nn.Sequential(nn.Linear(c, n), nn.ReLU(), nn.Linear(n, c), nn.Sigmoid())
    return Own(lambda m, x: x * m.gate(x.mean((2, 3))).view(x.shape[0], -1, 1, 1), gate=gate), c


@block
def eca(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Efficient channel attention: a convolution along the channels."""

    def body(m: Any, x: Tensor) -> Any:
        y = m.a(x.mean((2, 3)).unsqueeze(1)).transpose(1, 2).unsqueeze(-1)
        return x * y.sigmoid().expand_as(x)

    return Own(body, a=nn.Conv1d(1, 1, 3, padding=1, bias=False)), c


@block
def shuffled_pixels(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Down by `pixel_unshuffle` or by views, up by `pixel_shuffle`."""
    n = r.choice(WIDTHS)

    def views(x: Tensor) -> Tensor:
        b, k, h, w = x.shape
        return x.view(b, k, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, k * 4, h // 2, w // 2)

    down = views if r.random() < 0.5 else functools.partial(F.pixel_unshuffle, downscale_factor=2)
    return Own(lambda m, x: F.pixel_shuffle(m.b(m.a(down(x))), 2), a=unit(r, 4 * c, n), b=conv(n, 4 * n)), n


@block
def gsconv(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """GSConv of Slim-neck: half of the channels by a depthwise layer, then shuffled."""
    n = r.choice(WIDTHS)

    def body(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        x = torch.cat([x, m.b(x)], 1)
        b, k, h, w = x.shape
        x = x.reshape(b * k // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, k // 2, h, w)
        return torch.cat([x[0], x[1]], 1)

    return Own(body, a=unit(r, c, n), b=conv(n, n, 5, groups=n)), 2 * n


@block
def shuffled_channels(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Groups and a channel shuffle, as ShuffleNet has it."""

    def body(m: Any, x: Tensor) -> Any:
        b, k, h, w = x.shape
        return m.b(m.a(x).view(b, 2, k // 2, h, w).transpose(1, 2).reshape(b, k, h, w))

    return Own(body, a=conv(c, c, 1, groups=2), b=conv(c, c, 3, groups=c)), c


@block
def depthwise(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """An inverted bottleneck."""
    n = r.choice(WIDTHS) * 2
    layers = [conv(c, n), nn.BatchNorm2d(n), nn.SiLU(), conv(n, n, 3, groups=n), nn.BatchNorm2d(n), conv(n, c)]
    return Own(lambda m, x: x + m.a(x), a=nn.Sequential(*layers)), c


@block
def grouped(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """A grouped convolution with several channels each."""
    return nn.Sequential(conv(c, 24), nn.BatchNorm2d(24), conv(24, 24, 3, groups=r.choice((2, 3, 4))), nn.ReLU()), 24


@block
def attention(r: random.Random, c: int) -> tuple[nn.Module, int]:
    """Self-attention over the map, written out, by `einsum`, or by torch's own function."""
    heads, n, how = r.choice((1, 2)), r.choice((4, 8)), r.randrange(3)

    def body(m: Any, x: Tensor) -> Any:
        b, _, h, w = x.shape
        q, k, v = m.qkv(x).view(b, heads, 3 * n, h * w).split([n, n, n], 2)
        if how == 0:
            y = v @ ((q.transpose(-2, -1) @ k) * n**-0.5).softmax(-1).transpose(-2, -1)
        elif how == 1:
            weights = (torch.einsum("bhcq,bhck->bhqk", q, k) * n**-0.5).softmax(-1)
            y = torch.einsum("bhqk,bhck->bhcq", weights, v)
        else:
            q, k, v = (t.transpose(-2, -1) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v).transpose(-2, -1)
        return x + m.out(y.reshape(b, heads * n, h, w))

    return Own(body, qkv=conv(c, 3 * n * heads), out=conv(n * heads, c)), c
