"""Blocks that others put into their detectors, in small: Slim-neck, RFAConv, FasterNet, ECA, DCNv2, ODConv."""

from __future__ import annotations

import torch
import torchvision
from conftest import conv, noise
from torch import Tensor, nn
from torch.nn import functional as F


class GSConv(nn.Module):
    """Half of the channels by a depthwise layer on the other half, then every second one of both."""

    def __init__(self, c: int, n: int) -> None:
        super().__init__()
        self.a, self.bn, self.b = (
            conv(c, n // 2, bias=False),
            nn.BatchNorm2d(n // 2),
            conv(n // 2, n // 2, 5, groups=n // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.bn(self.a(x)))
        y = torch.cat((y, self.b(y)), 1)
        b, c, h, w = y.shape
        y = y.reshape(b * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
        return torch.cat((y[0], y[1]), 1)


class RFAConv(nn.Module):
    """Nine values of every channel, weighted by a softmax over the nine, laid out as 3x3 patches."""

    def __init__(self, c: int, n: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(c, 9 * c, groups=c, bias=False))
        self.grow = nn.Sequential(conv(c, 9 * c, 3, groups=c, bias=False), nn.BatchNorm2d(9 * c), nn.ReLU())
        self.conv = nn.Conv2d(c, n, 3, stride=3)

    def forward(self, x: Tensor) -> Tensor:
        b, c = x.shape[:2]
        weight = self.weigh(x)
        h, w = weight.shape[2:]
        y = self.grow(x).view(b, c, 9, h, w) * weight.view(b, c, 9, h, w).softmax(2)
        y = y.view(b, c, 3, 3, h, w).permute(0, 1, 4, 2, 5, 3)  # einops: b c (n1 n2) h w -> b c (h n1) (w n2)
        return self.conv(y.reshape(b, c, h * 3, w * 3))


class PConv(nn.Module):
    """FasterNet: the first quarter is convolved, the rest passes; both widths are integers of the module."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.one, self.rest = c // 4, c - c // 4
        self.conv = conv(c // 4, c // 4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = torch.split(x, [self.one, self.rest], dim=1)
        return torch.cat((self.conv(first), rest), 1)


class Slicing(PConv):
    """Its form at inference, in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, : self.one] = self.conv(x[:, : self.one])
        return x


class ECA(nn.Module):
    """A gate for each channel by a convolution along all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.along = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.along(x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2))
        return x * y.transpose(-1, -2).unsqueeze(-1).sigmoid().expand_as(x)


class DCNv2(nn.Module):
    """Deformable convolution: where to read, and how much of it, by a convolution of its own."""

    def __init__(self, c: int, n: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(noise(n, c, 3, 3) * 0.2), nn.Parameter(noise(n))
        self.places = conv(c, 27, 3)

    def forward(self, x: Tensor) -> Tensor:
        one, two, mask = torch.chunk(self.places(x), 3, dim=1)
        offset = torch.cat((one, two), dim=1)
        return torchvision.ops.deform_conv2d(x, offset, self.weight, self.bias, padding=1, mask=mask.sigmoid())


class ODConv(nn.Module):
    """Omni-dimensional dynamic convolution: kernels are mixed for each image, and weighted along every dimension."""

    def __init__(self, c: int, n: int, kernels: int = 2, hidden: int = 4) -> None:
        super().__init__()
        self.c, self.n, self.kernels = c, n, kernels
        self.weight = nn.Parameter(noise(kernels, n, c, 3, 3) * 0.2)
        self.fc, self.bn = conv(c, hidden, bias=False), nn.BatchNorm2d(hidden)
        self.channel, self.filter = conv(hidden, c), conv(hidden, n)
        self.spatial, self.kernel = conv(hidden, 9), conv(hidden, kernels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.fc(F.adaptive_avg_pool2d(x, 1))).relu()
        spatial = self.spatial(y).view(x.size(0), 1, 1, 1, 3, 3).sigmoid()
        kernel = self.kernel(y).view(x.size(0), -1, 1, 1, 1, 1).softmax(1)
        b, _, h, w = x.size()
        x = (x * self.channel(y).sigmoid()).reshape(1, -1, h, w)
        weight = (spatial * kernel * self.weight.unsqueeze(0)).sum(1).view(-1, self.c, 3, 3)
        out = F.conv2d(x, weight, padding=1, groups=b)
        return out.view(b, self.n, out.size(-2), out.size(-1)) * self.filter(y).sigmoid()
