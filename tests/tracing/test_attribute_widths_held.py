"""Numbers that modules keep hold what they count where they do more, or may."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import classes, cut_copy, reasons, without
from kept_widths import Keeps, between
from networks import FREE, IMAGE, exact, held, net
from torch import Tensor, nn
from torch.utils._python_dispatch import _len_torch_dispatch_stack

from yoloprune.tracing.trace_network import trace


@pytest.mark.parametrize(
    "use",
    [
        lambda m, x: x / m.dim,
        lambda m, x: x * float(m.dim),
        lambda m, x: x * (m.dim // 3),
        lambda m, x: x * (1 - m.dim % 3),
        lambda m, x: x * m.dim**0.5,
        lambda m, x: x if m.dim > 5 else -x,
        lambda m, x: x if m.dim in (8, 9) else -x,
        lambda m, x: x * len(f"{m.dim}"),
        lambda m, x: x * (m.dim - x.shape[1] + 1),
        lambda m, x: x + torch.arange(m.dim).sum(),
    ],
)
def test_a_number_that_is_used_for_more_holds_what_it_counts(use: Any) -> None:
    graph = trace(between(lambda m, x: use(m, x.flatten(2).view(len(x), m.dim, 6, 6)), dim=8), IMAGE)
    assert None not in reasons(graph, "a.outputs")


def test_the_reason_names_the_number() -> None:
    graph = held(between(lambda m, x: x.flatten(2).view(len(x), m.dim, 6, 6) / m.dim, dim=8))
    assert reasons(graph, "a.outputs") == {"counted by keeps.dim, which is used as a number"}


def test_a_sum_one_of_whose_numbers_counts_nothing_holds_all() -> None:
    """`rest` is seen in the sum alone, so nobody knows how it should change."""

    def body(m: Keeps, x: Tensor) -> Tensor:
        first, _ = x.view(len(x), m.dim + m.rest, 36).split([m.dim, x.shape[1] - 6], 1)
        return torch.cat([first, first[:, :2]], 1).view(x.shape)

    graph = trace(between(body, dim=6, rest=2), IMAGE)
    assert None not in reasons(graph, "a.outputs")


def test_a_number_that_counts_constants_too_stays() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(len(x), 2, 6, 6)], 1).flatten(2).view(len(x), m.dim, 6, 6)

    layers = {"a": (3, 6), "keeps": Keeps(body, dim=8), "out": (8, 2)}
    graph = trace(net(lambda m, x: m.out(m.keeps(m.a(x))), **layers), IMAGE)
    assert None not in reasons(graph, "a.outputs")


def test_a_number_that_counts_no_channels_is_left_alone() -> None:
    """A kernel size, a number of images, and one that is equal to a width by chance."""
    body = lambda m, x: nn.functional.max_pool2d(x, m.k, 1, m.k // 2).view(m.batch, -1, 6, 6)  # noqa: E731
    model = net(lambda m, x: m.out(m.keeps(m.a(x))), a=(3, 8), keeps=Keeps(body, k=3, batch=1, chance=8), out=(8, 2))
    graph = trace(model, IMAGE)
    assert not [axis for axis in graph.axes if axis.side == "number"]
    plan = graph.plan(without(graph, "a.outputs", [0, 1]))
    small = cut_copy(model, plan)
    assert (small.keeps.k, small.keeps.batch, small.keeps.chance) == (3, 1, 8)


def test_numbers_are_put_back_after_a_pass_that_fails() -> None:
    def body(m: Keeps, x: Tensor) -> Tensor:
        if type(m.dim) is not int:
            raise RuntimeError("only when it is traced")
        return x.flatten(2).view(len(x), m.dim, 6, 6)

    model = between(body, dim=8, dims=(4, 4))
    graph = held(model)  # traced again with mere numbers, which hold what they count
    assert reasons(graph, "a.outputs") == {"width written as a number in Keeps keeps"}
    assert type(model.keeps.dim) is int and all(type(n) is int for n in model.keeps.dims)


def test_a_network_that_fails_however_it_is_traced_says_why() -> None:
    """Only where somebody watches, which a plain pass does not."""

    def body(m: Keeps, x: Tensor) -> Tensor:
        if _len_torch_dispatch_stack():
            raise RuntimeError("no one may watch")
        return x

    with pytest.raises(RuntimeError, match="no one may watch"):
        trace(between(body, dim=8), IMAGE)


@pytest.mark.parametrize(
    "aside",
    [
        lambda m, x: x * (m.dim / 8 if x.shape[2] > 6 else 1.0),
        lambda m, x: x / m.dim if len(x) > 100 else x,
        lambda m, x: x if len(x) < 100 else x / getattr(m, "dim"),  # noqa: B009
    ],
)
def test_a_number_that_is_read_in_a_part_that_did_not_run_stays(aside: Any) -> None:
    """Another size, or another number of images: nobody saw what it is for there."""
    body = lambda m, x: aside(m, x.flatten(2).view(len(x), m.dim, *x.shape[2:]))  # noqa: E731
    graph = trace(between(body, dim=8), IMAGE)
    assert None not in reasons(graph, "a.outputs")


class Choice(Keeps):
    """Two ways by how it was built, and a third by what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        if self.two > 2 and not self.whole:
            first, rest = x.split([self.dim, self.rest], 1)
            if self.late and x.shape[2] > 6:
                return x * self.dim
            x = torch.cat([rest, first], 1)
        elif self.whole:
            x = x / self.dim
        else:
            x = x * self.rest
        return x


