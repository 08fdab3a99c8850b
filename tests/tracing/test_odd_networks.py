"""Odd but valid pieces of networks: each is cut exactly, or refused with a clear error. Never wrong, never a crash.

Exactness is judged twice: by `verify`, and by an oracle that needs no hooks, a parent whose cut channels are dead by
their weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from conftest import conv, cut_copy, cutting_plan, noise, settle
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from yoloprune.cutting import comparison
from yoloprune.errors import VerifyError
from yoloprune.planning.plan import Plan
from yoloprune.tracing.trace_network import trace

SIDE, WIDTH = 6, 8
IMAGE = noise(2, 3, SIDE, SIDE)


# Layers that do something else with their tensors -------------------------------------------------------------------
class Gain(nn.Conv2d):
    """A convolution with a parameter of its own beside weight and bias."""

    def __init__(self, c: int) -> None:
        super().__init__(c, c, 1)
        self.before, self.after = nn.Parameter(noise(1, c, 1, 1)), nn.Parameter(noise(c, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.before) * self.after[:, None, None]


class Wrong(nn.Linear):
    """Reads its weight the other way round."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + F.linear(x, self.weight.t())


class Back(nn.Conv2d):
    """Uses its weight as that of a transposed convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight)


class Again(nn.Conv2d):
    """Applies its weight twice; what lies between is inside the layer, where no plan reaches."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, self.weight), self.weight, self.bias)


