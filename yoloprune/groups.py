"""The nouns of pruning: axes, channel groups, ties and plans. Pure data, no torch.

Worked example, a C2f block with one bottleneck whose `cv1` is 32 wide:

* `cv1.conv` has an output *axis* of width 32. `chunk(2)` splits it into two halves of 16.
* The second half enters the bottleneck and is added to the bottleneck's output, so channel 16 + i of `cv1`, channel i
  of `m.0.cv2` and two input positions of `cv2` form one channel *class*: they live or die together.
* All 16 such classes run through the same axes; they are one *group* of size 16, one width to decide.
* `chunk` only works while both halves are equally wide: the two groups are *tied*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np

from yoloprune.errors import PlanError


@dataclass(frozen=True)
class Axis:
    """One prunable dimension of one module.

    Attributes:
        module (str): Dotted module name, or the dotted name of a loose parameter.
        side (str): "outputs" or "inputs"; "count" where channels are only counted: those that a layer hands on,
            or those of a product of activations, for its cost.
        width (int): Number of channel positions.
    """

    module: str
    side: str
    width: int

    def __str__(self) -> str:
        return f"{self.module}.{self.side}"


@dataclass(frozen=True)
class Group:
    """Channel classes that run through exactly the same axes: one layer width to decide.

    Attributes:
        name (str): Name of the axis that makes these channels, with the position range when it is not the whole axis.
        size (int): Number of channel classes in the parent.
        frozen (str | None): Why these channels may not be cut, None when they may.
        axes (tuple[str, ...]): All axes the channels run through.
    """

    name: str
    size: int
    frozen: str | None
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Tie:
    """Groups whose widths keep a fixed proportion, e.g. the halves of a `chunk` or the heads of an attention block.

    Every constraint met in a trace is homogeneous (equal halves, equal heads, so many channels as another tensor has)
    and holds at full width, so it holds at every common fraction of the full widths.

    Attributes:
        groups (tuple[int, ...]): Indices of the tied groups; a single untied group is a tie of one.
        sizes (tuple[int, ...]): Full width of each group.
        allowed (tuple[int, ...] | None): Units below the full one that may be chosen, None for all.
    """

    groups: tuple[int, ...]
    sizes: tuple[int, ...]
    allowed: tuple[int, ...] | None = None

    @property
    def units(self) -> int:
        """Number of equal steps from nothing to full width: the greatest common divisor of the sizes."""
        return gcd(*self.sizes)

    def widths(self, unit: int) -> tuple[int, ...]:
        """Width of each group at `unit` of `units` steps."""
        return tuple(size // self.units * unit for size in self.sizes)


@dataclass(frozen=True)
class Term:
    """One summand of a cost: `factor` times the widths of its axes.

    Attributes:
        factor (float): Cost per product of widths.
        axes (tuple[int, ...]): Indices of zero, one or two axes.
    """

    factor: float
    axes: tuple[int, ...]


@dataclass
class ChannelGraph:
    """What a trace found: which channel positions belong together, and what each costs.

    Attributes:
        axes (list[Axis]): All dimensions that carry channels.
        class_of (list[np.ndarray]): Per axis, the channel class of each position, shape (width,).
        group_of (np.ndarray): Group of each channel class, shape (classes,).
        groups (list[Group]): All groups, frozen ones included.
        ties (list[Tie]): A partition of the prunable groups.
        params (list[Term]): Parameter count as a sum of terms.
        flops (list[Term]): FLOPs of one forward pass at the traced image size, counted as Ultralytics prints them.
        unknown (dict[str, str]): Operations without a rule that froze channels, with the module that ran them.
        bare (np.ndarray | None): Mask of the classes that something reads before a batch-norm scale, shape (classes,).
    """

    axes: list[Axis]
    class_of: list[np.ndarray]
    group_of: np.ndarray
    groups: list[Group]
    ties: list[Tie]
    params: list[Term]
    flops: list[Term]
    unknown: dict[str, str] = field(default_factory=dict)
    bare: np.ndarray | None = None

    @property
    def n_classes(self) -> int:
        """Number of channel classes."""
        return len(self.group_of)

    @property
    def prunable(self) -> np.ndarray:
        """Mask of the channel classes that may be cut, shape (classes,)."""
        free = np.array([g.frozen is None for g in self.groups], dtype=bool)
        return free[self.group_of] if len(free) else np.zeros(0, dtype=bool)

    def classes(self, group: int) -> np.ndarray:
        """Channel classes of a group in the order of their positions, shape (size,)."""
        return self._members[group]

    @cached_property
    def _members(self) -> list[np.ndarray]:
        order = np.argsort(self.group_of, kind="stable")
        counts = np.bincount(self.group_of, minlength=len(self.groups))
        return np.split(order, np.cumsum(counts)[:-1])

    def plan(self, alive: np.ndarray) -> Plan:
        """Turn a mask of surviving classes into a plan.

        Args:
            alive (np.ndarray): Boolean mask, shape (classes,).

        Returns:
            (Plan): Kept positions of every axis that loses some.

        Raises:
            PlanError: If a frozen class is cut, a tie is broken or an axis would lose all its channels.
        """
        if cut := set(self.group_of[~alive & ~self.prunable].tolist()):
            group = self.groups[cut.pop()]
            raise PlanError(f"{group.name} may not be cut: {group.frozen}.")
        widths = np.bincount(self.group_of[alive], minlength=len(self.groups))
        for tie in self.ties:
            got = tuple(int(widths[g]) for g in tie.groups)
            if got[0] * tie.sizes[-1] % tie.sizes[0] or any(
                w * tie.sizes[0] != got[0] * s for w, s in zip(got, tie.sizes, strict=True)
            ):
                names = ", ".join(self.groups[g].name for g in tie.groups)
                raise PlanError(f"The widths of {names} must keep the proportion {tie.sizes}. Received: {got}.")
            unit = got[0] * tie.units // tie.sizes[0]
            if tie.allowed is not None and unit not in {*tie.allowed, tie.units}:
                raise PlanError(f"{self.groups[tie.groups[0]].name} may not be {got[0]} wide.")
        return Plan(self.kept(alive, range(len(self.axes))))

    def kept(self, alive: np.ndarray, axes: Iterable[int]) -> dict[str, Keep]:
        """Kept positions, by module, of some axes; `plan` checks what is chosen, this only that no axis loses all."""
        keep: dict[str, Keep] = {}
        for axis, classes in ((self.axes[i], self.class_of[i]) for i in axes):
            if axis.side == "count":
                continue
            kept = np.flatnonzero(alive[classes])
            if len(kept) == 0:
                raise PlanError(f"{axis} would lose all its {axis.width} channels.")
            if len(kept) < axis.width:
                old = keep.get(axis.module, Keep())
                of = (axis.width, old.of[1]) if axis.side == "outputs" else (old.of[0], axis.width)
                keep[axis.module] = replace(old, **{axis.side: tuple(kept.tolist()), "of": of})
        return keep


@dataclass(frozen=True)
class Keep:
    """Kept positions of one module.

    Attributes:
        outputs (tuple[int, ...] | None): Kept output positions, None for all.
        inputs (tuple[int, ...] | None): Kept input positions, None for all.
        of (tuple[int | None, int | None]): Widths (outputs, inputs) in the parent where they change.
    """

    outputs: tuple[int, ...] | None = None
    inputs: tuple[int, ...] | None = None
    of: tuple[int | None, int | None] = (None, None)


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
        return {name: {k: list(v) for k, v in vars(keep).items() if v is not None} for name, keep in self.keep.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Any]]) -> Plan:
        """Inverse of `to_dict`.

        Raises:
            PlanError: If the data is not a plan.
        """
        try:
            return cls({str(n): Keep(**{k: tuple(v) for k, v in entry.items()}) for n, entry in data.items()})
        except (AttributeError, TypeError) as e:
            raise PlanError(f"Not a plan: {e}.") from e

    def widths(self) -> dict[str, dict[str, Any]]:
        """Widths alone, enough to rebuild the shape without weights: {module: {"outputs": n, "inputs": n, "of": …}}."""
        return {
            name: {k: list(v) if k == "of" else len(v) for k, v in vars(keep).items() if v is not None}
            for name, keep in self.keep.items()
        }

    @classmethod
    def from_widths(cls, widths: Mapping[str, Mapping[str, Any]]) -> Plan:
        """A plan that keeps the first so many positions: the same shape as the plan the widths came from."""
        return cls.from_dict({n: {k: v if k == "of" else range(v) for k, v in w.items()} for n, w in widths.items()})
