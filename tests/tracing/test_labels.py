"""The book of labels: who lives and dies with whom, what is frozen, what is tied."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from yoloprune.tracing.labels import LabelBook, Tag


def components(n: int, edges: list[tuple[int, int]]) -> list[int]:
    """Smallest member of each node's component, by painting until nothing changes."""
    colour = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            low = min(colour[a], colour[b])
            changed |= colour[a] != low or colour[b] != low
            colour[a] = colour[b] = low
    return colour


def test_labels_are_issued_once_and_zero_is_no_channel() -> None:
    book = LabelBook()
    assert book.issue(3).tolist() == [1, 2, 3]
    assert book.issue(2).tolist() == [4, 5]
    assert book.roots().tolist() == [0, 1, 2, 3, 4, 5]


def test_labels_that_meet_are_united() -> None:
    book = LabelBook()
    a, b, c = book.issue(2), book.issue(2), book.issue(2)
    book.unite(b, c, "")
    assert torch.equal(book.unite(a, b, ""), a)
    assert book.roots().tolist() == [0, 1, 2, 1, 2, 1, 2]


def test_one_label_against_many() -> None:
    book = LabelBook()
    many, one = book.issue(3), book.issue(1)
    book.unite(many, one, "")
    assert book.roots().tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_roots_of_random_unions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    book, n = LabelBook(), int(rng.integers(2, 60))
    book.issue(n)
    edges = []
    for _ in range(int(rng.integers(1, 12))):
        a, b = (torch.from_numpy(rng.integers(1, n + 1, size=5)) for _ in range(2))
        book.unite(a, b, "")
        edges += list(zip(a.tolist(), b.tolist(), strict=True))
    assert book.roots().tolist() == components(n + 1, edges)


@pytest.mark.parametrize("order", [1, -1])
def test_roots_of_a_long_chain(order: int) -> None:
    book = LabelBook()
    labels = book.issue(100)
    pairs = list(pairwise(labels))[::order]
    for a, b in pairs:
        book.unite(a.reshape(1), b.reshape(1), "")
    assert book.roots().tolist() == [0] + [1] * 100


def test_a_label_that_meets_no_channel_is_frozen() -> None:
    book = LabelBook()
    a = book.issue(3)
    merged = book.unite(a, torch.tensor([1, 0, 0]), "constant")
    assert torch.equal(merged, a)
    assert [(labels.tolist(), why) for labels, why in book.frozen] == [([2, 3], "constant")]
    assert book.unite(torch.tensor([0]), torch.tensor([0]), "nothing").tolist() == [0]
    assert len(book.frozen) == 1


def test_unite_along_a_dimension() -> None:
    book = LabelBook()
    labels = book.issue(6).reshape(2, 3)
    assert book.unite_along(labels, 0, "").tolist() == [[1, 2, 3]]
    assert book.roots().tolist() == [0, 1, 2, 3, 1, 2, 3]


def test_ties_are_written_down_once() -> None:
    book = LabelBook()
    a, b = book.issue(2), book.issue(2)
    book.tie([a])
    book.tie([a, b])
    book.tie([a, b])
    assert [[x.tolist() for x in block] for block in book.blocks.values()] == [[[1, 2], [3, 4]]]


def test_tag_vector_and_rows() -> None:
    plain = Tag(torch.arange(1, 4).reshape(1, 3, 1, 1), 1)
    assert plain.vector(1).tolist() == [1, 2, 3]
    assert plain.vector(2) is None
    assert plain.rows().tolist() == [[1, 2, 3]]
    heads = Tag(torch.arange(1, 7).reshape(1, 2, 3, 1), 2)
    assert heads.vector(2) is None
    assert heads.rows().tolist() == [[1, 2, 3], [4, 5, 6]]
    same = Tag(torch.tensor([[1, 2], [1, 2]]), 1)
    assert same.rows().tolist() == [[1, 2]]
