"""Which tensors of a pass depend on the values of some others, e.g. on the image or on the layers that are cut."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from yoloprune.torch_internals import DispatchMode, schema_of, storage_key, tree_leaves


class Descendants(DispatchMode):
    """While active, marks all that is computed from given tensors; what takes only a shape from them is not.

    Attributes:
        numbers (bool): Whether the forward pass read one of the marked values as a Python number.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.numbers = False
        self._marked: dict[Any, Any] = {}  # what holds their values, kept alive so that no other gets its place
        self._mark(tensors)

    def __contains__(self, tensor: Tensor) -> bool:
        return _memory(tensor)[0] in self._marked

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        out = func(*args, **kwargs)
        name = schema_of(func).name
        if name.endswith("_like") or name.startswith("aten::new_"):
            return out
        taken = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        if any(a in self for a in taken):
            self.numbers |= not isinstance(out, Tensor | list | tuple) and out is not None
            written = taken[:1] if schema_of(func).is_mutable else []
            self._mark(a for a in [*tree_leaves(out), *written] if isinstance(a, Tensor))
        return out

    def _mark(self, tensors: Iterable[Tensor]) -> None:
        self._marked.update(map(_memory, tensors))


def _memory(tensor: Tensor) -> tuple[Any, Any]:
    """What tells the memory of a tensor, which its views share, from others; and what keeps it."""
    if tensor.layout == torch.strided and not tensor.is_nested:
        storage = tensor.untyped_storage()
        return storage.data_ptr() or storage_key(storage), storage  # an array of numpy has the same address
    return id(tensor), tensor
