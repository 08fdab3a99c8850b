"""Constructions of other people's detectors, in small networks of our own: each is traced, cut, and proved.

The original repositories of YOLOv4, ScaledYOLOv4, YOLOR, YOLOv5, YOLOX and YOLOv7 build their networks of these.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import noise, reasons, settle
from networks import FREE, exact
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune import Budget, Limits, prune_module

IMAGE = noise(1, 3, 32, 32)


class Conv(nn.Sequential):
    """Convolution, batch-norm, activation, as all of these repositories have it."""

    def __init__(
        self, c_in: int, c_out: int, k: int = 1, s: int = 1, act: type[nn.Module] = nn.SiLU, g: int = 1
    ) -> None:
        super().__init__(nn.Conv2d(c_in, c_out, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(c_out), act())


class Implicit(nn.Module):
    """Implicit knowledge of YOLOR and YOLOv7's IDetect, added to the channels or multiplied with them."""

    def __init__(self, c: int, mean: float) -> None:
        super().__init__()
        self.implicit = nn.Parameter(mean + 0.2 * torch.randn(1, c, 1, 1))


class Added(Implicit):
    def forward(self, x: Tensor) -> Tensor:
        return self.implicit.expand_as(x) + x


class Multiplied(Implicit):
    def forward(self, x: Tensor) -> Tensor:
        return self.implicit.expand_as(x) * x


