"""What goes is set against what it saves: of one channel of each group, and of what is left of a branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from yoloprune.planning.branch import Branch
from yoloprune.planning.cost import Cost


@dataclass(frozen=True)
class Price:
    """The price of channels and branches.

    Attributes:
        cost (Cost): Cost functions of the graph.
        weights (Mapping[str, float]): How much each kind of cost counts; where none does, every channel counts alike.
        channel (np.ndarray): Price of the last channel of each group, shape (groups,).
    """

    cost: Cost
    weights: Mapping[str, float]
    channel: np.ndarray

    @classmethod
    def alike(cls, cost: Cost) -> Price:
        """One for every channel."""
        return cls(cost, {}, np.ones(len(cost.full)))

    @classmethod
    def of_parent(cls, cost: Cost, weights: Mapping[str, float]) -> Price:
        """Prices in the uncut model."""
        return cls(cost, weights, _weighted(cost, weights, cost.full))

    def nearer(self, widths: np.ndarray) -> Price:
        """Prices half way from these to those at some widths, shape (groups,), as factors go.

        A channel is worth the more the wider the layers are that read it, and these become narrower. A step half way
        keeps prices from swinging from one choice to the next.
        """
        there = np.where(widths > 0, widths, self.cost.full)  # what a branch that is gone would cost
        return replace(self, channel=np.sqrt(self.channel * _weighted(self.cost, self.weights, there)))

    def branch(self, branch: Branch, widths: np.ndarray) -> float:
        """Price of what is left of a branch at some widths, shape (groups,)."""
        if not self.weights:
            return float(widths[list(branch.groups)].sum())
        without = self.cost.without(branch, widths)
        return sum(
            (self.cost.of(kind, widths) - self.cost.of(kind, without)) * weight for kind, weight in self.weights.items()
        )


def _weighted(cost: Cost, weights: Mapping[str, float], widths: np.ndarray) -> np.ndarray:
    return np.asarray(sum(cost.slope(kind, widths) * weight for kind, weight in weights.items()))
