"""What a choice of widths costs, from the traced graph alone: no model is built or run."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from yoloprune.planning.branch import Branch, removed
from yoloprune.planning.channel_graph import ChannelGraph, Term


class Cost:
    """Parameters, FLOPs and channels as functions of the group widths.

    Every axis is as wide as the groups in it, each as often as it occurs (SPPF's concat holds one group four times),
    and a cost is a sum of products of at most two axis widths.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self.graph = graph
        self.full: np.ndarray = np.array([g.size for g in graph.groups], dtype=np.float64)
        self._packs: np.ndarray = np.ones(len(graph.groups))
        for tie in (*graph.ties, *graph.withheld):
            self._packs[list(tie.groups)] = tie.packs or 1

    @cached_property
    def _occurrence(self) -> np.ndarray:
        """How often a group occurs in an axis, shape (axes, groups)."""
        counts = np.zeros((len(self.graph.axes), len(self.graph.groups)))
        for i, classes in enumerate(self.graph.class_of):
            np.add.at(counts[i], self.graph.group_of[classes], 1.0)
        occurrence: np.ndarray = counts / np.maximum(self.full, 1.0)
        return occurrence

    @cached_property
    def _terms(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return {"params": _arrays(self.graph.params), "flops": _arrays(self.graph.flops)}

    def of(self, kind: str, widths: np.ndarray) -> float:
        """Cost at the given widths.

        Args:
            kind (str): "params" (number), "flops" (operations as Ultralytics counts them, one image) or "channels"
                (those that the trace lets go; of those that go as a whole, each).
            widths (np.ndarray): Width of each group, shape (groups,).

        Returns:
            (float): The cost.
        """
        if kind == "channels":
            return float((widths * self._packs)[self.graph.counted].sum())
        factor, first, second = self._terms[kind]
        axis = np.append(self.axes(widths), 1.0)  # index -1: a term with fewer axes
        return float(factor @ (axis[first] * axis[second]))

    def by_module(self, kind: str, widths: np.ndarray) -> dict[str, float]:
        """Cost of each module at the given widths; products of activations count for the first of those they are of.

        Args:
            kind (str): "params" or "flops".
            widths (np.ndarray): Width of each group, shape (groups,).
        """
        factor, first, second = self._terms[kind]
        axis = np.append(self.axes(widths), 1.0)
        found: dict[str, float] = {}
        for i, cost in zip(first, factor * (axis[first] * axis[second]), strict=True):
            name = self.graph.axes[i].module if i >= 0 else ""
            found[name] = found.get(name, 0.0) + float(cost)
        return found

    def axes(self, widths: np.ndarray) -> np.ndarray:
        """Width of each axis, shape (axes,), at the given widths of the groups; 0 in a branch that is removed."""
        found: np.ndarray = self._occurrence @ widths
        for branch in removed(self.graph.branches, widths):
            found[self._inside[branch.name]] = 0.0
            for axis, positions in branch.twice:
                groups = self.graph.group_of[self.graph.class_of[axis][list(positions)]]
                found[axis] -= (widths[groups] / self.full[groups]).sum()
        return found

    @cached_property
    def _inside(self) -> dict[str, np.ndarray]:
        """By branch the axes that lie in it."""
        return {
            branch.name: np.flatnonzero([branch.holds(axis.module) for axis in self.graph.axes])
            for branch in self.graph.branches
        }

    def without(self, branch: Branch, widths: np.ndarray) -> np.ndarray:
        """Widths, shape (groups,), once a branch is removed."""
        left: np.ndarray = widths.copy()
        left[list(branch.groups)] = 0
        return left

    def slope(self, kind: str) -> np.ndarray:
        """What the last channel of each group costs in the uncut model, shape (groups,)."""
        if kind == "channels":
            return self._packs
        factor, first, second = self._terms[kind]
        axis = np.append(self._occurrence @ self.full, 1.0)
        per_axis: np.ndarray = np.zeros(len(axis))
        np.add.at(per_axis, first, factor * axis[second])
        np.add.at(per_axis, second, factor * axis[first])
        per_group: np.ndarray = per_axis[:-1] @ self._occurrence
        return per_group

    def parent(self, kind: str) -> float:
        """Cost of the uncut model."""
        return self.of(kind, self.full)

    def share(self, kind: str, widths: np.ndarray) -> float:
        """Cost at some widths, shape (groups,), as a share of the uncut model's; 1 where that is nothing."""
        whole = self.parent(kind)
        return self.of(kind, widths) / whole if whole else 1.0

    def fixed(self, kind: str) -> float:
        """Cost that falls with no width: it lies between layers that keep theirs, most of them in the head."""
        return self.of(kind, self.full * [bool(group.frozen) for group in self.graph.groups])


def _arrays(terms: list[Term]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axes = [(*t.axes, -1, -1)[:2] for t in terms]
    return (
        np.array([t.factor for t in terms]),
        np.array([a for a, _ in axes], dtype=int),
        np.array([b for _, b in axes], dtype=int),
    )
