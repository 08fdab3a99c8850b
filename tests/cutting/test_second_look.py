"""Single looks of a proof: what counts as said, what float64 may excuse, and what is told of a child that fails."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import conv, noise
from torch import Tensor, nn

from yoloprune.cutting.comparison import Look, compare, joined
from yoloprune.cutting.lively_copy import settle
from yoloprune.cutting.silence import reached
from yoloprune.errors import VerifyError
from yoloprune.planning.plan import Keep, Plan
from yoloprune.probing.examples import Example

IMAGE = noise(2, 3, 6, 6)


class Net(nn.Module):
    """A convolution and what a test makes of it."""

    def __init__(self, then: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.then = conv(3, 4), conv(4, 2), then

    def forward(self, x: Tensor) -> Any:
        return self.then(self.b(self.a(x)))


def look(parent: nn.Module, child: nn.Module) -> Look:
    return compare(parent.eval(), child.eval(), Plan({}), Example((IMAGE,)), False)


def test_float64_does_not_overrule_what_float32_sees() -> None:
    """The child is wrong by a hundredth in its own precision alone, which no rounding makes."""
    parent, child = Net(lambda y: y), Net(lambda y: y * 1.01 if y.dtype == torch.float32 else y)
    with pytest.raises(VerifyError, match=r"relative error 1\.0e-02"):
        look(parent, child)


def test_outputs_that_say_something_and_those_that_do_not() -> None:
    parent = Net(lambda y: (y, 0 * y, y[:0]))
    found = look(parent, copy.deepcopy(parent))
    assert found.told == {"[0]"} and found.mute == {"[1]", "[2]"}
    assert found.luckless == {"[2]"} and not found.random and found.error == 0  # nothing was found there


def test_looks_at_other_draws_are_one() -> None:
    a, b, c, d = ("a", "b", "c", "d")
    first = Look(0.1, frozenset(a), frozenset((b, c)), frozenset(d), frozenset((b, c)))
    second = Look(0.2, frozenset((b, d)), frozenset((a, c)), frozenset(), frozenset(a))
    assert joined([first, second]) == Look(0.2, frozenset((a, b, d)), frozenset(c), frozenset(), frozenset(c))
    third = Look(0.0, frozenset(a), frozenset(b), frozenset(c), frozenset(b))
    assert joined([third]) == third


def failing(y: Tensor) -> Tensor:
    raise RuntimeError("the sizes do not match.\nand here follow ten lines about where")


def test_of_a_child_that_fails_the_first_line_is_told() -> None:
    said = r"does not run in evaluation mode on the example: the sizes do not match\. Nothing was saved"
    with pytest.raises(VerifyError, match=said):
        look(Net(lambda y: y), Net(failing))


def test_outputs_that_depend_on_a_cut_layer_by_frame() -> None:
    model = Net(lambda y: {"boxes": y, "image size": torch.ones(2)}).eval()
    plan = Plan({"a": Keep(outputs=(0, 1), of=(4, None))})
    one = Example((IMAGE,))
    assert reached(model, plan, one, False, 1) == {"['boxes']"}
    assert reached(model, plan, one, False, 2) == {"['boxes'] of frame 1", "['boxes'] of frame 2"}


def test_a_batch_norm_that_sees_one_value_has_no_variance() -> None:
    """One image after global pooling, one channel: nothing to divide by, and no not-a-number."""
    norm = nn.BatchNorm2d(1)
    settle(nn.Sequential(conv(3, 1), nn.AdaptiveAvgPool2d(1), norm, conv(1, 2)).eval(), noise(1, 3, 4, 4))
    assert norm.running_var is not None and norm.running_var.tolist() == [0.0]
    assert norm.running_mean is not None and norm.running_mean.isfinite().all()
