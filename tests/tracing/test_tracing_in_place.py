"""Dimensions that are moved in place, images that share a dimension with their channels, and reductions seldom met."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import conv, noise, reasons
from networks import FREE, Net, exact, held, net
from torch import Tensor, nn

from yoloprune.probing.examples import Example
from yoloprune.probing.operations import listing
from yoloprune.tracing.circular_padding import padded
from yoloprune.tracing.trace_network import trace

IMAGE = noise(1, 3, 5, 6)  # neither side is as long as there are channels

IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "unsqueeze_": lambda x: x.unsqueeze_(2).squeeze_(2),
    "unsqueeze_ in front": lambda x: x.unsqueeze_(0)[0],
    "transpose_ of the sides": lambda x: x.transpose_(2, 3),
    "transpose_ of the channels": lambda x: x.transpose_(1, -1).mul(2).transpose_(1, -1),
    "swapaxes_": lambda x: x.swapaxes_(1, 2).swapaxes_(2, 1),
    "squeeze_": lambda x: x.mean((2, 3), keepdim=True).squeeze_(3)[..., None],
    "t_": lambda x: x.mean((2, 3)).t_().mul(2).t_()[..., None, None],
}


@pytest.mark.parametrize("move", IN_PLACE.values(), ids=IN_PLACE)
def test_dimensions_moved_in_place(move: Callable[[Tensor], Tensor]) -> None:
    """The labels are of the shape from before: (1, 4, 5, 6), not the one that the tensor has by then."""
    graph = exact(net(lambda m, x: m.b(move(m.a(x).relu())), a=(3, 4), b=(4, 2)), IMAGE)
    assert reasons(graph, "a.outputs") == FREE


def test_dimensions_moved_in_place_are_moved_without_the_work_too() -> None:
    """Of a zero that stands for a whole map as of the map itself: what follows has the shape (1, 4, 6, 5)."""
    shapes: list[torch.Size] = []

    def body(m: Net, x: Tensor) -> Tensor:
        shapes.append((y := m.a(x).transpose_(2, 3)).shape)
        return y

    listing(net(body, a=(3, 4)), Example.of(IMAGE), training=False, hollow=True)
    assert shapes == [(1, 4, 6, 5)]


TOGETHER: dict[str, Callable[[Tensor], Tensor]] = {
    "with the channels": lambda x: x.reshape(1, -1, *x.shape[2:]).mul(2).reshape(x.shape),
    "as images": lambda x: x.flatten(0, 1).unsqueeze(1).mul(2).view(x.shape),
    "instance norm": lambda x: nn.functional.instance_norm(x),
}


@pytest.mark.parametrize("fold", TOGETHER.values(), ids=TOGETHER)
@pytest.mark.parametrize("images", [1, 2])
def test_images_that_share_a_dimension_with_channels(fold: Callable[[Tensor], Tensor], images: int) -> None:
    """All images have the same channels, however many there are: (2, 4) as 8 and back are 4 channels of 2 images."""
    graph = exact(net(lambda m, x: m.b(fold(m.a(x))), a=(3, 4), b=(4, 2)), noise(images, 3, 5, 6))
    assert reasons(graph, "a.outputs") == FREE


def test_instance_norm_of_two_images_with_a_scale_per_channel() -> None:
    layers = {"a": conv(3, 4), "norm": nn.InstanceNorm2d(4, affine=True), "b": conv(4, 2)}
    graph = exact(net(lambda m, x: m.b(m.norm(m.a(x))), **layers), noise(2, 3, 5, 6))
    assert reasons(graph, "a.outputs") == FREE


REDUCED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "cummax": lambda x, d: x.cummax(d)[0],
    "cummin": lambda x, d: x.cummin(d).values,
    "logcumsumexp": lambda x, d: x.logcumsumexp(d),
    "aminmax": lambda x, d: x - x.aminmax(dim=d, keepdim=True)[0],
    "any": lambda x, d: x * (x > 0.5).any(d, keepdim=True),
    "all": lambda x, d: x * (x > -0.5).all(d, keepdim=True),
    "attention": lambda x, d: nn.functional.scaled_dot_product_attention(x, x, x) if d == 2 else x.softmax(d),
}


@pytest.mark.parametrize("name", REDUCED)
def test_reductions_seldom_met(name: str) -> None:
    """Along the image each channel is by itself; along the channels they are mixed."""
    graph = exact(net(lambda m, x: m.b(REDUCED[name](m.a(x), 2)), a=(3, 4), b=(4, 2)), IMAGE)
    assert reasons(graph, "a.outputs") == FREE
    held(net(lambda m, x: m.b(REDUCED[name](m.a(x), 1)), a=(3, 4), b=(4, 2)), IMAGE)


@pytest.mark.parametrize("sides", [(1, 2, 3, 0), (0, 0, 5, 5), (6, 0, 0, 0)], ids=str)
def test_circular_padding(sides: tuple[int, ...]) -> None:
    """torch writes it into an empty tensor, piece by piece; what it gives is the same."""
    image = noise(2, 3, 5, 6)
    got = padded(image, sides, "circular")
    assert got is not None and torch.equal(got, nn.functional.pad(image, sides, "circular"))
    model = net(lambda m, x: m.b(nn.functional.pad(m.a(x), pad=sides, mode="circular")), a=(3, 4), b=(4, 2))
    assert reasons(exact(model, IMAGE), "a.outputs") == FREE


@pytest.mark.parametrize(("layer", "shape"), [(nn.Conv1d, (5,)), (nn.Conv2d, (5, 6)), (nn.Conv3d, (3, 5, 6))])
def test_layers_that_pad_in_a_circle(layer: type[nn.Module], shape: tuple[int, ...]) -> None:
    first, second = (layer(i, o, 3, padding=1, padding_mode="circular") for i, o in ((3, 4), (4, 2)))
    graph = exact(net(lambda m, x: m.b(m.a(x).relu()), a=first, b=second), noise(1, 3, *shape))
    assert reasons(graph, "a.outputs") == FREE


def test_padding_more_than_once_around_is_left_to_torch() -> None:
    assert padded(IMAGE, (7, 0), "circular") is None and padded(IMAGE, (-1, 0), "circular") is None
    assert padded(IMAGE, (1, 0), "reflect") is None and padded(IMAGE, (1, 0)) is None


def squares(y: Tensor) -> Tensor:
    """Products of maps, summed over their channels, of which those that are cut have to be zeros."""
    flat = y.flatten(2)
    return (flat.transpose(1, 2) @ flat).mean((1, 2))[:, None, None, None]


def by(view: Callable[[Tensor], Tensor], write: Callable[[Tensor, Tensor], object]) -> Net:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        write(view(y), x)
        return m.b(y) + squares(y)

    return net(body, a=(3, 8), b=(8, 2))


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "all of it": lambda y: y[:],
    "permuted": lambda y: y.permute(0, 2, 3, 1),
    "a row": lambda y: y[:, :, 0],
    "every other column": lambda y: y[..., ::2],
    "detached": lambda y: y.detach(),
    "a view of a view": lambda y: y.flatten(2).transpose(1, 2)[:, :1],
}


@pytest.mark.parametrize("name", VIEWS)
def test_what_is_written_through_another_name_is_no_zero(name: str) -> None:
    """At the image of the trace it writes zeros, so that only the rule knows."""
    graph = trace(by(VIEWS[name], lambda view, x: view.add_(x.mean().sub(30).relu())), IMAGE)
    assert FREE.isdisjoint(reasons(graph, "a.outputs"))


@pytest.mark.parametrize("name", VIEWS)
def test_what_keeps_zeros_may_be_written_through_any_name(name: str) -> None:
    assert reasons(exact(by(VIEWS[name], lambda view, _: view.mul_(2).relu_())), "a.outputs") == FREE


def test_a_layer_gives_zeros_whatever_is_written_into_what_it_gave_before() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        y[:].add_(1.0)
        z = m.c(y)
        return m.b(z) + squares(z)

    graph = exact(net(body, a=(3, 8), c=(8, 6), b=(6, 2)))
    assert reasons(graph, "c.outputs") == FREE
