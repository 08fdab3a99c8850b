"""What `prune_module` takes and gives: arguments, data, the result, and fresh networks at the pruned widths."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import conv, noise, settle
from torch import Tensor, nn
from torch.nn import functional as F

import yoloprune
from yoloprune import Budget, Limits, Plan, prune_module, rebuild
from yoloprune.backend import console
from yoloprune.errors import ArgumentError, BudgetError, DataError, PlanError

HALF, ANY, X = Budget(ratio=0.5), Limits(round_to=1, min_width=1), noise(2, 3, 8, 8)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [conv(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 8, 3), nn.ReLU(), conv(8, 4)]
    return settle(nn.Sequential(*layers), X).eval()  # type: ignore[return-value]


# Arguments ------------------------------------------------------------------------------------------------------------
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "dictionary": (lambda: prune_module({"ema": network()}, X, HALF), "model['ema']"),  # type: ignore[arg-type]
    "path": (lambda: prune_module("yolov5s.pt", X, HALF), "not a path"),  # type: ignore[arg-type]
    "shape": (lambda: prune_module(network(), (1, 3, 8, 8), HALF), "torch.randn(1, 3, 8, 8)"),
    "empty": (lambda: prune_module(network(), (), HALF), "example"),
    "numpy": (lambda: prune_module(network(), X.numpy(), HALF), "numpy.ndarray"),
    "budget": (lambda: prune_module(network(), X, 0.5), "Budget(ratio=0.5)"),  # type: ignore[arg-type]
    "limits": (lambda: prune_module(network(), X, HALF, ("0",)), "keep="),  # type: ignore[arg-type]
    "keep": (lambda: prune_module(network(), X, HALF, keep=[3]), "keep"),  # type: ignore[list-item]
    "keep unknown": (lambda: prune_module(network(), X, HALF, keep="7"), "keep=7"),
    "normalize": (lambda: prune_module(network(), X, HALF, normalize="foo"), "normalize"),  # type: ignore[arg-type]
    "recover": (lambda: prune_module(network(), X, HALF, recover="most"), "recover"),  # type: ignore[arg-type]
    "lsq": (lambda: prune_module(network(), X, HALF, recover="lsq"), "batches="),
    "loss": (lambda: prune_module(network(), X, HALF, loss=F.mse_loss), "batches="),
    "pairs": (lambda: prune_module(network(), X, HALF, batches=[X], loss=F.mse_loss), "pair"),
    "taylor": (lambda: prune_module(network(), X, HALF, ANY, score="taylor", batches=[X]), "loss="),
    "compiled": (lambda: prune_module(torch.compile(network()), X, HALF), "_orig_mod"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_told_in_one_line(what: str) -> None:
    call, said = WRONG[what]
    with pytest.raises(ArgumentError) as error:
        call()
    assert said in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300


def test_no_batches_at_all() -> None:
    with pytest.raises(DataError):
        prune_module(network(), X, HALF, batches=[])


def test_keep_is_given_directly() -> None:
    child, plan = prune_module(network(), X, HALF, ANY, keep="0")
    assert child[0].out_channels == 16 and child[3].out_channels < 8 and "0" not in plan.keep
    with pytest.raises(BudgetError, match="keep=0"):
        prune_module(network(), X, HALF, ANY, keep=["0", "3"])


# Data -----------------------------------------------------------------------------------------------------------------
BATCHES = [noise(4, 3, 8, 8, seed=s) for s in range(4)]


def test_the_result_unpacks_and_tells() -> None:
    model = network()
    made = prune_module(model, X, HALF, ANY)
    child, plan = made
    assert made.model is child is made[0] and made.plan is plan is made[1]
    assert made.after["params"] == sum(p.numel() for p in child.parameters()) < made.before["params"]
    assert made.before["params"] == sum(p.numel() for p in model.parameters())
    assert made.error <= 1e-4 and made.moved["repaired"] == made.moved["cut"] and "nothing" in made.repaired
    assert len(repr(made).splitlines()) < 10


def test_batches_repair() -> None:
    moved = {}
    for recover in ("none", "fold", "lsq", "auto"):
        made = prune_module(network(), X, HALF, ANY, batches=BATCHES, recover=recover)  # type: ignore[arg-type]
        moved[recover] = made.moved["repaired"]
    assert moved["fold"] < moved["none"] and moved["lsq"] == moved["auto"] < moved["fold"]


@pytest.mark.parametrize("score", ["activation", "taylor"])
def test_scores_that_are_measured(score: str) -> None:
    """One channel of the first layer is read with weights of zero: it matters to no loss, and gives nothing."""
    model = network()
    model[3].weight.data[:, 5] = 0
    model[1].bias.data[7], model[1].weight.data[7] = -9.0, 1e-3  # never active
    pairs = [(x, torch.zeros(4, 4, 8, 8)) for x in BATCHES]
    _, plan = prune_module(model, X, Budget(ratio=0.05), ANY, keep="3", score=score, batches=pairs, loss=F.mse_loss)
    gone = {*range(16)} - set(plan.keep["0"].outputs or ())
    assert 7 in gone or 5 in gone


def test_networks_of_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = conv(3, 8), conv(3, 8), conv(8, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.c(self.a(x).relu() + self.b(y).relu())

    pairs = [(x, x.flip(0)) for x in BATCHES]
    made = prune_module(Two(), (X, X), HALF, ANY, batches=pairs)
    assert made.moved["repaired"] < made.moved["cut"]
    targeted = [(pair, torch.zeros(4, 2, 8, 8)) for pair in pairs]
    assert prune_module(Two(), (X, X), HALF, ANY, score="taylor", batches=targeted, loss=F.mse_loss).plan


# Elsewhere ------------------------------------------------------------------------------------------------------------
def test_a_fresh_network_gets_the_widths_and_the_weights(tmp_path: Path) -> None:
    child, plan = prune_module(network(), X, HALF, ANY)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    for what in (plan, tmp_path / "plan.json", str(tmp_path / "plan.json"), plan.to_dict(), plan.widths()):
        fresh = rebuild(network(), what)
        fresh.load_state_dict(copy.deepcopy(child).state_dict())
        assert torch.equal(fresh.eval()(X), child(X))


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"keep": {}}', '{"format": "yoloprune plan 1", "keep": {"a": 3}}'])
def test_what_is_no_plan(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(PlanError):
        Plan.load(file)


def test_a_plan_for_another_network(tmp_path: Path) -> None:
    _, plan = prune_module(network(), X, HALF, ANY)
    with pytest.raises(PlanError):
        rebuild(nn.Sequential(conv(3, 5)), plan)
    with pytest.raises(ArgumentError):
        rebuild(network(), 3)  # type: ignore[arg-type]
    assert json.loads(json.dumps(plan.to_dict())) == plan.to_dict()


def test_a_description_of_the_full_network_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    model = network()
    model.yaml = {"widths": [16, 8]}
    prune_module(model, X, HALF, ANY)
    assert len(said) == 1 and ".yaml" in said[0] and "yoloprune.rebuild" in said[0]
    said.clear()
    prune_module(network(), X, HALF, ANY)
    assert not said


# Remembered widths ----------------------------------------------------------------------------------------------------
class Remembers(nn.Module):
    """Widths that only other methods read, one that the pass reads as a number, and one that two layers disagree on."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.hidden_dim, self.stride, self.embed_dim = 16, 12, 12, 16, 16
        self.a, self.b, self.c = conv(16, 12), conv(16, 12), conv(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat([self.a(x), self.b(x)], 1)) / self.embed_dim

    def fused(self) -> tuple[int, int, int]:
        return self.in_channels, self.out_channels, self.hidden_dim


