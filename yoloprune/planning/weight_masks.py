"""Scores of single weights, a pattern and a share to what stays; and how the share grows during a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from yoloprune.settings.mask_options import n_of_m

Scope = Literal["auto", "global", "layer", "output"]
Kept = dict[str, np.ndarray]
"""By layer, what stays, bool of the shape of its weight."""

LEAST = 2e-38
"""What a weight that is not zero scores at least, so that those that are zero already go before it; next to nothing."""

CHOICES = 100
"""So often zeros become more on a ramp where nobody says how often: none is a jump, and choosing costs little."""


def choose(scores: Mapping[str, Any], pattern: str, sparsity: float, scope: Scope = "layer") -> Kept:
    """Keep what has the highest scores.

    Args:
        scores (Mapping[str, np.ndarray | Tensor]): By layer, of the shape of its weight, on the CPU, none below 0.
        pattern (str): `pattern=`.
        sparsity (float): Share of the weights that goes, at most: kernels and filters of several layers, which are of
            several sizes, count by theirs; of n:m what is above its numbers stays.
        scope (str): What is compared: "global", "layer" or "output".
    """
    given = {name: np.asarray(score) for name, score in scores.items()}
    if (numbers := n_of_m(pattern)) is not None:
        n, m = numbers
        left = m - min(round(sparsity * m), m - n)  # n, but for a share that is on its way
        return {name: _n_of_m(score, left, m) for name, score in given.items()}
    units = {name: _units(score, pattern) for name, score in given.items()}
    if scope == "global":
        sizes = [np.full(u.size, given[name].size // u.size) for name, u in units.items()]
        flat = _heaviest(np.concatenate([u.ravel() for u in units.values()]), np.concatenate(sizes), sparsity)
        parts = np.split(flat, np.cumsum([u.size for u in units.values()])[:-1])
        stay = {name: part.reshape(units[name].shape) for name, part in zip(units, parts, strict=True)}
    elif scope == "output":
        stay = {name: np.stack([_highest(row, sparsity) for row in u]) for name, u in units.items()}
    else:
        stay = {name: _highest(u, sparsity) for name, u in units.items()}
    return {
        name: np.broadcast_to(s.reshape(*s.shape, *(1 for _ in range(given[name].ndim - s.ndim))), given[name].shape)
        for name, s in stay.items()
    }


def _units(score: np.ndarray, pattern: str) -> np.ndarray:
    """One value for what lives or dies together, the mean: (outputs,) of filters, (outputs, inputs) of kernels."""
    if pattern == "filter":
        return np.asarray(score.reshape(len(score), -1).mean(1))
    whole = pattern == "kernel" and score.ndim > 2
    return np.asarray(score.reshape(*score.shape[:2], -1).mean(2)) if whole else score


def _highest(values: np.ndarray, sparsity: float) -> np.ndarray:
    """What stays of values that are compared, bool; the share is rounded as `torch.nn.utils.prune` does."""
    stay = np.ones(values.size, dtype=bool)
    if gone := round(sparsity * values.size):
        stay[np.argpartition(values.ravel(), gone - 1)[:gone]] = False
    return stay.reshape(values.shape)


def _heaviest(values: np.ndarray, sizes: np.ndarray, sparsity: float) -> np.ndarray:
    """The same of values that stand for several weights each, shape (values,): the share is of weights."""
    if (sizes == sizes[0]).all():
        return _highest(values, sparsity)
    order = np.argsort(values, kind="stable")
    gone = int(np.searchsorted(np.cumsum(sizes[order]), round(sparsity * sizes.sum()), side="right"))
    stay = np.ones(values.size, dtype=bool)
    stay[order[:gone]] = False
    return stay


def _n_of_m(score: np.ndarray, n: int, m: int) -> np.ndarray:
    """The n highest of every m neighbours along the input channels, for each output and tap; bool, as `score`."""
    groups = score.reshape(len(score), -1, m, *score.shape[2:])
    stay = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(stay, np.argsort(groups, axis=2)[:, :, m - n :], values=True, axis=2)
    return stay.reshape(score.shape)


def cubic(begin: float, end: float, progress: float) -> float:
    """The share that is zero at a point of a ramp (Zhu & Gupta 2017, arXiv 1710.01878, section 3): most go at first.

    Args:
        begin (float): The share at its start.
        end (float): The share at its end.
        progress (float): Of the ramp, 0..1.
    """
    return end + (begin - end) * (1.0 - progress) ** 3


def begins_at(pattern: str, zero: float) -> float:
    """The share from which a ramp starts where so many weights are zero; a group of n:m may have none of them yet."""
    return zero if n_of_m(pattern) is None else 0.0


def choices_made(progress: float, steps: int) -> int:
    """How many of the choices of a ramp have been due: the first at its start, the last a step before its end.

    Args:
        progress (float): Of the ramp, 0..1.
        steps (int): Choices in all.
    """
    return min(int(progress * steps + 1e-9) + 1, steps)
