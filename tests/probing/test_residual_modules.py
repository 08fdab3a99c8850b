"""Residual branches are found by what they give once they are zero, and by nothing else."""

from __future__ import annotations

import pytest
import torch
from conftest import conv, noise
from residuals import IMAGE, Around, Rectified, Residual, stream
from torch import Tensor, nn

from yoloprune.probing.examples import Probe
from yoloprune.probing.residual_modules import residual_modules, zeroed


def found(model: nn.Module, image: Tensor = IMAGE) -> list[str]:
    before = {name: p.clone() for name, p in model.state_dict().items()}
    names = residual_modules(model, Probe.of(image))
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    return names


def test_a_branch_hands_on_its_input() -> None:
    assert found(stream(one=Residual(8, 4), two=Residual(8, 4, shortcut=False), three=conv(8, 8))) == ["blocks.one"]


def test_branches_in_a_row_are_one_and_each() -> None:
    assert found(stream(one=Residual(8, 4), two=Residual(8, 4))) == ["blocks", "blocks.one", "blocks.two"]


def test_branches_in_branches() -> None:
    assert found(stream(one=Around(8, 6))) == ["blocks", "blocks.one", "blocks.one.inner"]


def test_an_activation_behind_the_sum_changes_what_is_not_positive() -> None:
    assert found(stream(one=Rectified(8, 4))) == []
    positive = stream(zero=nn.ReLU(), one=Rectified(8, 4))
    assert found(positive) == ["blocks.one"]


class Twice(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(super().forward(x))


class Scaled(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return 1.000001 * x + self.b(self.a(x))


class Normed(nn.Module):
    """A scale that is none of its parameters: the branch is not zero when they are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = conv(8, 8), nn.BatchNorm2d(8, affine=False)
        self.norm.running_mean += 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.norm(self.a(x))
        return y


class Pair(Residual):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return super().forward(x)


class Calling(nn.Module):
    """A block whose branch runs as often as it is told, with a keyword, or of which a part is run outside it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.branch, self.how = Pair(8, 4), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "twice":
            return self.branch(self.branch(x)) - x
        if self.how == "keyword":
            return 2 * self.branch(x=x)
        if self.how == "two":
            return 2 * self.branch(x, x)
        if self.how == "part":
            return 2 * self.branch(x) + self.branch.b(self.branch.a(x))
        return 2 * self.branch(x)


@pytest.mark.parametrize("how", ["twice", "keyword", "two", "part"])
def test_a_branch_is_called_once_on_one_tensor_and_nobody_else_uses_it(how: str) -> None:
    assert found(stream(one=Calling("once"))) == ["blocks.one.branch"]
    assert found(stream(one=Calling(how))) == []


def test_a_branch_runs_its_layers_as_often_as_it_likes() -> None:
    assert found(stream(one=Twice(8, 4))) == ["blocks", "blocks.one"]


def test_to_the_bit() -> None:
    assert found(stream(one=Scaled(8, 4))) == []
    assert found(stream(one=Normed())) == []


def test_weights_that_others_share_hold_a_branch() -> None:
    one, two = Residual(8, 4), Residual(8, 4)
    two.a.weight = one.a.weight
    model = stream(one=one, two=two)
    assert found(model) == ["blocks"]


def test_what_fails_alone_is_none() -> None:
    class Counts(Residual):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            if torch.equal(self.a.weight, torch.zeros_like(self.a.weight)):
                raise RuntimeError("no weights")
            return super().forward(x)

    assert found(stream(one=Counts(8, 4), two=Residual(8, 4))) == ["blocks.two"]


def test_zeros_are_put_back_after_an_error() -> None:
    block = Residual(8, 4)
    weight, shared = block.a.weight, Residual(8, 4)
    shared.a.weight = weight
    with pytest.raises(RuntimeError), zeroed(block):
        assert torch.equal(block(noise(1, 8, 3, 3)), noise(1, 8, 3, 3))
        assert shared.a.weight is weight and weight.any()
        raise RuntimeError
    assert block.a.weight is weight


class Asks(nn.Module):
    """Reads a number of its branch, which nothing that is put in its place has."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.other = Residual(8, 4), Residual(8, 4)
        self.branch.stride = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.branch(x) if self.branch.stride == 1 else x)


def test_a_branch_of_which_something_is_read_elsewhere_stays() -> None:
    model = stream(one=Asks())
    branch = model.blocks.one.branch
    assert found(model) == ["blocks", "blocks.one", "blocks.one.other"]
    assert model.blocks.one.branch is branch
