"""How the work of each operation grows with the image: a trace runs on a small one, FLOPs are told for a large one."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from yoloprune.probing.examples import Example
from yoloprune.probing.operations import PRODUCTS, without_work
from yoloprune.torch_internals import DispatchMode, is_out_of_memory, schema_of
from yoloprune.tracing.operation import COSTED


class Work(DispatchMode):
    """Work of each costed operation, in the order of execution, without labels."""

    def __init__(self) -> None:
        super().__init__()
        self.work: list[float] = []

    def operation(self, func: Any, args: Any, kwargs: Any) -> Any:
        out = func(*args, **kwargs)
        if schema_of(func).name in COSTED:
            tensors = [a for a in args if isinstance(a, Tensor)]
            first = out[0] if isinstance(out, tuple) else out
            self.work.append(
                float(first.numel() * tensors[0].shape[-1] if schema_of(func).name in PRODUCTS else first.numel())
            )
        return out


def growths(model: nn.Module, example: Example, area: float) -> list[float]:
    """Factor from the example's size to the asked one for each costed operation.

    Measured, not assumed: convolutions grow with the area, products of positions with its square, pooled maps and text
    not at all. Two passes, the second on an image of twice the side, tell which.
    """
    if area == 1.0:
        example(model)  # a model that does not run is found here
        return []
    twice = example.cast(lambda x: x.repeat(1, 1, 2, 2) if x.ndim == 4 else x)
    try:
        with without_work():
            small, large = (_work(model, one) for one in (example, twice))
    except Exception as e:  # whatever a layer may raise that looks at its values
        if is_out_of_memory(e):
            raise
        small, large = (_work(model, one) for one in (example, twice))
    if len(small) != len(large):
        return [area] * len(small)
    # an operation on nothing, as where no box is found, tells nothing of how it grows
    return [area ** (math.log(b / a) / math.log(4)) if a and b else area for a, b in zip(small, large, strict=True)]


def _work(model: nn.Module, example: Example) -> list[float]:
    counted = Work()
    with counted:
        example(model)
    return counted.work
