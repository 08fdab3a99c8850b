"""What widths cost in time: a model of whole networks that were timed, linear in what their convolutions do.

A runtime fuses and schedules across layers, so what a layer costs is learnt from networks and not from layers. Of each
kind of convolution two things count: its arithmetic, for which a runtime rounds channels up to the width of its
vectors, and the memory that it reads and writes. Times are shares of the parent's, which drifting machines leave alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yoloprune.planning.channel_graph import ChannelGraph
from yoloprune.planning.cost import Cost
from yoloprune.settings.budget import Budget

ALONE = -1
"""The round of a network that was timed with no others."""

COMPANY = 4
"""Networks that a round has at least, or it would explain them all."""

PASSES = 3
"""How often prices are fitted and rounds set beside one another; what a fourth time would change is below 0.001."""

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


def fit(
    layers: Sequence[Layer], axes: Sequence[np.ndarray], shares: Sequence[float], rounds: Sequence[int] | None = None
) -> TimeModel:
    """Fit prices to networks that were timed.

    Networks of one round have turns with the parent together. What all of them are off by is an error in the time of
    the parent, and belongs to no price.

    Args:
        layers (Sequence[Layer]): The convolutions of the parent.
        axes (Sequence[np.ndarray]): Per network the widths of all axes, shape (axes,).
        shares (Sequence[float]): Per network its time as a share of the parent's.
        rounds (Sequence[int] | None): Per network which were timed together; `ALONE` for all unless given.

    Returns:
        (TimeModel): With the step that predicts best what it was not fitted to.
    """
    wanted: np.ndarray = np.array(shares, dtype=float)
    together: np.ndarray = np.array([ALONE] * len(wanted) if rounds is None else rounds)
    models = []
    for step in STEPS:
        rows = np.stack([features(layers, one, step) for one in axes])
        missed = []
        for i in range(len(rows)):
            others = np.arange(len(rows)) != i
            prices, slower = _prices(rows[others], wanted[others], together[others])
            missed.append(abs(rows[i] @ prices * slower.get(together[i], 1.0) / wanted[i] - 1))
        prices, _ = _prices(rows, wanted, together)
        models.append(TimeModel(tuple(layers), step, prices, float(np.mean(missed)), float(np.max(missed))))
    return min(models, key=lambda model: model.error)


def _prices(rows: np.ndarray, wanted: np.ndarray, together: np.ndarray) -> tuple[np.ndarray, dict[int, float]]:
    """Prices, and by round how much longer its networks seem to take than those of others."""
    counted = Counter(together[together != ALONE].tolist())
    slower = {number: 1.0 for number, count in counted.items() if count >= COMPANY}
    for _ in range(PASSES):
        factors = np.array([slower.get(number, 1.0) for number in together.tolist()])
        prices = nonnegative(rows * (factors / wanted)[:, None], np.ones(len(wanted)))  # relative errors count
        if not slower:
            break
        missed = wanted / (rows @ prices)
        slower = {number: float(missed[together == number].mean()) for number in slower}
        usual = float(np.mean([*slower.values()]))
        slower = {number: factor / usual for number, factor in slower.items()}
    return prices, slower


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
