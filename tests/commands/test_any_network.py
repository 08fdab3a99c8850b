"""Networks that Ultralytics did not build, through `prune_module`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import settle
from torch import nn

from yoloprune import Budget, Limits, prune_module, rebuild
from yoloprune.backend import console
from yoloprune.cutting import trial_cut
from yoloprune.errors import ArgumentError, BudgetError, VerifyError

torchvision = pytest.importorskip("torchvision")
FREE = Limits(round_to=1, min_width=1, max_ratio=0.9)


def _channels(model: nn.Module) -> int:
    return sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.long
@pytest.mark.parametrize("name", ["vgg11_bn", "resnet50", "mobilenet_v3_large", "densenet121"])
@pytest.mark.slow
def test_torchvision(name: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64)
    model = settle(getattr(torchvision.models, name)(weights=None), x).eval()
    before = {n: p.shape for n, p in model.named_parameters()}
    pruned, plan = prune_module(model, x, Budget(ratio=0.5), FREE)  # verifies against the masked parent itself
    assert pruned(x).shape == (2, 1000)  # the output keeps its width
    assert {type(m) for m in pruned.modules()} == {type(m) for m in model.modules()}
    assert {n: p.shape for n, p in model.named_parameters()} == before  # the parent is left alone
    assert 0.35 < _channels(pruned) / _channels(model) < 0.65
    assert len(plan) > 10


@pytest.mark.long
@pytest.mark.slow
def test_plain_chain_quarters_its_parameters(tmp_path: Path) -> None:
    """Half of every width, output layer included: 9 * (3*16 + 16*32 + … + 1024*2048) = 25.16 M of 100.66 M. Saved whole
    and as a state dict, which a rebuilt network takes, it is the same to the bit.
    """
    torch.manual_seed(0)
    widths = [3, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.ReLU()]
    model = nn.Sequential(*layers)
    limits = Limits(round_to=1, min_width=1, max_ratio=1, uniform=True)
    x = torch.rand(1, 3, 8, 8)
    pruned, plan = prune_module(model, x, Budget(ratio=0.5), limits, outputs=True)
    expected = 9 * (3 * 16 + sum(a // 2 * (b // 2) for a, b in itertools.pairwise(widths[1:])))
    assert sum(p.numel() for p in model.parameters()) == 100_658_016
    assert sum(p.numel() for p in pruned.parameters()) == expected == 25_164_720
    torch.save(pruned, tmp_path / "whole.pt")
    torch.save(pruned.state_dict(), tmp_path / "weights.pt")
    assert (tmp_path / "weights.pt").stat().st_size == pytest.approx(4 * expected, rel=0.001)  # nothing of the parent
    plan.save(tmp_path / "plan.json")
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    rebuilt = rebuild(model, tmp_path / "plan.json")
    rebuilt.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    with torch.no_grad():
        given = pruned(x)
        assert given.shape == (1, 2048, 8, 8) and given.abs().max() > 0
        assert torch.equal(whole(x), given) and torch.equal(rebuilt(x), given)


def test_keep_leaves_a_layer_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    limits = Limits(round_to=1, min_width=1, keep=("0",))
    pruned, plan = prune_module(model, torch.rand(1, 3, 4, 4), Budget(ratio=0.5), limits)
    assert pruned[0].out_channels == 8
    assert pruned[2].out_channels == 4
    assert set(plan.keep) == {"2", "4"}


def test_keep_that_names_nothing_is_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    with pytest.raises(ArgumentError, match="keep=nowhere"):
        prune_module(model, torch.rand(1, 3, 4, 4), Budget(ratio=0.5), Limits(keep=("nowhere",)))


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"wanted": 0.5}, "wanted: must be a Budget, e.g. Budget(ratio=0.5). Received: 0.5"),
        ({"example": "x"}, "example: must be a tensor, or all arguments of forward as a tuple. Received: x"),
    ],
)
def test_arguments_of_another_type(told: dict[str, Any], why: str) -> None:
    whole = {"example": torch.rand(1, 3, 8, 8), "wanted": Budget(ratio=0.5)}
    with pytest.raises(ArgumentError, match=re.escape(why)):
        prune_module(nn.Conv2d(3, 8, 1), **(whole | told))


def test_without_a_budget_exactly_the_dead_go() -> None:
    net = settle(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))).eval()
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(BudgetError, match="nothing to cut: no channel is dead"):
        prune_module(net, x, Budget(), FREE)
    with pytest.raises(BudgetError, match="nothing to cut: the network already meets params=1K"):
        prune_module(net, x, Budget(params=1000), FREE)
    net[1].weight.data[[2, 5, 6]] = 0.0
    pruned, _ = prune_module(net, x, Budget(), FREE)
    assert pruned[0].weight.equal(net[0].weight[[0, 1, 3, 4, 7]])


# Networks whose forward reads a width that the trace cannot see -------------------------------------------------------
class Reads(nn.Module):
    """Gives `make(self, features, image, *more)`; `share` is 1 as long as nothing is cut."""

    def __init__(self, make: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head, self.plain = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.make, self.last = make, None

    @property
    def share(self) -> float:
        return self.stem.out_channels / 8

    def forward(self, x: torch.Tensor, *more: torch.Tensor) -> Any:
        y = self.stem(x)
        return self.plain(y), self.make(self, y, x, *more)


def _wrong(m: Reads, y: torch.Tensor) -> torch.Tensor:
    return m.head(y + m.share)


class _Slots:
    __slots__ = ("x",)

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


WRAPS: dict[str, Callable[[torch.Tensor], Any]] = {
    "class numbers": lambda q: q.argmax(1),
    "mask": lambda q: q > 0,
    "spectrum": torch.fft.fft2,
    "number": lambda q: q.sum().item(),
    "text": lambda q: f"{q.sum():.2f}",
    "list": lambda q: q.tolist(),
    "dictionary": lambda q: {"a": [q]},
    "namespace": lambda q: SimpleNamespace(q=q),
    "slots": _Slots,
    "array": lambda q: q.numpy(),
    "generator": lambda q: (c for c in q),
    "distribution": lambda q: torch.distributions.Normal(q, 1.0),
    "sparse": lambda q: q.relu().to_sparse(),
    "parameter": lambda q: nn.Parameter(q, requires_grad=False),
    "ragged": lambda q: torch.nested.nested_tensor([q[0, 0], q[0, 1, :1]]),
    "tiny": lambda q: q * 1e-20,
    "sorted": lambda q: q.flatten(1).sort(1),
    "best": lambda q: q.flatten(1).topk(5),
    "of any length": lambda q: [one[one > 0.2] for one in q],
}
LIMITS = Limits(round_to=1, min_width=1)


@pytest.mark.parametrize("wrap", WRAPS)
def test_outputs_of_any_kind_are_looked_into(wrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is right is cut, with all that is put out at its width; what is wrong is not, with a trial or without."""
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    right, wrong = (Reads(lambda m, y, x, f=f: WRAPS[wrap](f(m, y))) for f in (lambda m, y: m.head(y), _wrong))
    child, plan = prune_module(right, x, Budget(ratio=0.5), LIMITS)
    assert (child.stem.out_channels, child.head.out_channels) == (4, 4)
    assert set(plan.keep) == {"stem", "head", "plain"}
    with pytest.raises((BudgetError, VerifyError)):  # held by the trial, or refused
        prune_module(wrong, x, Budget(ratio=0.5), LIMITS)
    monkeypatch.setattr(trial_cut, "has_own_code", lambda model: False)
    with pytest.raises(VerifyError):
        prune_module(wrong, x, Budget(ratio=0.5), LIMITS)


