"""What a network is run on, and one run of it: nothing of it stays, and the draws are the same every time."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from conftest import conv, filled
from torch import Tensor, nn
from torch.nn import functional

from yoloprune.probing.examples import Example, Probe, is_of_layer, layer_of, modes, run
from yoloprune.probing.random_draws import generators_kept

X = torch.ones(1, 1, 1, 1)


class Says(nn.Module):
    """A network that is a function."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body

    def forward(self, *inputs: Any) -> Any:
        return self.body(self, *inputs)


def values(body: Any, *, training: bool = True, **how: Any) -> list[Any]:
    """All that comes out of one run, tensors as lists."""
    found = run(Says(body), Example((X,)), training, **how)
    return [leaf.value.tolist() if isinstance(leaf.value, Tensor) else leaf.value for leaf in found.leaves]


# Examples -------------------------------------------------------------------------------------------------------------
def test_inputs_that_a_network_changes_stay() -> None:
    one = Example((X.clone(), {"a": [X.clone()]}))
    one(Says(lambda m, x, more: (x.add_(1), more["a"][0].add_(1))))
    assert one.inputs[0].item() == one.inputs[1]["a"][0].item() == 1


def test_casting_leaves_integers_alone() -> None:
    one = Example((X, [torch.tensor([3])])).louder(8)
    assert one.inputs[0].item() == 8 and one.inputs[1][0].tolist() == [3]
    assert one.cast(Tensor.double).inputs[0].dtype == torch.float64
    assert one.title == "the example times 8"


def test_what_users_give() -> None:
    assert Example.of(X).inputs == (X,) and Example.of((X, 2)).inputs == (X, 2)
    assert Example((X, [X])).shapes == "(1, 1, 1, 1) and (1, 1, 1, 1)" and Example((1,)).shapes == "no tensor"
    assert Example((X,), call=lambda model, x: model(x, 5))(Says(lambda m, x, n: n)) == 5
    probe = Probe.of(X)
    assert probe.examples == probe.proving and probe.frames == 1 and Probe.of(probe) is probe


def test_modes() -> None:
    def wants_targets(m: nn.Module, x: Tensor) -> Tensor:
        if m.training:
            raise ValueError("targets")
        return x

    assert modes(Says(wants_targets), Example((X,))) == (False,)
    assert modes(Says(lambda m, x: x), Example((X,))) == (False, True)


# Runs -----------------------------------------------------------------------------------------------------------------
def test_all_frames_come_out_as_they_were() -> None:
    """A buffer that is handed out has been put back when the run is over."""
    model = Says(lambda m, x: m.total.add_(x.sum()))
    model.register_buffer("total", torch.zeros(()))
    found = run(model, Example((X,)), False, frames=3).leaves
    assert [(leaf.path, leaf.value.item()) for leaf in found] == [(f" of frame {i}", i) for i in (1, 2, 3)]
    assert model.total == 0


def test_what_every_module_gave() -> None:
    model = nn.Sequential(filled(conv(1, 1), [2], [0]), nn.ReLU(), filled(conv(1, 1), [3], [0]))
    found = run(model, Example((X,)), False, inside=True).leaves
    assert [(leaf.path, leaf.value.item()) for leaf in found] == [
        ("", 6),
        ("layer 0, 1", 2),
        ("layer 1, 1", 2),
        ("layer 2, 1", 6),
    ]
    assert [layer_of(leaf.path) for leaf in found if is_of_layer(leaf.path)] == ["0", "1", "2"]


def test_what_is_handed_on_was_given_by_the_first_and_each_call_counts() -> None:
    """A block that gives what its last layer gave, and a layer that runs twice."""
    layer = filled(conv(1, 1), [2], [0])
    model = nn.Sequential(nn.Sequential(layer, nn.Identity()), layer)
    found = run(model, Example((X,)), False, inside=True).leaves
    assert [(leaf.path, leaf.value.item()) for leaf in found] == [("", 4), ("layer 0.0, 1", 2), ("layer 0.0, 2", 4)]


def draw(m: nn.Module, x: Tensor) -> list[Any]:
    return [torch.rand(3), random.random(), np.random.rand(), torch.randn_like(x), torch.zeros(2).uniform_()]


def test_draws_depend_on_the_seed_alone() -> None:
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()
    first = values(draw)
    torch.rand(5), random.random(), np.random.rand()
    assert values(draw) == first
    assert all(a != b for a, b in zip(values(draw, seed=1), first, strict=True))
    random.setstate(states[0])
    torch.set_rng_state(states[2])
    values(draw)
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[2])


def test_the_k_th_draw_is_the_same_whatever_was_drawn_before() -> None:
    """A network that is narrower draws fewer numbers at first."""
    wide, narrow = (values(lambda m, x, n=n: (torch.rand(n), torch.rand(2)))[1] for n in (7, 3))
    assert wide == narrow


def test_level_draws_have_one_value_each() -> None:
    wide, narrow = (values(lambda m, x, n=n: (torch.rand(n), torch.ones(n).normal_() > 0), level=True) for n in (7, 3))
    assert [set(v) for v in wide] == [set(v) for v in narrow] and all(len(set(v)) == 1 for v in wide)
    order = values(lambda m, x: torch.randperm(5), level=True)[0]
    assert sorted(order) == [0, 1, 2, 3, 4]  # an order stays one


@pytest.mark.parametrize(
    ("body", "drawn"),
    [
        (lambda m, x: x, False),
        (lambda m, x: torch.rand(1), True),
        (lambda m, x: random.random(), True),
        (lambda m, x: np.random.rand(), True),
        (lambda m, x: functional.dropout(x, 0.5, True), False),  # lets everything pass
    ],
    ids=["nothing", "torch", "python", "numpy", "dropout"],
)
def test_whether_something_was_drawn(body: Any, drawn: bool) -> None:
    assert run(Says(body), Example((X,)), True).drawn is drawn


def test_whether_two_runs_drew_the_same() -> None:
    """Level draws are the same at any width; an order of other length, or more draws of Python, are not."""

    def draws(body: Any) -> Any:
        return run(Says(body), Example((X,)), True, level=True).draws

    assert draws(lambda m, x: torch.rand(3)) == draws(lambda m, x: torch.rand(5))
    assert draws(lambda m, x: torch.randperm(3)) != draws(lambda m, x: torch.randperm(5))
    assert draws(lambda m, x: random.random()) != draws(lambda m, x: [random.random(), random.random()])


def test_generators_stay_as_they_are() -> None:
    def states() -> list[object]:
        return [torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())]

    before = states()
    with pytest.raises(ValueError), generators_kept():
        torch.rand(1), random.random(), np.random.rand(1)
        torch.manual_seed(3), random.seed(3), np.random.seed(3)
        raise ValueError
    assert states() == before
