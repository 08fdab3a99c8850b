"""Outputs that lost channels themselves, on examples on which the network takes one branch or another."""

from __future__ import annotations

import pytest
import torch
from conftest import cut_copy, noise
from networks import Net, net
from torch import Tensor, nn

import yoloprune
from yoloprune.cutting.kept_outputs import KeptOutputs
from yoloprune.cutting.proof import prove
from yoloprune.errors import VerifyError
from yoloprune.planning.plan import Keep, Plan
from yoloprune.probing.examples import Example, Run
from yoloprune.probing.outputs import Leaf
from yoloprune.probing.survey import survey_around

SMALL, LARGE = noise(1, 3, 4, 4), noise(1, 3, 6, 6, seed=1)
LOST, OTHERS = Keep(outputs=(1, 2, 3), of=(6, None)), Keep(outputs=(0, 2, 5), of=(6, None))


def two_branches() -> Net:
    return net(lambda m, x: (m.b if x.shape[-1] == 4 else m.c)(m.a(x).relu()), a=(3, 8), b=(8, 6), c=(8, 6))


def looked_at(model: nn.Module, child: nn.Module, plan: Plan, *images: Tensor) -> float:
    return prove(model, child, plan, survey_around(model, tuple(map(Example.of, images)))).error


def test_an_output_for_each_image_need_not_be_there() -> None:
    """Of two images there are two, and a cut is proved on one image as well."""
    model = net(lambda m, x: [*m.b(m.a(x).relu())], a=(3, 8), b=(8, 6))
    plan = Plan({"b": LOST})
    assert looked_at(model, cut_copy(model, plan), plan, noise(2, 3, 4, 4)) <= 1e-4
    done = yoloprune.prune_module(
        model, noise(2, 3, 4, 4), yoloprune.Budget(ratio=0.4), yoloprune.Limits(round_to=1, min_width=1), outputs=True
    )
    assert done.model.b.out_channels < 6


@pytest.mark.parametrize("other", [None, OTHERS], ids=["nothing", "other channels"])
@pytest.mark.parametrize("images", [(SMALL, LARGE), (LARGE, SMALL), (SMALL, LARGE, SMALL)])
def test_another_branch_lost_nothing_or_other_channels(other: Keep | None, images: tuple[Tensor, ...]) -> None:
    model = two_branches()
    plan = Plan({"b": LOST} if other is None else {"b": LOST, "c": other})
    child = cut_copy(model, plan)
    assert looked_at(model, child, plan, *images) <= 1e-4
    wrong = Plan({**plan.keep, "c": Keep(outputs=(0, 2, 4), of=(6, None))})
    with pytest.raises(VerifyError):
        looked_at(model, cut_copy(model, wrong), plan, *images)
    child.b.weight.data[[0, 1]] = child.b.weight.data[[1, 0]]
    with pytest.raises(VerifyError):
        looked_at(model, child, plan, *images)


def of(value: Tensor, path: str = "") -> Run:
    return Run([Leaf(path, value)], drawn=False)


def test_what_is_known_is_not_marked_again_until_it_does_not_fit() -> None:
    """Four rows, of which the first and the third stay; then, in another branch, the two last ones."""
    rows, marks, kept = torch.arange(1.0, 5).reshape(4, 1), torch.ones(4, 1), KeptOutputs()
    asked: list[Run] = []

    def mark(positions: list[int]) -> Run:
        asked.append(of(rows.index_put((torch.tensor(positions),), marks[positions])))
        return asked[-1]

    for scale in (1.0, 2.0):
        kept.find(of(scale * rows), of(scale * rows[[0, 2]]), lambda: mark([1, 3]))
        assert len(asked) == 1 and torch.equal(kept.left(of(rows).leaves)[0].value, rows[[0, 2]])
    kept.find(of(rows), of(rows[2:]), lambda: mark([0, 1]))
    assert len(asked) == 2 and torch.equal(kept.left(of(rows).leaves)[0].value, rows[2:])
    for narrow in (rows[:3], rows[0, 0]):  # what a run with other numbers gives that takes another branch
        assert torch.equal(kept.left(of(narrow).leaves)[0].value, narrow)
    assert kept.left(of(rows, "other").leaves) == of(rows, "other").leaves
    kept.find(of(rows), of(rows), lambda: mark([]))
    assert len(asked) == 2 and kept.left(of(rows).leaves)[0].value is rows


@pytest.mark.parametrize("marked", [of(torch.ones(3, 1)), of(torch.ones(4, 1), "other")], ids=["shape", "path"])
def test_where_marks_lead_into_another_branch_values_tell(marked: Run) -> None:
    rows, kept = torch.arange(1.0, 5).reshape(4, 1), KeptOutputs()
    kept.find(of(rows), of(rows[1:3]), lambda: marked)
    assert torch.equal(kept.left(of(rows).leaves)[0].value, rows[1:3])
