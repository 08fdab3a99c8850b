"""A call of `trace`: what its caller may say, the models that it refuses, and that it leaves no mark on any."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import assert_exact, classes, conv, noise, reasons, settle
from networks import FREE, IMAGE, OUTPUT, Net, chain, exact, halves, net
from torch import Tensor, nn

from yoloprune.errors import ModelError
from yoloprune.tracing.rule_table import RULES
from yoloprune.tracing.trace_network import trace


# What the caller says -------------------------------------------------------------------------------------------------
def test_keep_freezes_the_outputs_of_the_named_modules() -> None:
    graph = trace(chain(), IMAGE, keep={"a": "keep=a"})
    assert reasons(graph, "a.outputs") == {"keep=a"}
    model = net(lambda m, x: m.c(m.b(m.a(x))), a=(3, 4), b=(4, 5), c=(5, 2))
    graph = trace(model, IMAGE, keep={"b": "keep=b*"})
    assert reasons(graph, "b.outputs") == {"keep=b*"}
    assert reasons(graph, "a.outputs") == FREE


def test_keep_freezes_what_is_tied_to_it() -> None:
    model = net(lambda m, x: m.o(torch.cat([m.s(h) for h in m.a(x).chunk(2, 1)], 1)), a=(3, 8), s=(4, 4), o=(8, 2))
    assert reasons(trace(model, IMAGE, keep={"s": "keep=s"}), "a.outputs") == FREE
    model = net(halves, a=(3, 8), b=(4, 4), c=(12, 2))
    kept = reasons(trace(model, IMAGE, keep={"b": "keep=b"}), "a.outputs")
    assert kept == {"keep=b", "tied to a[4:8]: keep=b"}


def test_frozen_parts_keep_what_they_make_and_follow_what_comes_in() -> None:
    """A head: its entrance follows the neck, depthwise layers included; what it makes stays."""
    head = nn.Sequential(conv(4, 4, 3, groups=4), nn.BatchNorm2d(4), conv(4, 6), nn.BatchNorm2d(6), conv(6, 2))
    model = settle(net(lambda m, x: m.head(m.a(x)), a=(3, 4), head=head, header=(3, 3)))
    graph = trace(model, IMAGE, frozen={"head": "Detect head"})
    assert reasons(graph, "a.outputs") == FREE
    assert classes(graph, "a.outputs") == classes(graph, "head.0.outputs") == classes(graph, "head.1.outputs")
    assert classes(graph, "a.outputs") == classes(graph, "head.2.inputs")
    assert reasons(graph, "head.2.outputs") == reasons(graph, "head.4.outputs") == {"Detect head"}
    assert_exact(model, graph, IMAGE)


def test_frozen_is_a_prefix_of_names_not_of_letters() -> None:
    model = net(lambda m, x: m.c(m.head(m.header(x))), header=(3, 4), head=(4, 5), c=(5, 2))
    graph = trace(model, IMAGE, frozen={"head": "head"})
    assert reasons(graph, "header.outputs") == FREE
    assert reasons(graph, "head.outputs") == {"head"}


def test_network_outputs_are_frozen_unless_asked_for() -> None:
    model = net(lambda m, x: {"one": [m.a(x)], "two": (m.b(x), 3)}, a=(3, 4), b=(3, 5))
    for axis in ("a.outputs", "b.outputs"):
        assert reasons(trace(model, IMAGE), axis) == OUTPUT
        assert reasons(trace(model, IMAGE, outputs=True), axis) == FREE


def test_a_model_that_does_not_run() -> None:
    with pytest.raises(ModelError, match=r"shape \(1, 5, 6, 6\)"):
        trace(chain(), noise(1, 5, 6, 6))


def test_a_rule_that_fails_names_the_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(call: object) -> None:
        raise IndexError("no such dimension")

    monkeypatch.setitem(RULES, "aten::relu", broken)
    with pytest.raises(ModelError, match="cannot follow relu in act: no such dimension"):
        trace(net(lambda m, x: m.b(m.act(m.a(x))), a=(3, 4), act=nn.ReLU(), b=(4, 2)), IMAGE)


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = conv(3, 4), conv(2, 4), conv(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.c(self.a(x) + self.b(y))

    graph = trace(Two(), (IMAGE, noise(1, 2, 6, 6)))
    assert classes(graph, "a.outputs") == classes(graph, "b.outputs")


# What is left behind --------------------------------------------------------------------------------------------------
class Remembers(nn.Module):
    """Keeps what a detection head keeps: the last shape, anchors, and a buffer that counts."""

    shape: object = None

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b, self.drop = conv(3, 4), nn.BatchNorm2d(4), conv(4, 2), nn.Dropout(0.5)
        self.anchors, self.note = torch.empty(0), "kept"
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.anchors, self.shape = torch.ones(x.shape[2:]), x.shape
        if self.training:
            self.extra = x
        return self.b(self.drop(self.bn(self.a(x))))


@pytest.mark.parametrize("training", [False, True])
def test_a_trace_leaves_no_mark(training: bool) -> None:
    model = settle(Remembers()).train(training)
    model.bn.eval()
    anchors, state = model.anchors, copy.deepcopy(model.state_dict())
    flags = [m.training for m in model.modules()]
    names = [set(vars(m)) for m in model.modules()]
    parameters = {n: id(p) for n, p in model.named_parameters()}
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    trace(model, IMAGE)
    assert model.anchors is anchors
    assert model.shape is None
    assert [m.training for m in model.modules()] == flags
    assert [set(vars(m)) for m in model.modules()] == names
    assert {n: id(p) for n, p in model.named_parameters()} == parameters
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.get_num_threads() == 3
    torch.set_num_threads(threads)
    assert torch.is_grad_enabled()


def test_a_trace_leaves_buffers_alone() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4), conv(4, 2)
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            self.seen += 1
            return self.b(self.a(x))

    model = Counts()
    trace(model, IMAGE)
    assert model.calls.item() == 0
    assert model.seen.item() == 0


def test_a_failed_trace_leaves_no_mark() -> None:
    model = Remembers().train()
    with pytest.raises(ModelError):
        trace(model, noise(1, 5, 6, 6))
    assert model.training
    assert model.drop.training
    assert model.shape is None
    chain()(IMAGE)  # no dispatch mode is left on


def test_layers_used_in_training_only_are_seen() -> None:
    def body(m: Net, x: Tensor) -> object:
        y = m.a(x)
        return (m.b(y), m.aux(y)) if m.training else m.b(y)

    model = net(body, a=(3, 4), b=(4, 2), aux=(4, 3))
    graph = exact(model)
    assert classes(graph, "aux.inputs") == classes(graph, "a.outputs")
    assert reasons(graph, "aux.outputs") == OUTPUT


def test_a_model_that_needs_targets_in_training_mode() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        if m.training:
            raise RuntimeError("where are the targets?")
        return m.b(m.a(x))

    assert reasons(trace(net(body, a=(3, 4), b=(4, 2)), IMAGE), "a.outputs") == FREE
