"""Scores of single weights, worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import filled
from torch import Tensor, nn

from yoloprune.backend import model_facts
from yoloprune.errors import DataError
from yoloprune.importance import single_weights
from yoloprune.planning import weight_masks
from yoloprune.selection import mask_scores


def test_magnitude_is_the_size() -> None:
    model = nn.Sequential(filled(nn.Conv2d(2, 1, 1), [-3.0, 2.0], [9.0]))
    assert single_weights.magnitude(model, ["0"])["0"].flatten().tolist() == [3.0, 2.0]


def test_taylor_is_what_the_loss_loses_to_first_order() -> None:
    """Loss (w · x - 1)² of w = (1, 2) on x = (1, 0) and (0, 1): slopes 2 (1 - 1) and 2 (2 - 1), so |w · dL/dw| is 0, 4;
    on x = (3, 1) it is 2 (5 - 1) · (3, 1) = (24, 8), so 24 and 16.
    """

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = filled(nn.Linear(2, 1, bias=False), [1.0, 2.0])
            self.unused = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return ((self.layer(x) - 1) ** 2).sum(), None

    model = Loss().requires_grad_(False)  # as a stripped checkpoint
    first, second = torch.eye(2), torch.tensor([[3.0, 1.0]])
    told = single_weights.taylor(model, ["layer"], [first])["layer"]
    assert told.tolist() == [pytest.approx([weight_masks.LEAST, 4.0])]  # not the 0 of a weight that is zero
    found = single_weights.taylor(model, ["layer", "unused"], [first, second])
    assert found["layer"].tolist() == [[12.0, 10.0]] and "unused" not in found
    assert not model.layer.weight.requires_grad and model.layer.weight.grad is None
    with pytest.raises(DataError, match="no images"):
        single_weights.taylor(model, ["layer"], [])


def test_wanda_is_size_times_the_norm_of_what_is_read() -> None:
    """Channels that are 3 and 4 in half of the positions have root mean squares 3 / √2 and 4 / √2 over two images."""
    model = nn.Sequential(filled(nn.Conv2d(2, 2, 1), [[-1.0, 1.0], [2.0, 0.0]]), nn.Flatten(), nn.Linear(4, 1))
    images = torch.zeros(2, 2, 1, 2)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = 3.0, 4.0
    found = single_weights.wanda(model, ["0"], [images[:1], images[1:]])
    root = math.sqrt(2)
    torch.testing.assert_close(found["0"].flatten(1), torch.tensor([[3 / root, 4 / root], [6 / root, 0.0]]))


def test_wanda_of_a_grouped_layer_reads_its_own_inputs_at_every_tap() -> None:
    """Four channels of size 1, 2, 3, 4 in two groups: outputs 0 and 1 read 1 and 2, outputs 2 and 3 read 3 and 4."""
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, padding=1))
    model[0].weight.data.fill_(1.0)
    sizes = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1).expand(2, 4, 5, 5)
    found = single_weights.wanda(model, ["0"], [sizes])["0"]
    assert found.shape == (4, 2, 3, 3) and (found == found[:, :, :1, :1]).all()
    assert found[:, :, 0, 0].tolist() == [[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [3.0, 4.0]]


def test_wanda_of_a_linear_layer_and_of_one_that_does_not_run() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.taken, self.unused = filled(nn.Linear(2, 1), [1.0, 1.0]), nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.taken(x)

    found = single_weights.wanda(Two(), ["taken", "unused"], [torch.tensor([[1.0, 5.0], [1.0, 5.0]])])
    assert list(found) == ["taken"] and found["taken"].tolist() == [[1.0, 5.0]]


def test_random_is_seeded_and_passes_over_zeros() -> None:
    model = nn.Sequential(filled(nn.Linear(3, 1), [1.0, 0.0, 1.0]))
    once, again, other = (single_weights.random(model, ["0"], seed)["0"] for seed in (0, 0, 1))
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert once[0, 1] == 0 and (once[0, [0, 2]] > 0).all()


def test_wanda_of_a_layer_that_is_given_nothing() -> None:
    """As of a second stage for which the first one finds nothing: no scores, where 0 / 0 would be not a number."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    assert single_weights.wanda(model, ["0"], [torch.zeros(0, 2)]) == {}


def test_a_loss_without_a_gradient_ranks_nothing() -> None:
    model = Loss(nn.Sequential(nn.Linear(2, 1)))
    model.forward = lambda x: torch.zeros(())  # type: ignore[method-assign]
    with pytest.raises(DataError, match="the loss is a tensor without a gradient"):
        single_weights.taylor(model, ["model.0"], [torch.zeros(1, 2)])


@pytest.mark.parametrize(
    ("score", "whose"), [("taylor", "the images, or what 0 makes"), ("magnitude", "the weights of 0")]
)
def test_what_is_no_number_ranks_nothing(score: str, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is masked would be chosen by its position."""
    monkeypatch.setattr(single_weights, score, lambda *_: {"0": torch.tensor([[1.0, math.nan]])})
    monkeypatch.setattr(mask_scores, "labelled", lambda *_: [])
    monkeypatch.setattr(model_facts, "with_loss", lambda yolo: yolo.model)
    parent: Any = SimpleNamespace(model=nn.Sequential(nn.Linear(2, 1)))
    sight: Any = SimpleNamespace(device=torch.device("cpu"))
    with pytest.raises(DataError, match=f"score={score}: {whose}.* are not all numbers"):
        mask_scores.scored(parent, ["0"], score, sight)


@pytest.mark.parametrize("score", ["taylor", "wanda"])
def test_zeros_go_before_weights_on_which_nothing_hangs_either(score: str) -> None:
    """The second input is always 0, so that no score tells its weights: 0 and 3. Half of the four go, both zeros."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    filled(model[0], [[1.0, 0.0], [0.0, 3.0]])
    images = [torch.tensor([[1.0, 0.0]])]
    found = (
        single_weights.wanda(model, ["0"], images)
        if score == "wanda"
        else single_weights.taylor(Loss(model), ["model.0"], images)
    )
    (values,) = found.values()
    assert (values == 0).tolist() == [[False, True], [True, False]] and 0 < values[1, 1] < 1e-30
    assert weight_masks.choose(found, "unstructured", 0.5)[next(iter(found))].tolist() == [[True, False], [False, True]]


class Loss(nn.Module):
    """The sum of what a network gives."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).sum()
