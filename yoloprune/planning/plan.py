"""A decision as plain data: which positions of which modules stay. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from yoloprune.errors import PlanError


@dataclass(frozen=True)
class Keep:
    """Kept positions of one module.

    Attributes:
        outputs (tuple[int, ...] | None): Kept output positions, None for all.
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
        return cls(**fields)


@dataclass(frozen=True)
class Plan:
    """The decision: for each module that changes, the kept output and input positions. Plain data, replayable.

    Attributes:
        keep (Mapping[str, Keep]): By module name, or name of a loose parameter.
    """

    keep: Mapping[str, Keep]

    def __len__(self) -> int:
        return len(self.keep)

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
