"""What a command of the command line is: its keys, its defaults, its help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from yoloprune.settings.option import Option


@dataclass(frozen=True)
class Command:
    """One command of the command line.

    Attributes:
        name (str): The word on the command line.
        summary (str): One line for the help.
        options (tuple[Option, ...]): Own keys.
        host_keys (tuple[str, ...] | None): Ultralytics keys that are accepted; None accepts all of them.
        required (tuple[str, ...]): Ultralytics keys that must be given.
        own_defaults (Mapping[str, Any]): Ultralytics keys with another default here, all or none: where `optimizer` is
            given, the rest is Ultralytics' as well, because learning rates belong to an optimizer.
        chooses_side (bool): Whether it takes `imgsz=auto`.
        examples (tuple[str, ...]): Command lines without the leading `yoloprune`.
        notes (tuple[str, ...]): Further lines for the help.
    """

    name: str
    summary: str
    options: tuple[Option, ...] = ()
    host_keys: tuple[str, ...] | None = ()
    required: tuple[str, ...] = ()
    own_defaults: Mapping[str, Any] = field(default_factory=dict)
    chooses_side: bool = False
    examples: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """Ultralytics' mode whose arguments pass through a command that accepts all of them."""
        return "val" if self.name in {"val", "compare"} else "train"

    def option(self, name: str) -> Option | None:
        """Return the own option of that name, or None."""
        return next((o for o in self.options if o.name == name), None)
