"""What a network holds is what it held, whatever a pass did to it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import noise
from torch import Tensor, nn

from yoloprune.errors import ModelError
from yoloprune.probing.examples import Example, run
from yoloprune.probing.held_state import LARGE, Held, copied, preserved, state_of, weights_kept
from yoloprune.probing.survey import survey_around

IMAGE = noise(2, 3)


class Remembers(nn.Module):
    """Changes something of its own with every pass, in a way that is given."""

    def __init__(self, **held: Any) -> None:
        super().__init__()
        self.layer, self.how = nn.Linear(3, 3), held.pop("how")
        self.register_buffer("mean", torch.zeros(()))
        vars(self).update(held)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        self.how(self, y)
        return y


def behind_the_counter(m: Any, y: Tensor) -> None:
    m.mean.data.mul_(0.9).add_(y.sum() + 1)


def in_an_object(m: Any, y: Tensor) -> None:
    m.seen.last = y


def in_a_nested_object(m: Any, y: Tensor) -> None:
    m.seen["all"].passes += 1


def of_another_size(m: Any, y: Tensor) -> None:
    m.mean.data = torch.ones(2)


def in_an_array(m: Any, y: Tensor) -> None:
    m.counts += 1


KINDS: dict[str, dict[str, Any]] = {
    "a buffer written to through data": {"how": behind_the_counter},
    "a buffer made larger": {"how": of_another_size},
    "an attribute of an object": {"how": in_an_object, "seen": SimpleNamespace(last=None)},
    "an object in a dict": {"how": in_a_nested_object, "seen": {"all": SimpleNamespace(passes=0)}},
    "an array": {"how": in_an_array, "counts": np.zeros(2)},
}


def told(model: Remembers) -> tuple[Any, ...]:
    """What the four kinds hold, as plain values."""
    seen, held = vars(model).get("seen"), vars(model).get("counts")
    last = getattr(seen, "last", 0) if not isinstance(seen, dict) else seen["all"].passes
    return model.mean.tolist(), last, None if held is None else held.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_put_back_and_noticed(kind: str) -> None:
    model = Remembers(**KINDS[kind])
    before, state = told(model), state_of(model)
    assert state_of(model) == state
    with preserved(model):
        model(IMAGE)
        assert told(model) != before and state_of(model) != state
    assert told(model) == before


def test_tensors_without_a_shape_are_left_in_peace() -> None:
    ragged = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    model = Remembers(how=lambda m, y: None, ragged=ragged)
    state = state_of(model)
    with preserved(model):
        model(IMAGE)
    assert model.ragged is ragged and state_of(model) == state


class Watcher:
    """A hook that remembers what it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, *_: Any) -> None:
        self.seen += 1


def test_those_who_watch_a_network_keep_what_they_saw() -> None:
    model, watcher = nn.Sequential(nn.Linear(3, 3)), Watcher()
    model[0].register_forward_hook(watcher)
    with preserved(model):
        model(IMAGE)
        model[0].register_forward_hook(watcher)
    model(IMAGE)
    assert watcher.seen == 2


def test_hooks_that_came_after_it_was_looked_up_stay_and_those_of_a_pass_go() -> None:
    """One record serves a network that is watched in other ways from one pass to the next."""
    model, within, between = nn.Sequential(nn.Linear(3, 3)), Watcher(), Watcher()
    held = preserved(model)
    handle = model[0].register_forward_hook(between)
    with held:
        model(IMAGE)
        model[0].register_forward_pre_hook(within)
    model(IMAGE)
    assert (between.seen, within.seen) == (2, 0)
    handle.remove()
    with held:
        model(IMAGE)
    model(IMAGE)
    assert between.seen == 2 and not model[0]._forward_hooks


def test_blocks_of_one_record_within_one_another() -> None:
    model, outer, inner = nn.Sequential(nn.Linear(3, 3)), Watcher(), Watcher()
    with preserved(model) as held:
        model[0].register_forward_hook(outer)
        with held:
            model[0].register_forward_pre_hook(inner)
        model(IMAGE)
    model(IMAGE)
    assert (outer.seen, inner.seen) == (1, 0)


def test_attributes_come_back_in_their_order_and_with_their_identity() -> None:
    def swap(m: Any, y: Tensor) -> None:
        m.first = m.__dict__.pop("first")  # the same value in another place
        m.seen["a"] = [*m.seen["a"]]

    listed = [1, 2]
    model = Remembers(how=swap, first=1000.25, second=2, seen={"a": listed})
    held = preserved(model)
    for _ in range(2):
        with held:
            model(IMAGE)
            assert [*vars(model)][-1] == "first" and model.seen["a"] is not listed
        assert [*vars(model)][-3:] == ["first", "second", "seen"] and model.first == 1000.25
        assert model.seen["a"] is listed


