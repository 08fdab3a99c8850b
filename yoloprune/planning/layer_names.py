"""What layers are called where a person reads or writes them: by the names of the model that was pruned first.

Blocks of a pruned model may be written as several rows, so what was `model.7` in its parent may be `model.21` by now.
Keys take the parent's names, and all that is printed says them; plans and tensors go by the module's own name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PIECE = ":"
"""Between a layer of the parent and the number of its piece, where it became several rows: `model.4.cv1:2`."""


@dataclass(frozen=True)
class LayerNames:
    """From modules to the names that are printed; empty where these are the same.

    Attributes:
        rows (Mapping[str, str]): By row of the present model, e.g. `model.21`, what it was in the parent.
        gone (tuple[str, ...]): Modules of the parent that no row stands for.
    """

    rows: Mapping[str, str] = field(default_factory=dict)
    gone: tuple[str, ...] = ()

    def of(self, module: str) -> str:
        """The name that is printed of a module, parameter, or part of its channels."""
        head, dot, rest = module.partition(".")
        number = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        row = head + dot + number
        return self.rows.get(row, row) + rest[len(number) :]

    def keys(self, modules: Iterable[str]) -> dict[str, list[str]]:
        """By each name that a key may be given, a layer's or that of anything it lies in, which modules are meant."""
        found: dict[str, list[str]] = {}
        for module in modules:
            called = self.of(module)
            whole = _without_piece(called)
            for name in dict.fromkeys((*_holders(called), *_holders(whole))):
                found.setdefault(name, []).append(module)
        for name in self.gone:
            found.setdefault(name, [])
        return found


AS_THEY_ARE = LayerNames()
"""Of a network none of whose layers is elsewhere."""


def _holders(name: str) -> list[str]:
    """A name and those of all that it lies in, the innermost first."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _without_piece(name: str) -> str:
    """The name that both pieces of a layer have in common: `model.4.cv1.conv` of `model.4.cv1:2.conv`."""
    return ".".join(part.partition(PIECE)[0] for part in name.split("."))
