"""One executed operation, as the rules see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from yoloprune.probing.operations import CONVOLUTIONS, NORMS, PRODUCTS
from yoloprune.torch_internals import schema_of
from yoloprune.tracing.trace_state import TraceState

COSTED = CONVOLUTIONS | PRODUCTS | NORMS
"""Operations whose rules count FLOPs."""


@dataclass
class Call:
    """One executed operation."""

    tracer: TraceState
    func: Any
    args: Sequence[Any]
    kwargs: dict[str, Any]
    out: Any
    shape: Sequence[int] = ()  # of the first argument before, where an operation gives it another in place
    strides: Sequence[int] = ()

    @property
    def name(self) -> str:
        """Operation name without overload, e.g. `aten::cat`."""
        return schema_of(self.func).name

    def arg(self, name: str, default: Any = None) -> Any:
        """Argument by schema name, whether it was passed by position or keyword."""
        for i, a in enumerate(schema_of(self.func).arguments):
            if a.name == name:
                return self.args[i] if i < len(self.args) else self.kwargs.get(name, default)
        return default

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, lists included."""
        found: list[Tensor] = []
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, (list, tuple)):
                found += [v for v in value if isinstance(v, Tensor)]
        return found

    def freeze(self, *tensors: Tensor, why: str | None = None) -> None:
        """Freeze the channels of the given tensors with this operation as the reason."""
        op = self.name.removeprefix("aten::")
        reason = f"{why or 'no rule for'} {op} in {self.tracer.place}"
        for tensor in tensors:
            if (tag := self.tracer.tag(tensor)) is not None:
                self.tracer.book.freeze(tag.labels, reason)
                if why is None:
                    self.tracer.unknown.setdefault(op, self.tracer.place)
