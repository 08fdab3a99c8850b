"""What is touched while a model runs is put back, and dropout lets everything pass."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
import torch
from conftest import conv
from torch import Tensor, nn
from torch.nn import functional as F

from yoloprune.probing.forward import Readers, feed, follow, hooked, running
from yoloprune.probing.held_state import preserved, state_of

X = torch.arange(1.0, 9.0).reshape(1, 2, 2, 2)


class Holder(nn.Module):
    """Holds something of each kind, also nested."""

    def __init__(self) -> None:
        super().__init__()
        self.list, self.dict, self.set, self.deque = [1], {"a": 1}, {1}, deque([1], maxlen=2)
        self.nested = {"inner": [[0.0]], "tuple": ([5],)}
        self.generator = torch.Generator().manual_seed(3)
        self.tensor, self.none = torch.zeros(2), None
        self.register_buffer("buffer", torch.zeros(2))


def change(held: Holder) -> None:
    """As a forward pass could."""
    held.list.append(2)
    held.dict["b"] = held.dict.pop("a")
    held.set.add(2)
    held.deque += [2, 3]
    held.nested["inner"][0].append(1.0)
    held.nested["tuple"][0].clear()
    held.tensor += 1
    held.buffer.view(-1)[0] = 5
    held.none, held.fresh = 3, 4
    torch.rand(1, generator=held.generator)


def content(held: Holder) -> list[Any]:
    return [
        [list(held.list), dict(held.dict), set(held.set), list(held.deque), held.nested["inner"][0][:]],
        [held.nested["tuple"][0][:], held.tensor.tolist(), held.buffer.tolist(), held.none, hasattr(held, "fresh")],
        held.generator.get_state().tolist(),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_everything_that_a_forward_pass_changes_is_put_back(fails: bool) -> None:
    held = Holder()
    before, objects = content(held), [held.list, held.dict, held.deque, held.tensor, held.buffer, held.nested["inner"]]
    try:
        with preserved(held):
            change(held)
            changed = [a != b for a, b in zip(content(held), before, strict=True)]
            if fails:
                raise RuntimeError("inside")
    except RuntimeError:
        assert fails
    assert all(changed) and content(held) == before
    now = [held.list, held.dict, held.deque, held.tensor, held.buffer, held.nested["inner"]]
    assert all(a is b for a, b in zip(now, objects, strict=True)) and held.deque.maxlen == 2


def test_attributes_that_another_object_replaces() -> None:
    held = Holder()
    first, buffer = held.list, held.buffer
    with preserved(held):
        held.list, held.buffer = [1], torch.ones(2)
    assert held.list is first and held.buffer is buffer


def test_state_tells_changes() -> None:
    held = Holder()
    before = state_of(held)
    assert state_of(held) == before
    for touch in (lambda: held.list.append(3), lambda: held.tensor.add_(1), lambda: setattr(held, "none", 7)):
        touch()
        assert state_of(held) != before
        before = state_of(held)


# Running --------------------------------------------------------------------------------------------------------------
class Drops(nn.Module):
    def __init__(self, drop: Any) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x)


@pytest.mark.parametrize(
    "drop",
    [
        lambda x: F.dropout(x, 0.5),
        lambda x: F.dropout(input=x, p=0.5),
        lambda x: F.dropout2d(x, 0.5),
        lambda x: F.alpha_dropout(x, 0.5, True),
        lambda x: F.dropout(x.clone(), 0.5, inplace=True),
        lambda x: torch.dropout(x, 0.5, True),
        lambda x: torch.feature_dropout(x, 0.5, True),
        nn.Dropout(0.5),
    ],
)
def test_dropout_lets_everything_pass(drop: Any) -> None:
    model = Drops(drop)
    with running(model):
        assert all(model(X).equal(X) for _ in range(8))
    model.train()
    assert not all(model(X).equal(X) for _ in range(8))


@pytest.mark.parametrize("more", [{"dropout_p": 0.9}, {"attn_mask": None, "dropout_p": 0.9}], ids=["one", "two"])
@pytest.mark.parametrize("named", [False, True])
def test_attention_drops_nothing(named: bool, more: dict[str, Any]) -> None:
    q = X.reshape(1, 1, 4, 2)

    def attend(x: Tensor) -> Tensor:
        attention = F.scaled_dot_product_attention
        return attention(x, x, x, **more) if named else attention(x, x, x, None, 0.9)

    with running(Drops(attend)):
        assert Drops(attend)(q).equal(F.scaled_dot_product_attention(q, q, q))
    assert not Drops(attend)(q).equal(F.scaled_dot_product_attention(q, q, q))


def test_modes_come_back() -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(), nn.ReLU())
    model[2].eval()
    with running(model):
        assert [m.training for m in model] == [False, False, True] and not torch.is_grad_enabled()
    assert [m.training for m in model] == [True, True, False] and torch.is_grad_enabled()
    with running(model, training=False):
        assert not any(m.training for m in model.modules())


# Which batch-norm follows a layer -------------------------------------------------------------------------------------
class Chain(nn.Module):
    def __init__(self, body: Any) -> None:
        super().__init__()
        self.a, self.b, self.n, self.o = conv(2, 2), conv(2, 2), nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


@pytest.mark.parametrize(
    ("body", "found", "others"),
    [
        (lambda m, x: m.n(m.a(x)), {"a": "n"}, set()),
        (lambda m, x: m.n(input=m.a(input=x)), {"a": "n"}, set()),
        (lambda m, x: m.n(m.a(x).relu()), {}, {"a"}),
        (lambda m, x: m.n(m.a(x).relu_()), {}, {"a"}),
        (lambda m, x: (y := m.a(x), m.n(y), y * 2), {"a": "n"}, {"a"}),
        (lambda m, x: (y := m.a(x), m.n(y), m.o(y)), {}, set()),  # one of several
        (lambda m, x: (m.n(m.a(x)), m.n(m.b(x))), {}, set()),  # follows something else as well
        (lambda m, x: (m.n(m.a(x)), m.n(x)), {}, set()),
        (lambda m, x: (m.n(m.a(x)), m.o(m.b(x))), {"a": "n", "b": "o"}, set()),
    ],
    ids=[
        "own",
        "keyword",
        "behind relu",
        "behind relu in place",
        "read twice",
        "two",
        "shared",
        "of an image",
        "two pairs",
    ],
)
def test_batch_norms_that_take_the_very_output(body: Any, found: dict[str, str], others: set[str]) -> None:
    model = Chain(body)
    with running(model), hooked() as hooks, Readers() as readers:
        followers = follow(model, ["a", "b"], nn.BatchNorm2d, hooks)
        feed(model, [X])
    assert followers == found and readers.others == others
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
