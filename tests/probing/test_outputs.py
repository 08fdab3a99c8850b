"""Everything that comes out of a forward pass, whatever holds it, with the path that leads there."""

from __future__ import annotations

from collections import UserDict, deque, namedtuple
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yoloprune.probing.outputs import leaves, plain, tensors

X = torch.tensor([1.0, 2.0])


@dataclass
class Data:
    x: Tensor
    hidden: int = field(default=3, repr=False, compare=False)


class Slots:
    __slots__ = ("__private", "x")

    def __init__(self, x: Tensor) -> None:
        self.x, self.__private = x, 4


class Attributes:
    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class Named(dict):
    """A dictionary whose keys are attributes as well."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        vars(self).update(values)


class Endless(Attributes):
    """Iterating gives another one of its kind, as with results of a detector that are sliced."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Endless]:
        return iter([Endless(**vars(self))])


class Listed(list):
    pass


def carrying(holder: Any, **values: Any) -> Any:
    """The same with attributes."""
    vars(holder).update(values)
    return holder


class Carrier(Tensor):
    pass


Pair = namedtuple("Pair", "x n")


@pytest.mark.parametrize(
    ("output", "paths"),
    [
        (X, [""]),
        ([X, {"a": (X, 5)}], ["[0]", "[1]['a'][0]", "[1]['a'][1]"]),
        (Pair(X, 2), ["[0]", "[1]"]),
        (deque([X]), ["[0]"]),
        ((x for x in (X, X)), ["[0]", "[1]"]),
        (Data(X), [".x", ".hidden"]),
        (Slots(X), ["._Slots__private", ".x"]),
        (SimpleNamespace(x=X, n=None), [".x", ".n"]),
        (Named(x=X), ["['x']"]),
        (Endless(x=X), [".x"]),
        (carrying(Listed([1]), x=X), ["[0]", ".x"]),
        (carrying(Named(a=1), x=X), ["['a']", ".x"]),
        (carrying(X.clone().as_subclass(Carrier), x=X), ["", ".x"]),
        (range(10**9), [""]),
        ([], []),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else None,
)
def test_paths(output: Any, paths: list[str]) -> None:
    assert sorted(leaf.path for leaf in leaves(output)) == sorted(paths)


@pytest.mark.parametrize(
    ("output", "path"),
    [(UserDict(a=X), "['a']"), (torch.distributions.Normal(X, X + 1), ".loc")],
    ids=["dict", "normal"],
)
def test_paths_among_others(output: Any, path: str) -> None:
    assert dict(leaves(output))[path].equal(X)


def test_values_are_the_very_ones() -> None:
    y = X * 2
    assert [leaf.value for leaf in leaves({"a": "text", "b": 1.5, "c": None})] == ["text", 1.5, None]
    assert all(a is b for a, b in zip(tensors([X, Data(y)]), [X, y], strict=True))


def test_an_object_that_holds_itself_ends() -> None:
    one = SimpleNamespace(x=X)
    one.me = [one]
    assert [leaf.path for leaf in leaves(one)] == [".x"]


@pytest.mark.parametrize("hidden", [lambda: X, nn.Linear(2, 2)], ids=["function", "module"])
def test_what_cannot_be_looked_into_is_a_leaf(hidden: Any) -> None:
    assert [(leaf.path, leaf.value) for leaf in leaves([hidden])] == [("[0]", hidden)]


def test_arrays_are_tensors_and_objects_in_them_are_found() -> None:
    (one,) = leaves(np.array([[1, 2]]))
    assert torch.equal(one.value, torch.tensor([[1, 2]]))
    assert [leaf.value for leaf in leaves(np.array([None, "a"], dtype=object))] == [None, "a"]


@pytest.mark.parametrize(("number", "dtype"), [(1.5, torch.float32), (3, torch.int64), (True, torch.bool)])
def test_many_numbers_are_one_tensor(number: Any, dtype: torch.dtype) -> None:
    (one,) = leaves([[number] * 100])
    assert one.path == "[0]" and one.value.dtype == dtype and one.value.tolist() == [number] * 100
    assert len(leaves([number] * 15)) == 15
    assert len(leaves([number] * 50 + ["text"])) == 51


def test_numbers_beyond_64_bits() -> None:
    assert leaves([10**30] * 20)[7] == ("[7]", 10**30)


def test_plain_values() -> None:
    dense = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    for other in (dense.to_sparse(), dense.to_sparse_csr(), dense.as_subclass(Carrier), nn.Parameter(dense)):
        assert type(plain(other)) is Tensor and plain(other).tolist() == dense.tolist()
    ragged = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    assert plain(ragged).tolist() == [[1, 0], [1, 1]]
    own = plain(dense)
    dense += 1
    assert own.tolist() == [[0, 2], [0, 0]]
