"""Functions whose arguments are given by name, in whatever order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import reasons
from networks import FREE, Net, exact, net
from torch import Tensor
from torch.nn import functional as F

from yoloprune.tracing.arguments import in_order

BY_NAME: dict[str, Callable[[Tensor], Tensor]] = {
    "unflatten": lambda y: torch.unflatten(input=y, sizes=(2, -1), dim=1).flatten(1, 2),
    "unflatten from the end": lambda y: y.unflatten(-3, (2, y.shape[1] // 2)).flatten(1, 2),
    "method unflatten": lambda y: y.unflatten(sizes=(2, -1), dim=1).flatten(1, 2),
    "reshape": lambda y: torch.reshape(input=y, shape=(y.size(dim=0), 2, -1, 6, 6)).flatten(1, 2),
    "split": lambda y: torch.cat(tensors=torch.split(dim=1, split_size_or_sections=y.shape[1] // 2, tensor=y), dim=1),
    "method split": lambda y: torch.cat(y.split(dim=1, split_size=y.shape[1] // 2), 1),
    "tensor_split": lambda y: torch.cat(torch.tensor_split(dim=1, sections=2, input=y), 1),
    "narrow": lambda y: torch.cat(
        [torch.narrow(length=y.shape[1] // 2, start=0, dim=1, input=y), y[:, y.shape[1] // 2 :]], 1
    ),
    "broadcast_to": lambda y: y + torch.broadcast_to(size=y.shape, input=y[:, :1].detach() * 0 + 1),
    "expand": lambda y: y * torch.ones(1, 1, 1, 1).expand(size=(-1, y.shape[1], 6, 6)),
    "tile": lambda y: torch.tile(dims=(1, 1, 1, 1), input=y),
    "repeat": lambda y: y.repeat(repeats=(1, 1, 1, 1)),
}


@pytest.mark.parametrize("form", BY_NAME.values(), ids=list(BY_NAME))
def test_a_function_that_is_called_by_name_is_followed(form: Callable[[Tensor], Tensor]) -> None:
    graph = exact(net(lambda m, x: m.b(form(m.a(m.first(x)))), first=(3, 6), a=(6, 8), b=(8, 2)))
    assert None in reasons(graph, "a.outputs")


def test_a_number_of_elements_holds_the_width() -> None:
    graph = exact(
        net(lambda m, x: m.b((y := m.a(m.first(x))) / torch.numel(input=y)), first=(3, 6), a=(6, 8), b=(8, 2))
    )
    assert reasons(graph, "a.outputs") == {"width used as a number"} and reasons(graph, "first.outputs") == FREE


def attention(m: Net, x: Tensor, **told: float) -> Tensor:
    """Two heads, whose queries are as wide as there are channels for."""
    y = m.a(x)
    b, _, h, w = y.shape
    q, k, v = (layer(y).view(b, 2, -1, h * w).transpose(2, 3) for layer in (m.q, m.k, m.v))
    out = F.scaled_dot_product_attention(query=q, key=k, value=v, **told)
    return m.o(out.transpose(2, 3).flatten(1, 2).unflatten(2, (h, w)))


LAYERS = {"a": (3, 8), "q": (8, 8), "k": (8, 8), "v": (8, 8), "o": (8, 2)}


def test_attention_without_a_scale_holds_the_width_that_it_divides_by() -> None:
    graph = exact(net(lambda m, x: attention(m, x), **LAYERS))
    held = {"attention without scale= divides by this width in the network's own code"}
    assert reasons(graph, "q.outputs") == reasons(graph, "k.outputs") == held
    assert reasons(graph, "v.outputs") == reasons(graph, "a.outputs") == FREE


def test_attention_with_a_scale_is_free() -> None:
    graph = exact(net(lambda m, x: attention(m, x, scale=0.3), **LAYERS))
    assert reasons(graph, "q.outputs") == reasons(graph, "v.outputs") == FREE


def test_positions_instead_of_names() -> None:
    assert in_order(torch.narrow, (), {"length": 4, "start": 0, "dim": 1, "input": 7}) == ((7, 1, 0, 4), {})
    assert in_order(Tensor.split, (7, 3), {"dim": 1}) == ((7, 3, 1), {})
    assert in_order(Tensor.split, (7,), {"dim": 1, "unknown": 2}) == ((7,), {"dim": 1, "unknown": 2})  # a gap
    assert in_order(torch.add, (7,), {"other": 1}) == ((7,), {"other": 1})