def test_what_is_no_part_of_a_network_is_left_alone() -> None:
    """A logger hangs on it, and on that all loggers of the process; large arrays are data."""

    def log(m: Any, y: Tensor) -> None:
        m.log.seen = 1
        m.data[0] = 1

    model = Remembers(how=log, log=logging.Logger("net"), data=np.zeros(LARGE // 8 + 1))
    with preserved(model):
        model(IMAGE)
    assert model.log.seen == model.data[0] == 1


class Merging(nn.Linear):
    """An adapter that is merged when the layer is told to evaluate, and taken out when it is told to train."""

    def train(self, mode: bool = True) -> Any:
        self.weight.data += -0.5 if mode else 0.5
        return super().train(mode)


class Normed(nn.Linear):
    """Weights of a largest size, seen to with every pass."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.1)
        return super().forward(x)


@pytest.mark.parametrize("kind", [Merging, Normed])
def test_a_network_that_changes_its_own_weights_is_refused_and_as_it_was(kind: type[nn.Linear]) -> None:
    model = nn.Sequential(kind(3, 3), nn.Linear(3, 2))
    held, before = model[0].weight, model[0].weight.detach().clone()
    with pytest.raises(
        ModelError, match=r"changes its own weights when it runs, or is put into another mode: 0\.weight"
    ):
        survey_around(model, (Example.of(IMAGE),))
    assert model[0].weight is held and torch.equal(held, before)


def test_weights_that_are_set_to_what_they_are_change_nothing() -> None:
    model = Normed(3, 3)
    model(IMAGE)  # from now on they are as large as may be
    before, place = model.weight.detach().clone(), model.weight.data_ptr()
    survey_around(model, (Example.of(IMAGE),))
    assert torch.equal(model.weight, before) and model.weight.data_ptr() == place


def test_weights_are_put_back_where_a_pass_fails_as_well() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with pytest.raises(KeyError), weights_kept(model):
        model.weight.data += 1
        raise KeyError
    assert torch.equal(model.weight, before)


def test_a_copy_of_a_network_that_keeps_what_it_made() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    model.seen = {"last": model(IMAGE)}
    copy = copied(model)
    assert torch.equal(copy.seen["last"], model.seen["last"]) and copy.seen["last"].is_leaf
    assert copy[0].weight is not model[0].weight


class Scales(nn.Module):
    """Takes an object, and changes what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, batch: Any) -> Tensor:
        batch.image.div_(0.25)
        return self.layer(batch.image)


class Uncopied:
    def __init__(self, image: Tensor) -> None:
        self.image = image

    def __copy__(self) -> Any:
        raise TypeError


def test_inputs_that_refer_to_themselves_or_cannot_be_copied() -> None:
    batch = SimpleNamespace(image=noise(2, 3))
    batch.self, batch.fixed = batch, Uncopied(noise(1))
    copy = Example.of(batch).fresh()[0]
    assert copy is not batch and copy.self is copy and copy.fixed is batch.fixed
    assert copy.image is not batch.image and torch.equal(copy.image, batch.image)


def test_inputs_in_objects_are_copied_and_cast() -> None:
    batch = SimpleNamespace(image=noise(2, 3), name="first")
    example = Example.of(batch)
    run(Scales(), example, training=False)
    assert torch.equal(batch.image, noise(2, 3))
    double = example.cast(Tensor.double).inputs[0]
    assert double.image.dtype == torch.float64 and double.name == "first" and batch.image.dtype == torch.float32


def test_what_was_held_once_is_put_back_again_and_again() -> None:
    model = nn.BatchNorm1d(2)
    model.seen = [1]  # type: ignore[assignment]
    held = Held(model)
    for _ in range(2):
        with held:
            model.running_mean.data = torch.ones(5)  # larger, and another memory
            model.running_mean.add_(1.0)
            model.seen.append(2)
            model.extra = "new"
        assert model.running_mean.tolist() == [0.0, 0.0]
        assert model.seen == [1] and not hasattr(model, "extra")


def test_a_weight_that_is_not_a_number_is_no_changed_one() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight[0, 1] = float("nan")
    with weights_kept(model):
        model(noise(1, 2))
    with pytest.raises(ModelError, match="changes its own weights"), weights_kept(model), torch.no_grad():
        model.weight[0, 0] = float("nan")
