"""What goes is set against what it saves: of one channel of each group, and of what is left of a branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from yoloprune.planning.branch import Branch
from yoloprune.planning.cost import Cost


@dataclass(frozen=True)
class Price:
    """The price of channels and branches.

    Attributes:
        cost (Cost): Cost functions of the graph.
        weights (Mapping[str, float]): How much each kind of cost counts; where none does, every channel counts alike.
    """

    cost: Cost
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def channel(self) -> np.ndarray:
        """Price of the last channel of each group in the uncut model, shape (groups,)."""
        if not self.weights:
            return np.ones(len(self.cost.full))
        return np.asarray(sum(self.cost.slope(kind) * weight for kind, weight in self.weights.items()))

    def branch(self, branch: Branch, widths: np.ndarray) -> float:
        """Price of what is left of a branch at some widths, shape (groups,)."""
        if not self.weights:
            return float(widths[list(branch.groups)].sum())
        without = self.cost.without(branch, widths)
        return sum(
            (self.cost.of(kind, widths) - self.cost.of(kind, without)) * weight for kind, weight in self.weights.items()
        )
