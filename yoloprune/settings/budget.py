"""What a cut has to meet, and what it must respect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from yoloprune.settings import own_options
from yoloprune.settings.option import Option
from yoloprune.settings.value_kinds import write_amount


@dataclass(frozen=True, repr=False)
class Budget:
    """What a cut has to meet; all values that are set hold together, and none set means "the dead channels only".

    Attributes:
        flops (float | None): FLOPs kept, as a fraction below 1 or an absolute count.
        params (float | None): Parameters kept, as a fraction below 1 or an absolute count.
        ratio (float | None): Share of the prunable channels removed, in (0, 1); with native widths also of those that
            only the model YAML holds.
    """

    flops: float | None = None
    params: float | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        """Check and convert every value; raises ArgumentError."""
        check_fields(self, (own_options.FLOPS, own_options.PARAMS, own_options.RATIO))

    @classmethod
    def parse(
        cls, flops: str | float | None = None, params: str | float | None = None, ratio: str | float | None = None
    ) -> Budget:
        """Return a budget from numbers or texts with units, e.g. `Budget.parse(flops="4.2G")`."""
        return cls(flops, params, ratio)  # type: ignore[arg-type]  # __post_init__ converts

    def __repr__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return f"Budget({', '.join(f'{name}={value!r}' for name, value in given.items() if value is not None)})"

    def __str__(self) -> str:
        """Return the values that are set as a user writes them."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return " ".join(f"{name}={write_amount(value)}" for name, value in given.items() if value is not None)

    def relaxed(self, share: float, parent: Callable[[str], float]) -> Budget:
        """The budget that holds when `share` of the way from the parent to this one is done.

        Args:
            share (float): 0..1.
            parent (Callable): From "flops" or "params" to what the parent has.
        """

        def ease(value: float | None, kind: str) -> float | None:
            if value is None:
                return None
            fraction = value if value <= 1 else value / parent(kind)
            return min(1 - (1 - fraction) * share, 1 - 1e-9)

        ratio = None if self.ratio is None else max(self.ratio * share, 1e-9)
        return Budget(flops=ease(self.flops, "flops"), params=ease(self.params, "params"), ratio=ratio)

    @property
    def empty(self) -> bool:
        """Return whether no value is set."""
        return all(getattr(self, f.name) is None for f in fields(self))


@dataclass(frozen=True)
class Limits:
    """What a plan must respect.

    Attributes:
        round_to (int): Kept widths are multiples of this.
        min_width (int): Narrowest width in channels.
        max_ratio (float): Largest share of a group that may go, in (0, 1].
        layers (tuple[tuple[str, float], ...]): By name or pattern, the largest share that may go instead of
            `max_ratio`; a text `a=0.3,b=0.5` or a mapping is converted.
        keep (tuple[str, ...]): Dotted module names, shell patterns, or 'backbone' and 'neck'.
        uniform (bool): Whether every group gives the same share.
        native (bool | str | None): Whether only widths that a stock model YAML can say are chosen; None where it is
            possible, "tied" likewise, with every block in one row.
        depth (bool | str): Whether whole residual branches may go as well, or "only" these.
    """

    round_to: int = 8
    min_width: int = 8
    max_ratio: float = 0.8
    layers: tuple[tuple[str, float], ...] = ()
    keep: tuple[str, ...] = ()
    uniform: bool = False
    native: bool | Literal["tied"] | None = None
    depth: bool | Literal["only"] = False

    def __post_init__(self) -> None:
        """Check and convert every value; raises ArgumentError."""
        check_fields(self, (*own_options.SELECTION, own_options.UNIFORM, own_options.DEPTH))


def check_fields(instance: Any, table: Sequence[Option]) -> None:
    """Replace the fields of a frozen instance by their checked values; raises ArgumentError."""
    for option in table:
        object.__setattr__(instance, option.name, option.check(getattr(instance, option.name)))
