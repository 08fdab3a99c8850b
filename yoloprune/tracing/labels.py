"""Channel labels: integers that say which channel an element belongs to, and what was learned about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Tag:
    """Channel identity of one tensor.

    Attributes:
        labels (Tensor): Integer labels with as many dimensions as the tensor, each of full size or 1 (the label does
            not depend on it). 0 means no channel: a constant that is always there.
        axis (int): The dimension that gets shorter when channels are cut. Labels may vary along other dimensions too,
            e.g. over attention heads; those keep their length, so every row must lose equally many.
        zero (bool): Whether channels that are cut are zero here in the masked parent, so that a sum may leave them out.
        bare (bool): Whether a layer just made these channels and no batch-norm has scaled them yet.
        loose (bool): Whether only parameters and buffers of no layer are in it, which may turn out to be constants.
    """

    labels: Tensor
    axis: int
    zero: bool = True
    bare: bool = False
    loose: bool = False

    def vector(self, dim: int) -> Tensor | None:
        """Labels along `dim` when they vary along nothing else, else None."""
        if self.axis != dim or self.labels.numel() != self.labels.shape[dim]:
            return None
        return self.labels.flatten()

    def rows(self) -> Tensor:
        """Distinct label vectors along the axis, shape (rows, width)."""
        rows = self.labels.movedim(self.axis, -1).reshape(-1, self.labels.shape[self.axis])
        return rows if len(rows) == 1 else torch.unique(rows, dim=0)


class LabelBook:
    """Issues labels and records which must live or die together, which may not be cut, and which counts must agree.

    Attributes:
        divided (dict): Labels whose number must stay a multiple of a number, by themselves and this.
        looked_up (bool): Whether a width was hashed.
        hashed_as_numbers (bool): Whether it has the hash of its value, and may not change then.
    """

    def __init__(self) -> None:
        self.issued = 1  # 0 is "no channel"
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.frozen: list[tuple[np.ndarray, str]] = []
        self.bare: list[np.ndarray] = []
        self.blocks: dict[bytes, list[np.ndarray]] = {}
        self.divided: dict[tuple[bytes, int], np.ndarray] = {}
        self.looked_up, self.hashed_as_numbers = False, False

    def issue(self, n: int) -> Tensor:
        """`n` new labels, shape (n,)."""
        self.issued += n
        return torch.arange(self.issued - n, self.issued)

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Forbid cutting these channels; the first reason a channel gets is the one that is told."""
        self.frozen.append((_flat(labels), reason))

    def read_bare(self, labels: Tensor) -> None:
        """Record that something other than batch-norm reads these channels as a layer made them."""
        self.bare.append(_flat(labels))

    def unite(self, a: Tensor, b: Tensor, reason: str) -> Tensor:
        """Make labels that meet live or die together; a label that meets a constant is frozen.

        Args:
            a (Tensor): Labels.
            b (Tensor): Labels that broadcast with `a`.
            reason (str): Reason for freezing what meets a constant.

        Returns:
            (Tensor): The merged labels in the broadcast shape.
        """
        if a.shape == b.shape and torch.equal(a, b):
            return a
        a, b = torch.broadcast_tensors(a, b)
        both = (a > 0) & (b > 0)
        if both.all():
            self.edges.append((a.numpy().ravel(), b.numpy().ravel()))
            return a
        if (lone := torch.where(both, 0, a + b)).any():
            self.freeze(lone, reason)
        self.edges.append((a[both].numpy(), b[both].numpy()))
        return torch.where(a > 0, a, b)

    def unite_along(self, labels: Tensor, dim: int, reason: str) -> Tensor:
        """Unite all labels along one dimension, which becomes 1."""
        first = labels.narrow(dim, 0, 1)
        if labels.shape[dim] > 1:
            self.unite(first, labels, reason)
        return first

    def tie(self, blocks: list[Tensor]) -> None:
        """Record that these blocks must keep the same share of their channels; beside constants none can be cut."""
        if any((b == 0).any() for b in blocks):
            for b in blocks:
                self.freeze(b, "counted together with constants")
        elif len(blocks) > 1:
            flat = [_flat(b) for b in blocks]
            self.blocks.setdefault(b"|".join(b.tobytes() for b in flat), flat)

    def divide(self, row: Tensor, by: int) -> None:
        """Record that the number of these positions that stay must be a multiple of `by`."""
        if by > 1:
            flat = _flat(row)
            self.divided[flat.tobytes(), by] = flat

    def hash_of(self, value: int, labels: Iterable[Tensor]) -> int:
        """Hash of a width: another than that of its value, so that no table finds what it keeps for that.

        A cache works out anew what it would have found. Where that is no cache but a table (`scales[x.shape[1]]`), the
        network does something else then; that is noticed, and with `hashed_as_numbers` these widths may not change.
        """
        self.looked_up = True
        if not self.hashed_as_numbers:
            return hash((id(self), value))
        for some in labels:
            self.freeze(some, "width used as a number")
        return hash(value)

    def roots(self) -> np.ndarray:
        """Smallest label of the component of each label, shape (issued,), by pointer jumping."""
        parent = np.arange(self.issued)
        if self.edges:
            a, b = (np.concatenate([e[i].ravel() for e in self.edges]) for i in (0, 1))
            while True:
                low, high = np.minimum(parent[a], parent[b]), np.maximum(parent[a], parent[b])
                if (low == high).all():
                    break
                np.minimum.at(parent, high, low)
                while (parent != (jumped := parent[parent])).any():
                    parent = jumped
        return parent


def _flat(labels: Tensor) -> np.ndarray:
    flat = labels.reshape(-1).numpy()
    return flat[flat > 0]


def compress(labels: Tensor, but: int | None = None) -> Tensor:
    """The same labels with size 1 in every dimension, perhaps but for one, along which they do not vary."""
    for d in range(labels.ndim):
        if (
            d != but
            and labels.shape[d] > 1
            and (labels.stride(d) == 0 or bool((labels == labels.narrow(d, 0, 1)).all()))
        ):
            labels = labels.narrow(d, 0, 1)
    return labels