class ImplicitHead(nn.Module):
    """IDetect: anchors and classes in one dimension, taken apart by literals."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Conv(3, 16, 3, 2), Conv(16, 24, 3, 2)
        self.ia, self.m, self.im = Added(24, 0.0), nn.Conv2d(24, 3 * 7, 1), Multiplied(21, 1.0)
        self.mid = Multiplied(16, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.im(self.m(self.ia(self.b(self.mid(self.a(x))))))
        b, _, h, w = x.shape
        y = x.view(b, 3, 7, h, w).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
        return torch.cat([y[..., :2] * 2.0 - 0.5, (y[..., 2:4] * 2) ** 2, y[..., 4:]], -1).view(b, -1, 7)


class RepConv(nn.Module):
    """Three branches of YOLOv7 and YOLOv6 that are merged for deployment: 3x3, 1x1, and the input itself."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.rbr_identity = nn.BatchNorm2d(c_in) if c_in == c_out else None
        self.rbr_dense = nn.Sequential(nn.Conv2d(c_in, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out))
        self.rbr_1x1 = nn.Sequential(nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        itself = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return F.silu(self.rbr_dense(x) + self.rbr_1x1(x) + itself)


class Rep(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(Conv(3, 16, 3, 2), RepConv(16, 16), RepConv(16, 24), nn.Conv2d(24, 4, 1))


class Focus(nn.Module):
    """Every second pixel, four times, as channels: Focus of YOLOv5 and YOLOX, ReOrg of YOLOR and YOLOv7."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = Conv(4 * c_in, c_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], dim=1))


class Focused(nn.Sequential):
    """Of the image, and of channels, which it repeats."""

    def __init__(self) -> None:
        super().__init__(Focus(3, 12), Focus(12, 16), nn.Conv2d(16, 4, 1))


class Bottle(nn.Module):
    """A residual unit of Darknet."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.one, self.two = Conv(c, c, 1, act=nn.Mish), Conv(c, c, 3, act=nn.Mish)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(self.one(x))


class Darknet(nn.Module):
    """CSP stage with Mish, SPP, and the upper half of a route, as in YOLOv4 and YOLOv4-tiny."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.part, self.side = (Conv(i, 16, 3, s, nn.Mish) for i, s in ((3, 2), (16, 2), (16, 2)))
        self.units, self.after = nn.Sequential(Bottle(16), Bottle(16)), Conv(16, 16, act=nn.Mish)
        self.join, self.low, self.spp = Conv(32, 24, act=nn.Mish), Conv(24, 12, act=nn.LeakyReLU), Conv(48, 16)
        self.upper, self.out = Conv(8, 8, 3), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.low(self.join(torch.cat([self.after(self.units(self.part(x))), self.side(x)], 1)))
        x = self.spp(torch.cat([*(F.max_pool2d(x, k, 1, k // 2) for k in (13, 9, 5)), x], 1))
        half = x.chunk(2, 1)[1]
        return self.out(torch.cat([self.upper(half), x], 1))


class Decoupled(nn.Module):
    """YOLOX: a stem per level, two branches, three outputs that are joined and decoded; depthwise as in its nano."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Conv(3, 12, 3, 2), Conv(12, 16, 3, 2)
        self.stems = nn.ModuleList([Conv(12, 8), Conv(16, 8)])
        self.cls_convs = nn.ModuleList([nn.Sequential(Conv(8, 8, 3, g=8), Conv(8, 8)) for _ in range(2)])
        self.reg_convs = nn.ModuleList([nn.Sequential(Conv(8, 8, 3), Conv(8, 8, 3)) for _ in range(2)])
        self.cls, self.reg, self.obj = (nn.ModuleList([nn.Conv2d(8, n, 1) for _ in range(2)]) for n in (3, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        levels, made = [self.a(x)], []
        levels.append(self.b(levels[0]))
        for k, level in enumerate(levels):
            y = self.stems[k](level)
            cls, reg = self.cls_convs[k](y), self.reg_convs[k](y)
            made.append(torch.cat([self.reg[k](reg), self.obj[k](reg).sigmoid(), self.cls[k](cls).sigmoid()], 1))
        shapes = [m.shape[-2:] for m in made]
        out = torch.cat([m.flatten(start_dim=2) for m in made], dim=2).permute(0, 2, 1)
        cells = [torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), 2) for h, w in shapes]
        grids = torch.cat([cell.view(1, -1, 2) for cell in cells], dim=1).type(out.dtype)
        strides = torch.cat([torch.full((1, h * w, 1), 2.0 ** (k + 1)) for k, (h, w) in enumerate(shapes)], dim=1)
        return torch.cat([(out[..., :2] + grids) * strides, out[..., 2:4].exp() * strides, out[..., 4:]], dim=-1)


class Elan(nn.Module):
    """YOLOv7: outputs of a chain of convolutions joined, then halved by pooling beside a strided convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.one, self.two = Conv(3, 12, 3, 2), Conv(12, 8), Conv(12, 8)
        self.three, self.four = (nn.Sequential(Conv(8, 8, 3), Conv(8, 8, 3)) for _ in range(2))
        self.join, self.pooled = Conv(32, 16), nn.Sequential(nn.MaxPool2d(2, 2), Conv(16, 8))
        self.strided, self.out = nn.Sequential(Conv(16, 8), Conv(8, 8, 3, 2)), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        one, two = self.one(x), self.two(x)
        x = self.join(torch.cat([four := self.four(three := self.three(two)), three, two, one], 1))
        assert four.ndim == 4
        return self.out(torch.cat([self.strided(x), self.pooled(x)], 1))


class TransformerLayer(nn.Module):
    """YOLOv5 without its layer norms."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(c, c, bias=False) for _ in range(3))
        self.ma = nn.MultiheadAttention(embed_dim=c, num_heads=heads)
        self.fc1, self.fc2 = nn.Linear(c, c, bias=False), nn.Linear(c, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ma(self.q(x), self.k(x), self.v(x))[0] + x
        return self.fc2(self.fc1(x)) + x


class Transformer(nn.Module):
    """C3TR: a transformer on the positions of the image in one of the two branches."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.a, self.one, self.two = Conv(3, 12, 3, 4), Conv(12, c), Conv(12, c)
        self.linear, self.tr = nn.Linear(c, c), nn.Sequential(*(TransformerLayer(c, 2) for _ in range(2)))
        self.join, self.out = Conv(2 * c, 12), nn.Conv2d(12, 4, 1)
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.one(x)
        b, _, h, w = y.shape
        p = y.flatten(2).permute(2, 0, 1)
        y = self.tr(p + self.linear(p)).permute(1, 2, 0).reshape(b, self.c, h, w)
        return self.out(self.join(torch.cat([y, self.two(x)], 1)))


FAMILIES: dict[str, tuple[Callable[[], nn.Module], str, list[str]]] = {
    "implicit knowledge": (ImplicitHead, "a.0 b.0", ["ia.implicit", "mid.implicit"]),
    "RepConv with identity": (Rep, "0.0 1.rbr_dense.0 2.rbr_1x1.0", ["1.rbr_identity"]),
    "Focus": (Focused, "0.conv.0 1.conv.0", []),
    "CSP and SPP of Darknet": (Darknet, "stem.0 part.0 side.0 units.1.one.0 after.0 join.0 low.0 spp.0 upper.0", []),
    "decoupled head": (Decoupled, "a.0 b.0 stems.1.0 cls_convs.0.0.0 cls_convs.1.1.0 reg_convs.0.1.0", []),
    "ELAN and MP": (Elan, "a.0 one.0 two.0 three.1.0 four.0.0 join.0 pooled.1.0 strided.1.0", []),
    "transformer block": (Transformer, "a.0 two.0 tr.0.fc1 tr.1.fc1 join.0", []),
}
"""Of each construction the network, layers whose channels may all go, and what follows them."""


@pytest.mark.parametrize("name", FAMILIES)
def test_pruned_exactly(name: str) -> None:
    build, free, following = FAMILIES[name]
    torch.manual_seed(0)
    model = settle(build()).eval()
    graph = exact(model, IMAGE)
    for layer in [*free.split(), *following]:
        assert reasons(graph, f"{layer}.outputs") == FREE, layer
    made = prune_module(model, IMAGE, Budget(ratio=0.3), Limits(round_to=1, min_width=1), score="random")
    assert made.error < 1e-4 and made.after["flops"] < made.before["flops"]
    touched = set(made.plan.keep)
    assert touched & set(free.split())
    rebuilt = made.model.train()(torch.cat([IMAGE, IMAGE]))  # as its own trainer runs it
    assert rebuilt.isfinite().all()
