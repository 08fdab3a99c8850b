"""Which examples stand for all: sizes, numbers of images and frames at which a network does something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import conv
from torch import Tensor, nn

from yoloprune.errors import ModelError
from yoloprune.probing.descent import Descendants
from yoloprune.probing.examples import Example
from yoloprune.probing.survey import LONGEST_MEMORY, survey, survey_around


class Net(nn.Module):
    """A convolution and a function of its output; remembers what the function wants."""

    def __init__(self, body: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.body = conv(3, 4), conv(4, 4), body
        self.memory: Any = None
        self.seen: list[Tensor] = []
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: Tensor) -> Any:
        return self.body(self, self.a(x))


def make(size: int, count: int) -> Example:
    return Example((torch.rand(count, 3, size, size),), f"{count} of {size}")


def titles(body: Callable[[Net, Tensor], Any], asked: int = 64) -> list[list[str]]:
    """Examples, proving and asked, from 8 pixels on."""
    probe = survey(Net(body).eval(), make, 8, asked)
    return [[one.title for one in some] for some in (probe.examples, probe.proving, probe.asked)]


# Sizes and numbers of images ------------------------------------------------------------------------------------------
def test_the_smallest_image_stands_for_all() -> None:
    assert titles(lambda m, y: y) == [["1 of 8"], ["2 of 8"], ["1 of 64", "2 of 64"]]
    assert titles(lambda m, y: y, asked=8) == [["1 of 8"], ["2 of 8"], []]


@pytest.mark.parametrize(("above", "size"), [(8, 16), (16, 32), (32, 64)])
def test_what_runs_on_larger_maps_only(above: int, size: int) -> None:
    assert titles(lambda m, y: m.b(y) if y.shape[-1] > above else y)[0] == [f"1 of {size}"]


def test_what_runs_on_large_maps_in_training_only() -> None:
    assert titles(lambda m, y: m.b(y) if m.training and y.shape[-1] > 8 else y)[0] == ["1 of 16"]


def test_a_network_that_does_not_run_on_small_images() -> None:
    def body(m: Net, y: Tensor) -> Tensor:
        if y.shape[-1] < 32:
            raise ValueError("too small")
        return y

    assert titles(body)[0] == ["1 of 32"]
    with pytest.raises(ModelError, match=r"does not run on an input of shape \(1, 3, 16, 16\): too small"):
        titles(body, asked=16)


@pytest.mark.parametrize(
    "body", [lambda m, y: m.b(y) if len(y) == 2 else y, lambda m, y: y * (0.5 if len(y) == 2 else 2.0)]
)
def test_another_branch_for_two_images(body: Callable[[Net, Tensor], Any]) -> None:
    """Another operation, or the same with another number."""
    assert titles(body)[:2] == [["1 of 8", "2 of 8"], ["1 of 8", "2 of 8"]]


@pytest.mark.parametrize("count", [1, 3])
def test_around_an_example_another_number_of_images(count: int) -> None:
    """One becomes two, three become one; followed where they do something else, and proved in any case."""
    for body, followed in ((lambda m, y: y, 1), (lambda m, y: m.b(y) if len(y) == count else y, 2)):
        probe = survey_around(Net(body).eval(), (make(8, count),))
        assert len(probe.examples) == followed
        assert [len(one.inputs[0]) for one in probe.proving] == [count, 2 if count == 1 else 1]


def test_around_an_example_that_does_not_run() -> None:
    with pytest.raises(ModelError, match=r"shape \(1, 4, 8, 8\)"):
        survey_around(Net(lambda m, y: y), (Example((torch.rand(1, 4, 8, 8),)),))


def test_numbers_that_depend_on_the_size_have_the_size_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yoloprune.probing.survey.PROVED", 0.0)
    assert not survey(Net(lambda m, y: y * 2.0).eval(), make, 8, 16).affordable
    assert survey(Net(lambda m, y: y * float(y.shape[-1])).eval(), make, 8, 16).affordable


# Frames ---------------------------------------------------------------------------------------------------------------
def keeps_anchors(m: Net, y: Tensor) -> Tensor:
    if m.memory is None or m.memory.shape != y.shape[2:]:
        m.memory = torch.ones(y.shape[2:])
    return y * m.memory


def adds_the_last(m: Net, y: Tensor) -> Tensor:
    z = y if m.memory is None else y + m.memory
    m.memory = y.detach()
    return z


def starts_with_zeros(m: Net, y: Tensor) -> Tensor:
    """The second time it does less, and something else."""
    last = torch.zeros_like(y) if m.memory is None else m.memory
    m.memory = y
    return y + last


def averages_into_a_buffer(m: Net, y: Tensor) -> Tensor:
    z = y + m.total.reshape(1, 4, 1, 1)
    m.total[:2].copy_(y.mean((0, 2, 3))[:2])
    return z


def joins_four(m: Net, y: Tensor) -> Tensor:
    m.seen = [*m.seen, y][-4:]
    return m.b(sum(m.seen)) if len(m.seen) == 4 else y


def counts_to_three(m: Net, y: Tensor) -> Tensor:
    m.memory = (m.memory or 0) + 1
    return y * (2.0 if m.memory == 3 else 1.0)


def remembers_a_number(m: Net, y: Tensor) -> Tensor:
    z = y if m.memory is None else y * m.memory
    m.memory = y.mean().item()
    return z


def sums_ever_more(m: Net, y: Tensor) -> Tensor:
    m.seen.append(y)
    for one in m.seen:
        y = y + one
    return y


@pytest.mark.parametrize(
    ("body", "frames"),
    [
        (lambda m, y: y, 1),
        (keeps_anchors, 1),
        (adds_the_last, 2),
        (starts_with_zeros, 2),
        (averages_into_a_buffer, 2),
        (remembers_a_number, 2),
        (counts_to_three, 3),
        (joins_four, 4),
        (sums_ever_more, LONGEST_MEMORY),
    ],
)
def test_how_many_images_in_a_row(body: Callable[[Net, Tensor], Any], frames: int) -> None:
    model = Net(body).eval()
    assert survey(model, make, 8, 16).frames == frames
    assert survey_around(model, (make(8, 1),)).frames == frames
    assert model.memory is None and model.seen == [] and not model.total.any()


# Descent --------------------------------------------------------------------------------------------------------------
def test_what_depends_on_given_tensors() -> None:
    x, other = torch.ones(3), torch.ones(3)
    with torch.no_grad(), Descendants([x]) as seen:
        y, z, shaped, made = x * 2, other * 2, torch.zeros_like(x), x.new_ones(3)
        buffer = torch.zeros(3)
        buffer[:2].copy_(y[:2])
        inside = [t in seen for t in (x, y, y.view(3, 1), (y > 1), y[:0], buffer, torch.stack([z, y]))]
        outside = [t in seen for t in (other, z, shaped, made, torch.zeros(0))]
        assert not seen.numbers
        z.sum().item()
        assert not seen.numbers
        y.sum().item()
        assert seen.numbers
    assert all(inside) and not any(outside)
