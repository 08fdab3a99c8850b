"""Which memory was written into by one of several names, so that what the others say of zeros in it is no longer so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from yoloprune.torch_internals import schema_of, storage_key


class Writes:
    """Memory with something in it that may not be zero where cut channels are; a view, or what it is of, may be read.

    It is kept alive, or a new tensor would get its place.
    """

    def __init__(self) -> None:
        self._found: dict[int, torch.UntypedStorage] = {}

    def add(self, tensor: Tensor) -> None:
        """Something that is not zero there may be in it now."""
        if _has_memory(tensor):
            storage = tensor.untyped_storage()
            self._found[storage_key(storage)] = storage

    def discard(self, tensor: Tensor) -> None:
        """It is zero there again."""
        if tensor in self:
            del self._found[storage_key(tensor.untyped_storage())]

    def __contains__(self, tensor: Tensor) -> bool:
        return bool(self._found) and _has_memory(tensor) and storage_key(tensor.untyped_storage()) in self._found


def written_by(func: Any, args: Iterable[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation changes in place."""
    schema = schema_of(func)
    if not schema.is_mutable:
        return []
    places = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    named = dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
    return [value for name in places if isinstance(value := named.get(name), Tensor)]


def _has_memory(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_meta