class Shifted(nn.BatchNorm2d):
    """Batch-norm with a parameter and a buffer of its own."""

    def __init__(self, c: int) -> None:
        super().__init__(c)
        self.shift = nn.Parameter(noise(c))
        self.register_buffer("fixed", noise(c, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (self.shift + self.fixed)[:, None, None]


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_pre_hook(lambda module, args: (args[0] * 2 + 1,))
    layer.register_forward_hook(lambda module, args, output: output.relu() * 2)
    return layer


class Odd(nn.Module):
    """A piece between two convolutions, or several with convolutions between them, and layers for them to use."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        c = WIDTH
        self.names = names
        self.stem, self.norm, self.out = conv(3, c, 3, bias=False), nn.BatchNorm2d(c), conv(c, 4)
        self.between = nn.ModuleList(conv(c, c) for _ in names)
        self.g, self.h, self.part = conv(c, c, 3), conv(c, c), conv(c // 2, c // 2)
        self.one, self.two, self.wide, self.fold = conv(c, 1), conv(2, 1, 3), conv(c, 3 * c), conv(2 * c, c)
        self.depthwise, self.grouped = conv(c, c, 3, groups=c), conv(c, c, 3, groups=2)
        self.linear, self.tokens = nn.Linear(c, c), nn.Linear(SIDE * SIDE, SIDE * SIDE)
        self.scale, self.flat, self.places = nn.Parameter(noise(c, 1, 1)), nn.Parameter(noise(c)), noise(c, SIDE, SIDE)
        self.special = nn.ModuleDict({n: SPECIAL[n]() for n in names if n in SPECIAL})

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x)).relu()
        for name, layer in zip(self.names, self.between, strict=True):
            y = layer(PIECES[name](self, y))
        return self.out(y)


# Pieces: functions of the network and a map of WIDTH channels, giving such a map ------------------------------------
def own(name: str) -> Callable[[Odd, Tensor], Tensor]:
    return lambda m, y: m.special[name](y)


def tokens(y: Tensor) -> Tensor:
    return y.flatten(2).transpose(1, 2)


def image(y: Tensor) -> Tensor:
    return y.transpose(1, 2).unflatten(2, (SIDE, SIDE))


def heads(m: Odd, y: Tensor, factor: float | None = 0.3) -> Tensor:
    q, k, v = m.wide(y).view(len(y), 2, -1, SIDE * SIDE).chunk(3, 2)
    return (v @ (q.transpose(-1, -2) @ k * (factor or q.shape[2] ** -0.5)).softmax(-1)).reshape(len(y), -1, SIDE, SIDE)


def stacked(y: Tensor, gates: Tensor, u: Tensor) -> Tensor:
    return (torch.stack([y, u], 1) * gates.view(len(y), 2, -1, 1, 1).softmax(1)).sum(1)


def written(y: Tensor, values: Tensor) -> Tensor:
    y[:, :2] = values[:, :2]
    return y


def remembered(m: Odd, y: Tensor) -> Tensor:
    m.cache = y
    return m.g(y) + m.cache


SPECIAL: dict[str, Callable[[], nn.Module]] = {
    "gain": lambda: Gain(WIDTH),
    "again": lambda: Again(WIDTH, WIDTH, 1),
    "back": lambda: Back(WIDTH, WIDTH, 1, bias=False),
    "shifted": lambda: Shifted(WIDTH),
    "hooked": lambda: hooked(conv(WIDTH, WIDTH)),
    "weight norm": lambda: parametrizations.weight_norm(conv(WIDTH, WIDTH, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(conv(WIDTH, WIDTH, 3)),
    "transposed": lambda: nn.ConvTranspose2d(WIDTH, WIDTH, 1),
    "circular": lambda: nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode="circular"),
    "group norm": lambda: nn.GroupNorm(2, WIDTH),
    "layer norm": lambda: nn.LayerNorm([WIDTH, SIDE, SIDE]),
    "instance norm": lambda: nn.InstanceNorm2d(WIDTH, affine=True),
    "norm without statistics": lambda: nn.BatchNorm2d(WIDTH, track_running_stats=False),
    "prelu": lambda: nn.PReLU(WIDTH),
    "shuffle module": lambda: nn.ChannelShuffle(2),
    "script": lambda: torch.jit.script(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU())),
    "wrong": lambda: Wrong(WIDTH, WIDTH, bias=False),
    "mha": lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True),
    "lstm": lambda: nn.LSTM(WIDTH, WIDTH, batch_first=True),
    "experts": lambda: nn.ModuleList(conv(WIDTH, WIDTH, 3) for _ in range(2)),
}
PIECES: dict[str, Callable[[Odd, Tensor], Tensor]] = {
    **{name: own(name) for name in SPECIAL},
    "wrong": lambda m, y: y + m.special["wrong"](y.mean((2, 3)))[:, :, None, None],
    "mha": lambda m, y: image(m.special["mha"](tokens(y), tokens(y), tokens(y), need_weights=False)[0]),
    "lstm": lambda m, y: image(m.special["lstm"](tokens(y))[0]),
    "experts": lambda m, y: torch.stack([m.special["experts"][i % 2](t[None])[0] for i, t in enumerate(y)]),
    "grouped": lambda m, y: m.grouped(y),
    "depthwise of a sum": lambda m, y: m.depthwise(y + m.h(y)),
    "shared": lambda m, y: m.g(m.g(y).relu()) + m.h(y),
    "weights by hand": lambda m, y: F.conv2d(y, m.g.weight, m.g.bias, padding=1),
    "weights by hand, too": lambda m, y: m.g(F.conv2d(y, m.g.weight, padding=1)),
    "bias by hand": lambda m, y: m.g(y) + m.h(y) * m.g.bias.view(1, -1, 1, 1),
    "called by keyword": lambda m, y: m.g(input=y),
    "one image at a time": lambda m, y: torch.stack([m.g(t) for t in y]),
    "shuffle": lambda m, y: y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2),
    "pixel shuffle": lambda m, y: F.pixel_unshuffle(F.pixel_shuffle(y, 2), 2),
    "squeeze and excite": lambda m, y: y * m.h(y.mean((2, 3), keepdim=True)).sigmoid(),
    "excite by linear": lambda m, y: y * m.linear(F.adaptive_avg_pool2d(y, 1).flatten(1))[:, :, None, None].sigmoid(),
    "spatial gate": lambda m, y: y * m.two(torch.stack([y.mean(1), y.amax(1)], 1)).sigmoid(),
    "one-channel gate": lambda m, y: y * m.one(y).sigmoid(),
    "selective kernels": lambda m, y: stacked(y, m.wide((y + m.g(y)).mean((2, 3), keepdim=True))[:, WIDTH:], m.g(y)),
    "einsum": lambda m, y: torch.einsum("bchw,oc->bohw", y, m.linear.weight),
    "einsum of gates": lambda m, y: torch.einsum("bchw,bc->bchw", y, y.mean((2, 3))),
    "attention": heads,
    "attention, scale by width": lambda m, y: heads(m, y, None),
    "scaled dot product": lambda m, y: image(F.scaled_dot_product_attention(*[tokens(f(y)) for f in (m.g, m.h, m.g)])),
    "channel attention": lambda m, y: (
        (y.flatten(2) @ m.g(y).flatten(2).transpose(1, 2)).softmax(-1) @ m.h(y).flatten(2)
    ).reshape(y.shape),
    "twice the same": lambda m, y: m.fold(torch.cat([y, y], 1)),
    "the same backwards": lambda m, y: m.fold(torch.cat([y, y.flip(1)], 1)) + y.flip(1),
    "rolled": lambda m, y: y + y.roll(1, 1),
    "halves": lambda m, y: torch.cat([(c := y.chunk(2, 1))[0] + m.part(c[1]), c[1]], 1),
    "halves by slice": lambda m, y: torch.cat([y[:, : y.shape[1] // 2], m.part(y[:, y.shape[1] // 2 :])], 1),
    "gated halves": lambda m, y: (lambda a, b: torch.cat([a * b.sigmoid(), a], 1))(*y.chunk(2, 1)),
    "maxout": lambda m, y: torch.cat([y.unflatten(1, (2, -1)).amax(1), y.unflatten(1, (-1, 2)).amax(2)], 1),
    "interleaved": lambda m, y: m.fold(torch.stack([y, m.g(y)], 2).flatten(1, 2)),
    "repeated": lambda m, y: m.fold(y.repeat(1, 2, 1, 1)) + m.fold(y.repeat_interleave(2, 1)),
    "remembered": remembered,
    "in place": lambda m, y: m.g(y.mul_(2).relu_()).add_(y),
    "written in place": lambda m, y: written(y, m.g(y)),
    "half in place": lambda m, y: (y.chunk(2, 1)[0].mul_(2), y)[1],
    "padded channels": lambda m, y: m.fold(F.pad(y, (0, 0, 0, 0, 4, 4))),
    "picked": lambda m, y: y[:, [3, 1, 2, 0, 4, 5, 6, 7]] + m.g(y),
    "best channels": lambda m, y: y.topk(WIDTH, 1)[0],
    "scaled": lambda m, y: y + m.scale * m.g(y) + m.flat[:, None, None],
    "softmax of weights": lambda m, y: y * m.flat.softmax(0)[:, None, None],
    "places": lambda m, y: y + m.places,
    "mixer": lambda m, y: image(m.linear(tokens(y))) + m.tokens(y.flatten(2)).view(y.shape),
    "pooled tokens": lambda m, y: F.max_pool2d(y.flatten(2), 3, 1, 1).view(y.shape),
    "normalised": lambda m, y: F.normalize(y, dim=1) + F.layer_norm(y, y.shape[2:]),
    "folded into the batch": lambda m, y: F.avg_pool2d(y.reshape(-1, 1, SIDE, SIDE), 3, 1, 1).view(y.shape),
    "other dimensions": lambda m, y: m.h(y[:, :, :1].transpose(1, 2).expand(-1, WIDTH, -1, -1)[:, :, :SIDE]),
    "sampled": lambda m, y: F.grid_sample(y, torch.zeros(len(y), SIDE, SIDE, 2), align_corners=False),
    "filtered": lambda m, y: torch.fft.irfft2(torch.fft.rfft2(y) * 0.5, s=y.shape[2:]),
    "through numpy": lambda m, y: m.g(torch.from_numpy(y.detach().numpy() * 2)),
    "dropped at random": lambda m, y: y + m.g(y) * (torch.rand(len(y), 1, 1, 1) > 0.5 if m.training else 1.0),
    "by its values": lambda m, y: m.g(y) if y.mean() > 0 else m.h(y),
    "by its width": lambda m, y: m.g(y) if y.shape[1] == WIDTH else y * 3,
    "divided by its width": lambda m, y: y / (y.shape[1] + 1) * len(y[0]) / y.numel() ** 0.5,
    "logarithm of its width": lambda m, y: y * math.log(y.shape[1]),
    "as often as it is wide": lambda m, y: sum(y for _ in range(y.shape[1])),
}
REFUSED = {"again", "logarithm of its width", "as often as it is wide"}
"""What the trace cannot see, and verification refuses: Python reads the number out of an `int` without asking it."""


def dead(model: nn.Module, plan: Plan) -> nn.Module:
    """The parent with weights of zero wherever the plan cuts: no hooks, no masks, and the same result."""
    model = copy.deepcopy(model)
    modules, loose = dict(model.named_modules()), {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, keep in plan.keep.items():
        outputs, inputs = (
            None if kept is None else np.setdiff1d(np.arange(of), kept)
            for kept, of in zip((keep.outputs, keep.inputs), keep.of, strict=True)
        )
        if (module := modules.get(name)) is None:
            if name in loose:  # else it is a number, which says how many there are
                loose[name].data.view(-1)[outputs] = 0
            continue
        across = getattr(module, "transposed", False)
        if outputs is not None:
            (module.weight.data.transpose(0, 1) if across else module.weight.data)[outputs] = 0
            if module.bias is not None:
                module.bias.data[outputs] = 0
        if inputs is not None:
            (module.weight.data if across else module.weight.data.transpose(0, 1))[inputs] = 0
    return model


def check(names: Sequence[str], seeds: Sequence[int]) -> None:
    torch.manual_seed(seeds[0])
    model = settle(Odd(names), IMAGE, seed=seeds[0]).eval()
    graph = trace(model, IMAGE)
    for seed in seeds:
        plan = cutting_plan(graph, seed)
        child = cut_copy(model, plan)
        for x in (IMAGE, torch.cat([IMAGE, IMAGE.flip(-1) * 1.5])):
            comparison.verify(model, child, plan, x)
        with torch.no_grad():
            expected, got = dead(model, plan)(IMAGE), child(IMAGE)
        assert (expected - got).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", [n for n in PIECES if n not in REFUSED])
def test_an_odd_piece_is_cut_exactly(name: str) -> None:
    check([name], seeds=(0, 1, 2))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_the_trace_cannot_see_is_refused(name: str) -> None:
    with pytest.raises(VerifyError, match=r"keep="):
        check([name], seeds=(0, 1, 2))


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.slow
def test_odd_pieces_in_a_row(seed: int) -> None:
    names = sorted(set(PIECES) - REFUSED)
    check([names[i] for i in np.random.default_rng(seed).permutation(len(names))[:4]], seeds=(seed, seed + 100))
