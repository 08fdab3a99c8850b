"""The nouns of pruning: axes, channel groups and ties. Pure data, no torch.

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

import numpy as np

from yoloprune.errors import PlanError
from yoloprune.planning.branch import Branch, holder, removed
from yoloprune.planning.layer_names import AS_THEY_ARE, LayerNames
from yoloprune.planning.plan import REMOVED, Keep, Plan
from yoloprune.planning.tables import in_html, in_text
from yoloprune.planning.tie import Tie


@dataclass(frozen=True)
class Axis:
    """One prunable dimension of one module.

    Attributes:
        module (str): Dotted module name, or the dotted name of a loose parameter or of a number that a module keeps.
        side (str): "outputs" or "inputs"; "number" of a number that a module keeps and that counts them; "count" where
            channels are only counted: those that a layer hands on, or those of a product of activations, for its cost.
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
        ceiling (float | None): Largest share of them that may go, None for the limit of all groups.
    """

    name: str
    size: int
    frozen: str | None
    axes: tuple[str, ...]
    ceiling: float | None = None


@dataclass(frozen=True)
class Term:
    """One summand of a cost: `factor` times the widths of its axes.

    Attributes:
        factor (float): Cost per product of widths.
        axes (tuple[int, ...]): Indices of zero, one or two axes.
    """

    factor: float
    axes: tuple[int, ...]


@dataclass(repr=False)
class ChannelGraph:
    """What a trace found: which channel positions belong together, and what each costs.

    Attributes:
        axes (list[Axis]): All dimensions that carry channels.
        class_of (list[np.ndarray]): Per axis, the channel class of each position, shape (width,).
        group_of (np.ndarray): Group of each channel class, shape (classes,).
        groups (list[Group]): All groups, frozen ones included.
        ties (list[Tie]): A partition of the prunable groups.
        withheld (tuple[Tie, ...]): Those of groups that the trace lets go and only what a YAML can say holds.
        params (list[Term]): Parameter count as a sum of terms.
        flops (list[Term]): FLOPs of one forward pass at the traced image size, counted as Ultralytics prints them.
        unknown (dict[str, str]): Operations without a rule that froze channels, with the module that ran them.
        heads (Mapping[int, int]): Axes whose positions divide into so many attention heads, of which whole ones may go.
        bare (np.ndarray | None): Mask of the classes that something reads before a batch-norm scale, shape (classes,).
        branches (tuple[Branch, ...]): Residual branches that may go as a whole, where that is asked for.
        names (LayerNames): What is printed of modules; those of groups, reasons and `unknown` are such already.
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
    heads: Mapping[int, int] = field(default_factory=dict)
    branches: tuple[Branch, ...] = ()
    names: LayerNames = AS_THEY_ARE
    withheld: tuple[Tie, ...] = ()

    def __repr__(self) -> str:
        return in_text(*self._table())

    def _repr_html_(self) -> str:
        return in_html(*self._table())

    def _table(self) -> tuple[str, tuple[str, ...], list[tuple[object, ...]]]:
        """Title, header and rows: every width there is to decide, the ones that may change first."""
        tied = {g: len(tie.groups) for tie in self.ties for g in tie.groups}
        groups = sorted(enumerate(self.groups), key=lambda pair: pair[1].frozen is not None)
        rows: list[tuple[object, ...]] = [
            (g.name, g.size, g.frozen or (f"tied with {tied[i] - 1} more" if tied.get(i, 1) > 1 else "free"))
            for i, g in groups
        ]
        title = f"ChannelGraph: {len(rows)} widths, {int(self.prunable.sum())} of {self.n_classes} channels may go"
        return title, ("width", "channels", "why"), rows

    @property
    def n_classes(self) -> int:
        """Number of channel classes."""
        return len(self.group_of)

    @property
    def prunable(self) -> np.ndarray:
        """Mask of the channel classes that may be cut, shape (classes,)."""
        free = np.array([g.frozen is None for g in self.groups], dtype=bool)
        return free[self.group_of] if len(free) else np.zeros(0, dtype=bool)

    @property
    def counted(self) -> np.ndarray:
        """Mask of the groups that shares of the prunable channels are of, shape (groups,): all that the trace lets go,
        so that a share means as many channels with native widths as with free ones.
        """
        counted = np.array([g.frozen is None for g in self.groups], dtype=bool)
        counted[[g for tie in self.withheld for g in tie.groups]] = True
        return counted

    def classes(self, group: int) -> np.ndarray:
        """Channel classes of a group in the order of their positions, shape (size,)."""
        return self._members[group]

    @cached_property
    def _members(self) -> list[np.ndarray]:
        order = np.argsort(self.group_of, kind="stable")
        counts = np.bincount(self.group_of, minlength=len(self.groups))
        return np.split(order, np.cumsum(counts)[:-1])

    def holding(self, groups: Iterable[int], why: str) -> ChannelGraph:
        """The same graph with some groups frozen, and with them all that is tied to them."""
        held = {g for tie in self.ties if {*tie.groups}.intersection(groups) for g in tie.groups}
        frozen = [replace(group, frozen=why) if g in held else group for g, group in enumerate(self.groups)]
        return replace(self, groups=frozen, ties=[tie for tie in self.ties if not held.intersection(tie.groups)])

    def plan(self, alive: np.ndarray) -> Plan:
        """Turn a mask of surviving classes into a plan.

        Args:
            alive (np.ndarray): Boolean mask, shape (classes,).

        Returns:
            (Plan): Kept positions of every axis that loses some.

        Raises:
            PlanError: If a frozen class is cut, a tie is broken or an axis would lose all its channels outside a branch
                that goes as a whole.
        """
        widths = self.widths(alive)
        whole = {g for branch in removed(self.branches, widths) for g in branch.groups}
        if cut := set(self.group_of[~alive & ~self.prunable].tolist()) - whole:
            group = self.groups[cut.pop()]
            raise PlanError(f"{group.name} may not be cut: {group.frozen}.")
        for tie in filter(None, (tie.without(whole) for tie in self.ties)):
            got = tuple(int(widths[g]) for g in tie.groups)
            if (unit := tie.unit_of(got)) is None:
                names = ", ".join(self.groups[g].name for g in tie.groups)
                raise PlanError(f"The widths of {names} must keep the proportion {tie.sizes}. Received: {got}.")
            if tie.allowed is not None and unit not in {*tie.allowed, tie.units}:
                raise PlanError(f"{self.groups[tie.groups[0]].name} may not be {got[0]} wide.")
        return Plan(self.kept(alive, range(len(self.axes))))

    def widths(self, alive: np.ndarray) -> np.ndarray:
        """How many channels each group keeps, shape (groups,), from a mask of shape (classes,)."""
        return np.bincount(self.group_of[alive], minlength=len(self.groups))

    def kept(self, alive: np.ndarray, axes: Iterable[int]) -> dict[str, Keep]:
        """Kept positions, by module, of some axes; `plan` checks what is chosen, this only that no axis loses all."""
        keep: dict[str, Keep] = {}
        gone = removed(self.branches, self.widths(alive)) if self.branches else []
        for i in axes:
            axis, classes = self.axes[i], self.class_of[i]
            if axis.side == "count":
                continue
            if (branch := holder(gone, axis.module)) is not None:
                keep[branch.name] = REMOVED
                continue
            kept = np.flatnonzero(alive[classes])
            if len(kept) == 0:
                raise PlanError(f"{axis} would lose all its {axis.width} channels.")
            if len(kept) < axis.width:
                old = keep.get(axis.module, Keep())
                side = "inputs" if axis.side == "inputs" else "outputs"
                of = (axis.width, old.of[1]) if side == "outputs" else (old.of[0], axis.width)
                heads = len(np.unique(kept * self.heads[i] // axis.width)) if i in self.heads else old.heads
                keep[axis.module] = replace(old, **{side: tuple(kept.tolist())}, of=of, heads=heads)
        return keep