@pytest.mark.parametrize(("late", "free"), [(False, False), (True, False), (None, True)])
def test_what_another_module_would_do_holds_nothing(late: bool | None, free: bool) -> None:
    """By `whole` and `two` it was built so; how large an image is, is another matter, whatever stands beside it."""
    keeps = (Choice if late is not None else Built)(None, dim=2, rest=6, whole=False, two=3, late=late)
    graph = trace(net(lambda m, x: m.out(m.keeps(m.a(x))), a=(3, 8), keeps=keeps, out=(8, 2)), IMAGE)
    first, *rest = (graph.groups[graph.group_of[c]].frozen is None for c in classes(graph, "a.outputs")[::2])
    assert first is free and all(rest), "`rest` is read nowhere else"


class Built(Keeps):
    """The same without the third."""

    def forward(self, x: Tensor) -> Tensor:
        if self.two > 2 and not self.whole:
            first, rest = x.split([self.dim, self.rest], 1)
            x = torch.cat([rest, first], 1)
        elif self.whole:
            x = x / self.dim
        else:
            x = x * self.rest
        return x


class InTraining(Keeps):
    """A loss that only a training with targets computes."""

    def forward(self, x: Tensor) -> Tensor:
        first, rest = x.split([self.dim, self.rest], 1)
        if self.training:
            raise ValueError("targets")
        if self.training and self.rest:
            return x.mean() / self.dim
        return torch.cat([rest, first], 1)


def test_a_mode_is_no_way_in_which_a_module_is_built() -> None:
    keeps = InTraining(None, dim=2, rest=6)
    graph = trace(net(lambda m, x: m.out(m.keeps(m.a(x))), a=(3, 8), keeps=keeps, out=(8, 2)), IMAGE)
    assert graph.groups[graph.group_of[classes(graph, "a.outputs")[0]]].frozen is not None


class Ways(Keeps):
    """Two ways of the same, of which one is never gone."""

    def forward(self, x: Tensor) -> Tensor:
        first, rest = x.split([self.dim, self.rest], 1)
        return torch.cat([rest, first], 1)

    def at_inference(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, self.dim :], x[:, : self.dim]], 1)


def test_a_function_that_did_not_run_at_all_holds_nothing() -> None:
    model = net(lambda m, x: m.out(m.keeps(m.a(x))), a=(3, 8), keeps=Ways(None, dim=2, rest=6), out=(8, 2))
    assert reasons(exact(model), "a.outputs") == FREE
