"""Groups of channels whose widths keep a fixed proportion. Pure data, no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import gcd


@dataclass(frozen=True)
class Tie:
    """Groups whose widths keep a fixed proportion, e.g. the halves of a `chunk` or the heads of an attention block.

    Every constraint met in a trace is homogeneous (equal halves, equal heads, so many channels as another tensor has)
    and holds at full width, so it holds at every common fraction of the full widths.

    Attributes:
        groups (tuple[int, ...]): Indices of the tied groups; a single untied group is a tie of one.
        sizes (tuple[int, ...]): Full width of each group.
        allowed (tuple[int, ...] | None): Units below the full one that may be chosen, None for all.
        heads (tuple[tuple[tuple[int, ...], ...], ...]): Per attention operation its heads, each as the groups that run
            through it, where whole heads go and the others stay as they are; empty where all heads shrink alike.
        packs (tuple[int, ...]): How many neighbours one class of each group is, in whatever it runs through; 1 each
            where empty. The groups of a grouped convolution go as a whole.
    """

    groups: tuple[int, ...]
    sizes: tuple[int, ...]
    allowed: tuple[int, ...] | None = None
    heads: tuple[tuple[tuple[int, ...], ...], ...] = ()
    packs: tuple[int, ...] = ()

    @cached_property
    def shrinking(self) -> dict[int, int]:
        """Full width of every group that does not go or stay with a whole head."""
        headed = {g for attention in self.heads for head in attention for g in head}
        return {g: size for g, size in zip(self.groups, self.sizes, strict=True) if g not in headed}

    @cached_property
    def channels(self) -> list[int]:
        """Channels that each of these groups has side by side at full width."""
        packs = dict(zip(self.groups, self.packs or (1,) * len(self.groups), strict=True))
        return [size * packs[g] for g, size in self.shrinking.items()]

    @cached_property
    def units(self) -> int:
        """Number of equal steps from nothing to full width: the greatest common divisor of sizes and head counts."""
        return gcd(*self.shrinking.values(), *map(len, self.heads))

    def widths(self, unit: int) -> tuple[int, ...]:
        """Width of each group at `unit` of `units` steps. Which heads stay is open: here it is the first ones."""
        stay = {g for heads in self.heads for head in heads[: len(heads) // self.units * unit] for g in head}
        return tuple(
            size // self.units * unit if g in self.shrinking else size * (g in stay)
            for g, size in zip(self.groups, self.sizes, strict=True)
        )

    def without(self, gone: Collection[int]) -> Tie | None:
        """The tie of those groups that are not among some, None where there are none."""
        if not set(self.groups).intersection(gone):
            return self
        stay = [i for i, g in enumerate(self.groups) if g not in gone]
        if not stay:
            return None
        heads = tuple(rest for heads in self.heads if (rest := tuple(h for h in heads if not {*h}.intersection(gone))))
        groups, sizes = (tuple(every[i] for i in stay) for every in (self.groups, self.sizes))
        packs = tuple(self.packs[i] for i in stay) if self.packs else ()
        left = Tie(groups, sizes, None, heads, packs)
        if self.allowed is None:
            return left
        share = left.units // self.units
        return replace(left, allowed=tuple(unit * share for unit in self.allowed))

    def unit_of(self, widths: Sequence[int]) -> int | None:
        """The unit at which the groups have these widths, None where they are out of proportion."""
        share = {g: Fraction(int(w), size) for g, w, size in zip(self.groups, widths, self.sizes, strict=True)}
        found = {share[g] for g in self.shrinking}
        for heads in self.heads:
            whole = [{share[g] for g in head} for head in heads]
            if any(s not in ({0}, {1}) for s in whole):
                return None
            found.add(Fraction(whole.count({Fraction(1)}), len(heads)))
        unit = found.pop() * self.units
        return None if found or unit.denominator > 1 else int(unit)
