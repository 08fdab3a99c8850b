"""Numbers that are united step by step: which of them end up together."""

from __future__ import annotations

from collections.abc import Iterable


class DisjointSets:
    """Disjoint sets of the numbers below n; the smallest of a set leads it."""

    def __init__(self, n: int) -> None:
        self.lead = list(range(n))

    def find(self, g: int) -> int:
        """The number that leads the set of this one."""
        while self.lead[g] != g:
            g = self.lead[g]
        return g

    def unite(self, members: set[int]) -> None:
        """Make the sets of these numbers one."""
        leads = {self.find(g) for g in members}
        for g in leads:
            self.lead[g] = min(leads)

    def listed(self) -> list[list[int]]:
        """All sets, each in rising order."""
        found: dict[int, list[int]] = {}
        for g in range(len(self.lead)):
            found.setdefault(self.find(g), []).append(g)
        return list(found.values())


def united(n: int, sets: Iterable[set[int]]) -> list[list[int]]:
    """Numbers below n, those that share a set together, in rising order."""
    together = DisjointSets(n)
    for members in sets:
        together.unite(members)
    return together.listed()
