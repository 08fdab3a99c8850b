"""Whether an element-wise operation gives zero where cut channels are zero: tried, whatever else it may be given."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from yoloprune.torch_internals import is_out_of_memory, schema_of, tree_map
from yoloprune.tracing.operation import Call

AT_MOST = 4
"""Tensors that may stand for anything at once; an operation with more is not tried."""


def zero_at_zero(call: Call) -> bool:
    """Whether cut channels are zero in the result, as they are in the arguments.

    That must not hang on the example: a mask that happens to be nowhere true gives zero there, and another image makes
    it true. So whatever is no channel stands for several values in turn; only what was made from literals, which no
    image has a say in, is what it is. Nothing that the network goes on with is touched by operations in place.
    """
    tr, written = call.tracer, schema_of(call.func).is_mutable
    tensors = {id(t): t for t in call.tensors()}
    empty = {i for i, t in tensors.items() if (tag := tr.tag(t)) is not None and tag.zero}
    told = {i for i, t in tensors.items() if i not in empty and t in tr.literals}
    others = [i for i in tensors if i not in empty | told]
    if len(others) > AT_MOST:
        return False
    for values in product(*(_stand_ins(tensors[i].dtype) for i in others)):
        by_id = dict(zip(others, values, strict=True))

        def given(value: Any, by_id: dict[int, Any] = by_id) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) in told:
                return value.clone()
            return value.new_full(value.shape if written else [1] * value.ndim, by_id.get(id(value), 0))

        args, kwargs = tree_map(given, (tuple(call.args), call.kwargs))
        if not _is_zero(call, args, kwargs, undefined=any(v == 0 and v is not False for v in values)):
            return False
    return True


def _is_zero(call: Call, args: Any, kwargs: Any, *, undefined: bool) -> bool:
    """Whether the operation gives zero; what it cannot do with a zero of the network's is no answer."""
    try:
        out = call.func(*args, **kwargs)
    except RuntimeError as e:  # integers, whose division by zero raises
        if undefined and not is_out_of_memory(e):
            return True
        raise
    found: Tensor = out[0] if isinstance(out, tuple) else out
    if undefined and found.is_floating_point():
        found = found.nan_to_num(0.0)
    return not found.count_nonzero()  # not a number counts as well


def _stand_ins(dtype: torch.dtype) -> Iterator[Any]:
    """What a tensor of a type may hold, zero among it: where that makes a difference others do as well."""
    yield from (False, True) if dtype == torch.bool else (0, 1, 2) if not dtype.is_floating_point else (-1.5, 0, 1.5)
