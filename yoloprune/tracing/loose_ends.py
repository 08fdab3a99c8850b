"""Tensors with channels that nothing reads: what leaves a network on a way that the trace does not see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from yoloprune.torch_internals import WeakIdKeyDictionary

WHY = "no layer reads it, so it may be an output"


class LooseEnds:
    """Follows which tensors were made and not read by any operation.

    A tensor may stay as an attribute, or go out in an object of any kind; a layer may run for nothing on the example.
    """

    def __init__(self) -> None:
        self._made = 0
        self._numbers: WeakIdKeyDictionary[Tensor, int] = WeakIdKeyDictionary()  # of tensors that nothing has read yet
        self._ends: dict[int, tuple[Tensor, StorageWeakRef]] = {}  # their labels, by number
        self._left: list[Tensor] = []  # labels of those that outlived a pass
        self._unread: list[Tensor] = []  # and of all

    def made(self, tensor: Tensor, labels: Tensor) -> None:
        """An operation made a tensor with these labels."""
        self._made += 1
        self._numbers[tensor] = self._made
        self._ends[self._made] = (labels, StorageWeakRef(tensor.untyped_storage()))

    def read(self, tensor: Tensor) -> None:
        """An operation read a tensor."""
        if (number := self._numbers.pop(tensor, None)) is not None:
            self._ends.pop(number, None)

    def end_pass(self) -> None:
        """Note what outlives a pass; to be called while its outputs live."""
        self._left += [labels for labels, storage in self._ends.values() if not storage.expired()]
        self._unread += [labels for labels, _ in self._ends.values()]
        self._ends.clear()

    def labels(self, roots: np.ndarray, axes: Mapping[tuple[str, str], Tensor]) -> Iterator[Tensor]:
        """Labels that no layer reads and that may be outputs. What is left over of a tensor that was split is none.

        Args:
            roots (np.ndarray): Component of each label.
            axes (Mapping): Labels of each (module, side).
        """
        read = _marked(roots, (labels for (_, side), labels in axes.items() if side == "inputs"))
        made = [labels for (_, side), labels in axes.items() if side == "outputs"]
        idle = _marked(roots, (labels for labels in made if not read[roots[labels.numpy()]].any()))
        for ends, among in ((self._left, ~read), (self._unread, idle)):
            for labels in ends:
                flat = labels.flatten()
                yield flat[among[roots[flat.numpy()]]]


def _marked(roots: np.ndarray, labels: Iterable[Tensor]) -> np.ndarray:
    mask = np.zeros(len(roots), dtype=bool)
    for some in labels:
        mask[roots[some.numpy()]] = True
    return mask
