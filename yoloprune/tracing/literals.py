"""Tensors whose numbers stand in the network's code, so that no image has a say in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from yoloprune.torch_internals import WeakIdKeyDictionary, schema_of, version_of


class Literals:
    """The tensors of a running network that were made of literals alone, as long as nothing is written into them."""

    def __init__(self) -> None:
        self._versions: WeakIdKeyDictionary[Tensor, float] = WeakIdKeyDictionary()

    def __contains__(self, tensor: Tensor) -> bool:
        return self._versions.get(tensor) == version_of(tensor)

    def made(self, out: Any) -> None:
        """Something was made of literals."""
        if isinstance(out, Tensor):
            self._versions[out] = version_of(out)

    def saw(self, func: Any, read: Sequence[Tensor], out: Any) -> None:
        """An operation read these and gave that; what draws numbers, or leaves them as memory has them, says none."""
        name = schema_of(func).name
        if "empty" in name or torch.Tag.nondeterministic_seeded in func.tags:
            return
        if name == "aten::lift_fresh" or all(tensor in self for tensor in read):  # `torch.tensor` of numbers
            self.made(out)
