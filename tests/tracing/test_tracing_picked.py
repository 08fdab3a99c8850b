"""Rows picked by index, and features inside boxes, as in detectors of two stages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from conftest import conv, noise, reasons
from networks import FREE, Net, exact, held, net
from torch import Tensor, nn

IMAGE = noise(1, 3, 12, 12)
BOXES = torch.tensor([[0.0, 1, 1, 9, 9], [0, 0, 3, 5, 11], [0, 2, 2, 4, 4]])


def test_features_inside_boxes() -> None:
    """A linear layer on what is inside, of boxes in another order."""

    def inside(m: Net, x: Tensor) -> Tensor:
        found = torchvision.ops.roi_align(m.b(m.a(x)), BOXES.to(x.dtype), (2, 2), 1.0, 2)
        return m.d(m.c(found.flatten(start_dim=1)).relu()[torch.tensor([2, 0])])

    model = net(inside, a=conv(3, 6, 3), b=conv(6, 6, 3), c=nn.Linear(24, 5), d=nn.Linear(5, 2))
    graph = exact(model, IMAGE)
    assert all(reasons(graph, f"{layer}.outputs") == FREE for layer in "abc")


Way = Callable[[Net, Tensor], Tensor]
FOLLOWED: dict[str, Way] = {
    "rows": lambda m, y: m.l(y.flatten(2).permute(0, 2, 1)[0][torch.tensor([3, 1, 1])]),
    "a mask of rows": lambda m, y: m.l(y.flatten(2).permute(0, 2, 1)[0][torch.arange(144) % 2 == 0]),
    "a mask of images and rows": lambda m, y: m.l(y.flatten(2).permute(0, 2, 1)[torch.arange(144)[None] % 3 == 0]),
    "a mask of two dimensions": lambda m, y: m.l(y.permute(0, 2, 3, 1)[torch.ones(1, 12, 12).bool()]),
    "images": lambda m, y: m.c(y[torch.tensor([0, 0])]),
    "positions": lambda m, y: m.c(y[:, :, torch.tensor([0, 1])]),
    "the last dimension": lambda m, y: m.c(y[..., torch.arange(11, -1, -1)]),
    "a mask of columns": lambda m, y: m.c(y[..., torch.arange(12) % 2 == 0]),
    "index_select": lambda m, y: m.c(y.index_select(3, torch.tensor([2, 0]))),
    "gather": lambda m, y: m.c(y.gather(2, torch.tensor([3, 1]).view(1, 1, 2, 1).expand(1, y.shape[1], 2, 12))),
    "gather by channels": lambda m, y: m.c(y.gather(3, y.argsort(3))),
    "windows": lambda m, y: m.c(y.unfold(3, 3, 1).mean(-1)),
    "windows of windows": lambda m, y: m.c(y.unfold(2, 4, 4).unfold(3, 4, 4).amax((-1, -2))),
}
HELD: dict[str, Way] = {
    "written with other channels": lambda m, y: m.c(torch.zeros_like(y).index_put((torch.tensor([0]),), m.b(y))),
    "an index of two dimensions": lambda m, y: m.l(y.flatten(2)[0].t()[torch.tensor([[3, 1], [1, 2]])]),
    "the channels": lambda m, y: m.c(y[:, torch.tensor([3, 1, 0, 2, 4, 5])]),
    "the channels by index_select": lambda m, y: m.c(y.index_select(1, torch.tensor([3, 1, 0, 2, 4, 5]))),
    "gather across channels": lambda m, y: m.c(y.gather(1, torch.zeros(1, 6, 12, 12, dtype=torch.int64))),
    "gather by a constant": lambda m, y: m.c(y.gather(2, torch.zeros(1, 6, 3, 12, dtype=torch.int64))),
    "gather from the first": lambda m, y: m.c(y.gather(2, y[:, :1].argsort(2)).expand(-1, 6, -1, -1)),
    "gather from one half": lambda m, y: m.c(
        (z := torch.stack(y.chunk(2, 1), 2)).gather(3, z[:, :, :1].argsort(3)).expand(-1, -1, 2, -1, -1).flatten(1, 2)
    ),
    "windows of channels": lambda m, y: m.c(y.unfold(1, 3, 1).flatten(4).mean(-1)[:, :1].expand(-1, 6, -1, -1)),
    "computed from channels": lambda m, y: m.l(y.flatten(2)[0].t()[y[0, :, 0, 0].argsort()]),
    "written with a constant": lambda m, y: m.c(y.clone().index_put_((torch.tensor([0]),), torch.ones(6, 12, 12))),
    "written with a number": lambda m, y: m.c(y.index_put((torch.tensor([0]),), torch.tensor(1.0))),
    "written into channels": lambda m, y: m.c(y.index_put((torch.tensor([0]), torch.tensor([1])), torch.ones(12, 12))),
    "written over what was zero": lambda m, y: m.c(torch.zeros_like(y).index_put_((torch.tensor([0]),), y[0].exp())),
}


def picking(way: Way) -> Net:
    """A convolution whose channels are picked, on one image."""
    return net(lambda m, x: way(m, m.a(x[:1])), a=conv(3, 6), b=conv(6, 6), c=conv(6, 2), l=nn.Linear(6, 2))


@pytest.mark.parametrize("way", FOLLOWED)
def test_channels_behind_an_index_are_followed(way: str) -> None:
    graph = exact(picking(FOLLOWED[way]), IMAGE)
    assert reasons(graph, "a.outputs") == FREE


@pytest.mark.parametrize("way", HELD)
def test_others_are_held(way: str) -> None:
    held(picking(HELD[way]), IMAGE)


def test_an_index_of_fewer_channels_is_held_as_what_it_picks_from() -> None:
    """It reads the first ones, as many as it has itself, so it has to keep its own number as well."""
    model = net(
        lambda m, x: (m.c(m.a(x).gather(2, (k := m.k(x)).argsort(2))), m.d(k)), a=(3, 6), k=(3, 4), c=(4, 2), d=(4, 2)
    )
    held(model, IMAGE)
