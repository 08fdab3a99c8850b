"""Networks that switch `torch.inference_mode` on, whose composite operations torch hands on as they are called."""

from __future__ import annotations

import pytest
import torch
from conftest import conv, numbers, reasons
from networks import FREE, IMAGE, Net, exact, net
from torch import Tensor, nn

from yoloprune import Budget, Limits, prune_module

ANY = Limits(round_to=1, min_width=1)


class Decorated(Net):
    """A network whose forward pass is decorated, as is that of AutoShape."""

    @torch.inference_mode()
    def forward(self, x: Tensor) -> object:
        return super().forward(x)


def _with_norm(m: Net, x: Tensor) -> Tensor:
    y = m.bn(m.a(x)).relu()
    return m.b(nn.functional.max_pool2d(torch.cat([y.reshape(len(y), 2, -1, 6, 6).flatten(1, 2), y], 1), 2))


def _layers() -> dict[str, nn.Module]:
    return {"a": conv(3, 8, 3, bias=False), "bn": nn.BatchNorm2d(8), "b": conv(16, 2)}


def test_a_decorated_forward_pass_is_followed_as_any_other() -> None:
    plain = exact(net(_with_norm, **_layers()))
    torch.manual_seed(0)
    decorated = exact(Decorated(_with_norm, **_layers()).eval())
    assert reasons(decorated, "a.outputs") == FREE
    assert decorated.groups == plain.groups
    assert decorated.flops == plain.flops


def test_a_decorated_part_of_a_network() -> None:
    torch.manual_seed(0)
    part = Decorated(_with_norm, **_layers())
    graph = exact(net(lambda m, x: m.c(m.part(x).clone()), part=part, c=(2, 2)))
    assert reasons(graph, "part.a.outputs") == reasons(graph, "part.b.outputs") == FREE


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_call_from_within_gives_a_network_that_can_be_trained(mode: type[torch.no_grad]) -> None:
    model = net(_with_norm, **_layers())
    with mode():
        image = IMAGE + 0  # under inference mode a tensor that can never be trained on
        child, _ = prune_module(model, image, Budget(ratio=0.5), ANY)
    assert numbers(child) < numbers(model)
    assert all(p.requires_grad and not p.is_inference() for p in child.parameters())
    child(IMAGE).square().sum().backward()
    assert all(p.grad is not None for p in child.parameters())
