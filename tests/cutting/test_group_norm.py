"""Group normalisation: groups go as a whole, and those that are left are normalised as they were."""

from __future__ import annotations

import pytest
import torch
from conftest import classes, conv, cut_copy, filled, noise, partners, reasons, without
from networks import FREE, IMAGE, Net, exact, held, net
from torch import Tensor, nn

from yoloprune import Budget, Limits, prune_module
from yoloprune.errors import PlanError
from yoloprune.importance import criteria
from yoloprune.planning.plan import Keep, Plan
from yoloprune.tracing.trace_network import trace


def grouped(groups: int, channels: int = 8, **options: bool) -> Net:
    """A convolution, the norm behind it and a reader."""
    norm = nn.GroupNorm(groups, channels, **options)
    return net(lambda m, x: m.b(m.norm(m.a(x)).relu()), a=(3, channels), norm=norm, b=(channels, 2))


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_channels_of_a_group_go_together(groups: int) -> None:
    model = grouped(groups)
    graph = exact(model)
    assert reasons(graph, "a.outputs") == FREE
    found = classes(graph, "norm.outputs")
    each = 8 // groups
    assert found == classes(graph, "a.outputs") == [found[i - i % each] for i in range(8)]
    assert len(set(found)) == groups


def test_a_group_is_cut_on_paper() -> None:
    """Of groups (1, 3) and (10, 14) the second stays: mean 12, deviation 2, so -1 and 1, times 2 plus 5."""
    model = nn.Sequential(conv(1, 4), nn.GroupNorm(2, 4, eps=0.0), conv(4, 1))
    filled(model[0], [0, 0, 0, 0], [1, 3, 10, 14])
    filled(model[1], [1, 1, 2, 2], [0, 0, 5, 5])
    filled(model[2], [1, 1, 1, 10], [0])
    plan = Plan({"0": Keep((2, 3), of=(4, None)), "1": Keep((2, 3), of=(4, None)), "2": Keep(None, (2, 3), (None, 4))})
    small = cut_copy(model.eval(), plan)
    assert (small[1].num_groups, small[1].num_channels) == (1, 2)
    assert small(torch.ones(1, 1, 1, 1)).item() == pytest.approx(3 + 70)


def test_groups_of_two_norms_meet_in_a_sum() -> None:
    """Groups of two and of four channels: four go together."""

    def body(m: Net, x: Tensor) -> Tensor:
        return m.out(m.two(m.a(x)) + m.four(m.b(x)))

    model = net(body, a=(3, 8), b=(3, 8), two=nn.GroupNorm(4, 8), four=nn.GroupNorm(2, 8), out=(8, 2))
    graph = exact(model)
    assert len(set(classes(graph, "a.outputs"))) == 2 and partners(graph, "a.outputs") == [(2,)]


def test_what_shares_one_mean_otherwise_is_held() -> None:
    held(grouped(1))
    held(grouped(2, affine=False))
    held(net(lambda m, x: m.b(nn.functional.group_norm(m.a(x), 2)), a=(3, 4), b=(4, 2)))
    held(
        net(
            lambda m, x: m.b(m.norm(m.a(x).transpose(1, 3)).transpose(1, 3)),
            a=(3, 6),
            norm=nn.GroupNorm(2, 6),
            b=(6, 2),
        )
    )


def test_half_a_group_is_refused() -> None:
    model = grouped(4)
    plan = Plan({"norm": Keep((0, 2, 3), of=(8, None))})
    with pytest.raises(PlanError, match="of norm whole groups of 2 outputs can go"):
        cut_copy(model, plan)


def test_pruned_with_scores_of_a_loss() -> None:
    """What a convolution's own gate scales the norm takes back, so the norm's gate is scored, as a batch-norm's is."""
    model = grouped(8)
    model.norm.weight.data[[1, 4]] = 1e-3
    model.norm.bias.data[[1, 4]] = 0
    graph = trace(model, IMAGE)
    found = criteria.importance(model, graph, "output", batches=[noise(4, 3, 6, 6)]).channels
    order = found[classes(graph, "norm.outputs")].argsort()
    assert {*order[:2].tolist()} == {1, 4}
    made = prune_module(
        model, IMAGE, Budget(ratio=0.25), Limits(round_to=1, min_width=1), score="output", batches=[noise(4, 3, 6, 6)]
    )
    assert (made.model.norm.num_groups, made.model.a.out_channels) == (6, 6)
    assert made.plan.keep["norm"].outputs == (0, 2, 3, 5, 6, 7)


def test_a_norm_behind_depthwise_groups_in_a_residual() -> None:
    def body(m: Net, x: Tensor) -> Tensor:
        y = m.a(x)
        return m.out(y + m.norm(m.each(y)))

    model = net(body, a=(3, 8), each=conv(8, 8, 3, groups=8), norm=nn.GroupNorm(4, 8), out=(8, 2))
    graph = exact(model)
    plan = graph.plan(without(graph, "a.outputs", [0, 1, 6, 7]))
    small = cut_copy(model, plan)
    assert (small.each.groups, small.norm.num_groups, small.out.in_channels) == (4, 2, 4)
