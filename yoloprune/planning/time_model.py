"""What widths cost in time: a model of whole networks that were timed, linear in what their convolutions do.

A runtime fuses and schedules across layers, so what a layer costs is learnt from networks and not from layers. Of each
kind of convolution two things count: its arithmetic, for which a runtime rounds channels up to the width of its
vectors, and the memory that it reads and writes. Times are shares of the parent's, which drifting machines leave alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.settings.budget import Budget

STEPS = (1, 8, 16, 32)
"""Multiples that channels may be rounded up to; the one that predicts best is found, not assumed."""


@dataclass(frozen=True)
class Layer:
    """A convolution.

    Attributes:
        kind (str): Which share one price: "1x1", "3x3", "3x3 stride 2", "depthwise".
        outputs (int): Axis of its output channels.
        inputs (int | None): Axis of its input channels, None for a depthwise one.
        taps (int): Numbers of one kernel.
        written (float): Positions of its output.
        read (float): Positions of its input.
    """

    kind: str
    outputs: int
    inputs: int | None
    taps: int
    written: float
    read: float


@dataclass(frozen=True)
class TimeModel:
    """Time of a network as a share of its parent's.

    Attributes:
        layers (tuple[Layer, ...]): Its convolutions; axes are those of any graph of the parent.
        step (int): What channels are rounded up to.
        prices (np.ndarray): By feature, see `features`; the last one is what is there whatever the widths.
        error (float): Mean relative error of networks that it was not fitted to, each left out once.
        worst (float): The largest of these.
    """

    layers: tuple[Layer, ...]
    step: int
    prices: np.ndarray
    error: float
    worst: float

    def of(self, axes: np.ndarray) -> float:
        """Predicted share at the widths of all axes, shape (axes,)."""
        return float(features(self.layers, axes, self.step) @ self.prices)

    def smooth(self, axes: np.ndarray) -> float:
        """The same without rounding, for what one more channel costs."""
        return float(features(self.layers, axes, 1) @ self.prices)


@dataclass(frozen=True, repr=False)
class TimedBudget(Budget):
    """A budget with one value more: `latency`, as a share of the parent's time; needs a `TimedCost`."""

    latency: float | None = None


class TimedCost(Cost):
    """Costs with one kind more: "time", as a share of the parent's."""

    def __init__(self, graph: ChannelGraph, model: TimeModel) -> None:
        super().__init__(graph)
        self.model = model

    def of(self, kind: str, widths: np.ndarray) -> float:
        """See `Cost.of`."""
        return self.model.of(self.axes(widths)) if kind == "time" else super().of(kind, widths)

    def parent(self, kind: str) -> float:
        """See `Cost.parent`; its share of its own time is known, whatever the model says of it."""
        return 1.0 if kind == "time" else super().parent(kind)

    def slope(self, kind: str) -> np.ndarray:
        """See `Cost.slope`; channels of a step share its price, whichever of them is the last."""
        if kind != "time":
            return super().slope(kind)
        whole = self.model.smooth(self.axes(self.full))
        found: np.ndarray = np.zeros(len(self.full))
        for g in range(len(self.full)):
            fewer = self.full.copy()
            fewer[g] -= 1
            found[g] = whole - self.model.smooth(self.axes(fewer))
        return found


def features(layers: Sequence[Layer], axes: np.ndarray, step: int) -> np.ndarray:
    """Arithmetic and memory traffic of each kind in billions, and one, shape (2 * kinds + 1,)."""
    kinds = sorted({layer.kind for layer in layers})
    found: np.ndarray = np.zeros(2 * len(kinds) + 1)
    found[-1] = 1.0
    for layer in layers:
        made = axes[layer.outputs]
        taken = made if layer.inputs is None else axes[layer.inputs]
        padded = np.ceil(made / step) * step * (1 if layer.inputs is None else np.ceil(taken / step) * step)
        k = 2 * kinds.index(layer.kind)
        found[k] += 1e-9 * padded * layer.taps * layer.written
        found[k + 1] += 1e-9 * (made * layer.written + taken * layer.read)
    return found


def fit(layers: Sequence[Layer], axes: Sequence[np.ndarray], shares: Sequence[float]) -> TimeModel:
    """Fit prices to networks that were timed.

    Args:
        layers (Sequence[Layer]): The convolutions of the parent.
        axes (Sequence[np.ndarray]): Per network the widths of all axes, shape (axes,).
        shares (Sequence[float]): Per network its time as a share of the parent's.

    Returns:
        (TimeModel): With the step that predicts best what it was not fitted to.
    """
    wanted: np.ndarray = np.array(shares, dtype=float)
    models = []
    for step in STEPS:
        rows = np.stack([features(layers, one, step) for one in axes]) / wanted[:, None]  # relative errors count
        missed = [
            abs(rows[i] @ nonnegative(np.delete(rows, i, axis=0), np.ones(len(rows) - 1)) - 1) for i in range(len(rows))
        ]
        prices = nonnegative(rows, np.ones(len(rows)))
        models.append(TimeModel(tuple(layers), step, prices, float(np.mean(missed)), float(np.max(missed))))
    return min(models, key=lambda model: model.error)


def nonnegative(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Least squares without negative prices: nothing that a network does takes less than no time.

    The active set method of Lawson and Hanson, Solving Least Squares Problems, chapter 23.

    Args:
        rows (np.ndarray): Shape (networks, features).
        wanted (np.ndarray): Shape (networks,).

    Returns:
        (np.ndarray): Prices, shape (features,).
    """
    scale = np.linalg.norm(rows, axis=0)
    scaled = rows / np.where(scale > 0, scale, 1.0)
    count = scaled.shape[1]
    found: np.ndarray = np.zeros(count)
    free: np.ndarray = np.zeros(count, dtype=bool)
    for _ in range(3 * count):
        gain = scaled.T @ (wanted - scaled @ found)
        gain[free] = -np.inf
        if free.all() or gain.max() <= 1e-10:
            break
        free[int(gain.argmax())] = True
        while True:
            trial: np.ndarray = np.zeros(count)
            trial[free] = np.linalg.lstsq(scaled[:, free], wanted, rcond=None)[0]
            below = free & (trial <= 0)
            if not below.any():
                break
            reach = (found[below] / np.maximum(found[below] - trial[below], 1e-300)).min()
            found = found + reach * (trial - found)
            free &= found > 1e-12
            found[~free] = 0.0
        found = trial
    prices: np.ndarray = found / np.where(scale > 0, scale, 1.0)
    return prices