def _second(m: Reads, y: torch.Tensor, x: torch.Tensor, *more: torch.Tensor) -> Any:
    before, m.last = m.last, y
    return m.head(y) if before is None else _wrong(m, y)


@pytest.mark.parametrize(
    ("make", "more"),
    [
        (lambda m, y, x: _wrong(m, y) if m.training else m.head(y), {}),
        (lambda m, y, x: m.head(y) if m.training else _wrong(m, y), {}),
        (lambda m, y, x: _wrong(m, y) if len(x) == 2 else m.head(y), {}),
        (lambda m, y, x: m.head(y * (m.share if len(x) == 2 else 1.0)), {}),
        (lambda m, y, x: _wrong(m, y) if len(x) == 3 else m.head(y), {"examples": (torch.rand(3, 3, 8, 8),)}),
        (lambda m, y, x: _wrong(m, y) if x.shape[-1] > 8 else m.head(y), {"examples": (torch.rand(1, 3, 16, 16),)}),
        (
            lambda m, y, x, *z: _wrong(m, y) if z else m.head(y),
            {"examples": ((torch.rand(1, 3, 8, 8), torch.rand(1)),)},
        ),
        (_second, {}),
    ],
    ids=["training", "evaluation", "two", "two, another number", "three", "larger", "second input", "second frame"],
)
def test_every_way_to_run_is_proved(
    make: Callable[..., Any], more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_cut, "has_own_code", lambda model: False)  # which holds what goes wrong in the first one
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(VerifyError, match="differs from its masked parent"):
        prune_module(Reads(make), x, Budget(ratio=0.5), LIMITS, **more)


def test_layers_that_are_called_by_keyword() -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n, self.b = nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(input=self.n(input=self.a(input=x)).relu())

    net, x = settle(Keywords()).eval(), torch.rand(2, 3, 8, 8)
    assert prune_module(net, x, Budget(ratio=0.5), LIMITS)[0].a.out_channels == 4
    net.n.weight.data[:3], net.n.bias.data[:3] = 0.0, 1.5
    pruned, _ = prune_module(net, x, Budget(), LIMITS)
    torch.testing.assert_close(pruned(x), net(x))


def test_a_border_that_moves_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(console, "warn", told.append)
    layers = [nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3)]
    net, x = settle(nn.Sequential(*layers)).eval(), torch.rand(2, 3, 8, 8)
    net[1].weight.data[:3], net[1].bias.data[:3] = 0.0, 1.5
    pruned, _ = prune_module(net, x, Budget(), LIMITS)
    torch.testing.assert_close(pruned(x), net(x))
    assert not told
    net[3].padding = (1, 1)
    prune_module(net, x, Budget(), LIMITS)
    assert len(told) == 1 and "1 layers that read them pad with zeros" in told[0]
