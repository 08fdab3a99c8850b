"""A decision as plain data: which positions of which modules stay. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from yoloprune import files
from yoloprune.errors import PlanError
from yoloprune.planning.tables import in_text

FORMAT = "yoloprune plan 1"
"""What a file of a plan says that it is."""


@dataclass(frozen=True)
class Keep:
    """Kept positions of one module.

    Attributes:
        outputs (tuple[int, ...] | None): Kept output positions, None for all; none at all for a residual branch that
            goes as a whole.
        inputs (tuple[int, ...] | None): Kept input positions, None for all.
        of (tuple[int | None, int | None]): Widths (outputs, inputs) in the parent where they change.
        heads (int | None): Into how many attention heads the kept outputs divide, None for as many as in the parent:
            half of two heads may be one whole head, or half of each.
    """

    outputs: tuple[int, ...] | None = None
    inputs: tuple[int, ...] | None = None
    of: tuple[int | None, int | None] = (None, None)
    heads: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers of what is set."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items() if v is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Keep:
        """Inverse of `to_dict`; raises AttributeError or TypeError where the data is none."""
        if not isinstance(data.get("heads", 1), int):
            raise TypeError(f"heads is {data['heads']!r}")
        fields: dict[str, Any] = {k: v if k == "heads" else tuple(v) for k, v in data.items()}
        kept = cls(**fields)
        for positions in (kept.outputs, kept.inputs):
            if any(type(position) is not int for position in positions or ()):
                raise TypeError(f"positions are {positions}")
        if len(kept.of) != 2 or any(type(width) not in {int, NoneType} for width in kept.of):
            raise TypeError(f"of is {kept.of}")
        return kept


REMOVED = Keep(outputs=())
"""What is kept of a residual branch that goes as a whole: the module hands on what it is given."""


@dataclass(frozen=True, repr=False)
class Plan:
    """The decision: for each module that changes, the kept output and input positions. Plain data, replayable.

    Attributes:
        keep (Mapping[str, Keep]): By module name, or name of a loose parameter, or of a number that a module keeps.
    """

    keep: Mapping[str, Keep]

    def __len__(self) -> int:
        return len(self.keep)

    def __repr__(self) -> str:
        rows = [
            (
                name,
                *(
                    "removed" if k == REMOVED else f"{len(kept)} of {of}" if kept else "all"
                    for kept, of in zip((k.outputs, k.inputs), k.of, strict=True)
                ),
            )
            for name, k in self.keep.items()
        ]
        return in_text(f"Plan: {len(self)} modules change", ("module", "outputs", "inputs"), rows)

    @property
    def removed(self) -> list[str]:
        """Modules that go as a whole: residual branches, which hand on their input."""
        return [name for name, keep in self.keep.items() if keep == REMOVED]

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, in one step.

        Args:
            path (str | Path): The file; one that is there is replaced.

        Raises:
            WriteError: If it cannot be written.
        """
        text = json.dumps({"format": FORMAT, "keep": self.to_dict()})
        files.write_at_once(Path(path), lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read what `save` wrote.

        Args:
            path (str | Path): The file.

        Raises:
            PlanError: If there is no such file, or it is none of a plan.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as e:
            raise PlanError(f"{path} cannot be read as a plan: {e}.") from e
        if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("keep"), dict):
            raise PlanError(f"{path} is no plan: `Plan.save` writes one.")
        return cls.from_dict(data["keep"])

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain lists for YAML, JSON or a checkpoint: {module: {"outputs": […], "inputs": […], "of": [o, i]}}."""
        return {name: keep.to_dict() for name, keep in self.keep.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Any]]) -> Plan:
        """Inverse of `to_dict`.

        Raises:
            PlanError: If the data is not a plan.
        """
        try:
            return cls({str(name): Keep.from_dict(entry) for name, entry in data.items()})
        except (AttributeError, TypeError) as e:
            raise PlanError(f"Not a plan: {e}.") from e

    def widths(self) -> dict[str, dict[str, Any]]:
        """Widths alone, enough to rebuild the shape without weights: {module: {"outputs": n, "inputs": n, "of": …}}."""
        return {
            name: {k: len(v) if k in {"outputs", "inputs"} else v for k, v in keep.to_dict().items()}
            for name, keep in self.keep.items()
        }

    @classmethod
    def from_widths(cls, widths: Mapping[str, Mapping[str, Any]]) -> Plan:
        """A plan that keeps the first so many positions: the same shape as the plan the widths came from."""
        sides = {"outputs", "inputs"}
        return cls.from_dict({n: {k: range(v) if k in sides else v for k, v in w.items()} for n, w in widths.items()})
