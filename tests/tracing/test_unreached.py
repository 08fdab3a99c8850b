"""What no example reached, and in whose code it might run all the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from conftest import conv, reasons
from torch import Tensor, nn

from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.tracing import trace
from yoloprune.tracing.unreached import holders, unread

X = torch.rand(1, 3, 4, 4)
FREE = {None}


class Base(nn.Module):
    """Runs `a` and `b`; subclasses may speak of `extra`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.extra = conv(3, 4), conv(4, 2), conv(4, 4)

    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return self.b(self.a(x))


class Calls(Base):
    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return self.b(self.a(x) if more is None else self.extra(self.a(x)))


class InAMethod(Base):
    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return self.b(self.a(x) if more is None else self.later(x))

    def later(self, x: Tensor) -> Tensor:
        return self.extra(self.a(x))


class ByName(Base):
    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return self.b(self.a(x) if more is None else getattr(self, more)(self.a(x)))


class InALambda(Base):
    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return self.b(self.a(x) if more is None else (lambda: self.extra(self.a(x)))())


class Wrapped(Base):
    @torch.no_grad()
    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return self.b(self.a(x) if more is None else self.extra(self.a(x)))


def helper(net: nn.Module, x: Tensor) -> Tensor:
    return net.extra(x)


class InAHelper(Base):
    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return self.b(self.a(x) if more is None else helper(self, self.a(x)))


class Given(Base):
    """A function that was given from outside."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return self.b(self.a(x) if more is None else self.function(self, x))


@pytest.mark.parametrize(
    ("make", "held"),
    [
        (Base, False),  # made and never spoken of: dead weight
        (Calls, True),
        (InAMethod, True),
        (ByName, True),
        (InALambda, True),
        (Wrapped, True),
        (InAHelper, True),
        (lambda: Given(helper), True),
        (lambda: Given(partial(helper)), True),
        (lambda: Given(torch.relu), False),
    ],
    ids=["dead", "calls", "method", "name", "lambda", "wrapped", "helper", "given", "partial", "other"],
)
def test_whose_code_speaks_of_it(make: Callable[[], nn.Module], held: bool) -> None:
    model = make()
    assert holders(model, ["extra"], ["", "a", "b"]) == ({"": "extra"} if held else {})
    why = {"extra was not run on the example and might read this"} if held else FREE
    assert reasons(trace(model, X), "a.outputs") == why


def test_the_innermost_module_that_ran_is_the_holder() -> None:
    model = nn.ModuleDict({"p": nn.ModuleDict({"q": Calls()})})
    assert holders(model, ["p.q.extra"], ["", "p", "p.q"]) == {"p.q": "p.q.extra"}
    model.p.q.extra = nn.Sequential(conv(4, 4))
    assert holders(model, ["p.q.extra.0"], ["", "p", "p.q"]) == {"p.q": "p.q.extra.0"}


class Loose(nn.Module):
    """A tensor of its own that is read where a second input is given."""

    def __init__(self, kind: str, width: int = 4) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(4, 2)
        if kind == "parameter":
            self.scale = nn.Parameter(torch.rand(width))
        else:
            self.register_buffer("scale", torch.rand(width))

    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        y = self.a(x)
        return self.b(y if more is None else y * self.scale.reshape(1, -1, 1, 1))


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_loose_tensors(kind: str) -> None:
    """What has one value only fits any width."""
    assert reasons(trace(Loose(kind), X), "a.outputs") == {"scale was not run on the example and might read this"}
    assert reasons(trace(Loose(kind, 1), X), "a.outputs") == FREE


def test_what_counts_as_unread() -> None:
    model = nn.ModuleDict({"c": conv(1, 1), "l": Loose("parameter"), "e": nn.Embedding(2, 2), "n": nn.BatchNorm2d(2)})
    modules = dict(model.named_modules())
    layers = (nn.Conv2d, nn.BatchNorm2d)
    assert unread(modules, {"", "l", "n"}, set(), layers) == ["c", "l.scale", "l.a", "l.b", "n.weight"]
    used = (model.c.weight, model.l.scale, model.n.weight, model.l.a.weight, model.l.b.weight)
    seen = {id(tensor) for tensor in used}  # the first by something else
    assert unread(modules, {"", "l", "n", "l.a", "l.b"}, seen, layers) == []


# Loose ends -----------------------------------------------------------------------------------------------------------
class Ends(nn.Module):
    """What `side` makes leaves the network on ways that the trace does not see."""

    def __init__(self, leave: Callable[[Ends, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.side, self.leave = conv(3, 4), conv(4, 2), conv(4, 6), leave
        self.last: Any = None

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        return self.b(y), self.leave(self, self.side(y))


class Closed:
    def __init__(self, value: Tensor) -> None:
        self.get = lambda: value


def keeps(m: Ends, z: Tensor) -> None:
    m.last = z.relu()


WHY = {"no layer reads it, so it may be an output"}


@pytest.mark.parametrize(
    ("leave", "why"),
    [
        (keeps, WHY),
        (lambda m, z: Closed(z), WHY),
        (lambda m, z: nn.Parameter(z, requires_grad=False), WHY),
        (lambda m, z: [z][:0], WHY),  # for nothing on this example
        (lambda m, z: z, {"network output"}),
    ],
    ids=["attribute", "closure", "parameter", "nothing", "output"],
)
def test_what_no_layer_reads_stays(leave: Callable[[Ends, Tensor], Any], why: set[str]) -> None:
    graph: ChannelGraph = trace(Ends(leave), X)
    assert reasons(graph, "side.outputs") == why
    assert reasons(graph, "a.outputs") == FREE


def test_what_is_left_over_of_a_split_may_go() -> None:
    class Splits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4), conv(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).chunk(2, 1)[0])

    assert reasons(trace(Splits(), X), "a.outputs") == FREE


class Forgets(Base):
    """`extra` is for a loss outside: its own code only lets go of it."""

    def fuse(self) -> None:
        self.extra = None


def test_code_that_only_lets_go_of_a_layer_does_not_run_it() -> None:
    assert holders(Forgets(), ["extra"], ["", "a", "b"]) == {}
    assert holders(Calls(), ["extra"], ["", "a", "b"]) == {"": "extra"}


class ForExport(Base):
    """Speaks of `extra` where no pass comes by, and asks for another attribute by its name."""

    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return self.b(self.a(x)) if getattr(self, "plain", True) else self.a(x)

    def export(self, x: Tensor) -> Tensor:
        return self.extra(self.a(x))


class AskedForElsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = ForExport()

    def forward(self, x: Tensor, more: Any = None) -> Tensor:
        return self.inner(x) if more is None else self.inner.export(x)


def test_a_method_counts_where_a_pass_may_ask_for_it() -> None:
    assert holders(ForExport(), ["extra"], ["", "a", "b"]) == {}
    ran = ["", "inner", "inner.a", "inner.b"]
    assert holders(AskedForElsewhere(), ["inner.extra"], ran) == {"inner": "inner.extra"}