def test_numbers_that_remember_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(console, "warn", said.append)
    torch.manual_seed(0)
    model = nn.Sequential(conv(3, 16), Remembers()).eval()
    child, _ = prune_module(model, X, Budget(ratio=0.4), ANY)
    block, width = child[1], child[0].out_channels
    assert width < 16 and block.in_channels == width  # nothing but the inputs of `a` and `b` can be meant
    assert block.stride == block.embed_dim == 16  # not a name of a width; read by the pass
    assert "1.embed_dim" in said[0] and "1.stride" not in said[0] and "in_channels" not in said[0]
    if block.a.out_channels != block.b.out_channels and 12 not in (block.a.out_channels, block.b.out_channels):
        assert block.out_channels == 12 and "1.out_channels" in said[0]


# What is shown --------------------------------------------------------------------------------------------------------
def test_objects_show_themselves_in_a_few_lines() -> None:
    model = nn.Sequential(*(conv(32, 32) for _ in range(40)))
    made = prune_module(model, noise(1, 32, 4, 4), HALF, ANY)
    graph = yoloprune.tracing.trace(model, noise(1, 32, 4, 4))
    for shown in (repr(graph), repr(made.plan), repr(made), repr(HALF)):
        assert len(shown) < 2000 and len(shown.splitlines()) <= 20
    assert "1248 of 1312 channels may go" in repr(graph) or "channels may go" in repr(graph)
    assert repr(HALF) == "Budget(ratio=0.5)"
    assert graph._repr_html_().count("<tr>") == 17 and "<script>" not in graph._repr_html_()
