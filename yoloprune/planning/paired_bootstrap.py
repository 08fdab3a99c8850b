"""How far a difference of mAP between two models may be chance: a paired bootstrap over the images of a validation.

Both models saw the same images. Images are drawn anew with replacement, the same ones for both, and mAP50-95 of either
is computed from what it found in them; the middle of all differences is the interval (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, sections 6 and 13: the percentile interval).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

RESAMPLES = 1000
AT_ONCE = 20  # draws, so that memory stays small
FEWEST = 5
"""Images below which no interval is told: of one all draws are the same, and of a few nearly all."""

RECALLS = np.linspace(0, 1, 101)
"""Where precision is read, as Ultralytics and COCO do it."""


@dataclass(frozen=True, eq=False)
class Findings:
    """What a model found in the images of a validation, image by image.

    Attributes:
        hits (np.ndarray): Whether a finding is right at each threshold of IoU, shape (findings, thresholds).
        confidence (np.ndarray): How sure the model was, shape (findings,).
        classes (np.ndarray): Which class it named, shape (findings,).
        images (np.ndarray): In which image, 0 … count - 1, shape (findings,).
        label_classes (np.ndarray): Classes of the labels, shape (labels,).
        label_images (np.ndarray): Their images, shape (labels,).
        count (int): Number of images.
    """

    hits: np.ndarray
    confidence: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    label_classes: np.ndarray
    label_images: np.ndarray
    count: int

    @cached_property
    def _curves(self) -> list[_Curve]:
        """One per class that has labels."""
        return [
            _Curve(self, np.equal(self.classes, number), self.label_images[np.equal(self.label_classes, number)])
            for number in np.unique(self.label_classes).tolist()
        ]

    def mean_ap(self, drawn: np.ndarray | None = None) -> np.ndarray:
        """Mean average precision over thresholds and classes, fractions of 1.

        Args:
            drawn (np.ndarray | None): How often each image counts, shape (draws, count); None is one draw of each
                once, which is what Ultralytics calls mAP50-95.

        Returns:
            (np.ndarray): Shape (draws,). A class without a label in a draw does not count in it.
        """
        weights = np.ones((1, self.count)) if drawn is None else drawn
        total: np.ndarray = np.zeros(len(weights))
        classes = np.zeros(len(weights))
        for curve in self._curves:
            labels = weights[:, curve.labels].sum(axis=1)
            total += np.where(labels > 0, curve.average_precision(weights, labels), 0.0)
            classes += labels > 0
        return total / np.maximum(classes, 1)

    def same_images(self, other: Findings) -> bool:
        """Whether two models were validated on the same labels in the same order."""
        return (
            self.count == other.count
            and self.hits.shape[1:] == other.hits.shape[1:]
            and np.array_equal(self.label_images, other.label_images)
            and np.array_equal(self.label_classes, other.label_classes)
        )


class _Curve:
    """Findings of one class, the surest first, of which only those are kept where a curve can turn.

    Between two hits precision only falls, so a hit and the finding right before it are all that the envelope needs.
    """

    def __init__(self, found: Findings, mine: np.ndarray, labels: np.ndarray) -> None:
        order = np.flatnonzero(mine)[np.argsort(-found.confidence[mine], kind="stable")]
        right = np.asarray(found.hits[order].any(axis=1))
        self.labels, self.images = labels, found.images[order]
        self.at = np.flatnonzero(right | np.append(right[1:], False)) if len(order) else np.zeros(0, dtype=int)
        self.hits = found.hits[order][self.at].astype(float)

    def average_precision(self, drawn: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Mean over the thresholds by draw, shape (draws,); `labels` says how many there are in each."""
        if not len(self.at):
            return np.zeros(len(drawn))
        counts = drawn[:, self.images]
        said = np.cumsum(counts, axis=1)[:, None, self.at]
        hits = np.cumsum(counts[:, None, self.at] * self.hits.T, axis=2)  # shape (draws, thresholds, kept)
        first = np.zeros_like(hits[..., :1])
        recall = np.concatenate([first, hits / np.maximum(labels, 1)[:, None, None]], axis=2)
        precision = np.concatenate([first + 1, hits / np.maximum(said, 1)], axis=2)
        envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
        areas: np.ndarray = _areas(recall, envelope).mean(axis=1)
        return areas


def _areas(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Areas under curves that end at their last recall, shape (...) from (..., places).

    The curves are laid side by side, two apart, so that all are read at once. What is equal up to rounding counts as
    equal here, where Ultralytics takes the last bit for a difference: of a curve that jumps exactly at one of the 101
    recalls it may read the other side.
    """
    curves = np.prod(recall.shape[:-1], dtype=int)
    apart = 2.0 * np.arange(curves)[:, None]
    ends = np.ones((curves, 1))
    flat = recall.reshape(curves, -1)
    x = np.concatenate([flat, flat[:, -1:], ends], axis=1) + apart
    y = np.concatenate([precision.reshape(curves, -1), 0 * ends, 0 * ends], axis=1)
    at = np.interp((RECALLS + apart).ravel(), x.ravel(), y.ravel()).reshape(curves, -1)
    areas: np.ndarray = (at[:, 1:] + at[:, :-1]).sum(axis=1) / 2 / (len(RECALLS) - 1)
    return areas.reshape(recall.shape[:-1])


@dataclass(frozen=True)
class Interval:
    """A difference and how far it may be chance, in points (hundredths).

    Attributes:
        difference (float): Second model minus first.
        low (float): Lower end.
        high (float): Upper end.
        level (float): How much of the resampled differences lies between them.
        images (int): How many images were drawn from.
    """

    difference: float
    low: float
    high: float
    level: float
    images: int

    def __str__(self) -> str:
        return (
            f"{self.difference:+.2f} points, {self.level:.0%} interval {self.low:+.2f} to {self.high:+.2f} "
            f"(paired bootstrap over {self.images} images)"
        )


def between(
    first: Findings | None, second: Findings | None, figures: tuple[float, float] | None, level: float = 0.95
) -> Interval | None:
    """The interval of two models, None where they have no mAP, or not on the same images, or on fewer than `FEWEST`.

    Args:
        first (Findings | None): What the first model found, usually the parent.
        second (Findings | None): What the second found.
        figures (tuple[float, float] | None): Their mAP50-95 as Ultralytics told it, fractions of 1; see `interval`.
        level (float): How much of the differences the interval holds, in (0, 1).
    """
    if first is None or second is None or not first.same_images(second) or first.count < FEWEST:
        return None
    return interval(first, second, level, figures=figures)


def interval(
    first: Findings,
    second: Findings,
    level: float = 0.95,
    *,
    figures: tuple[float, float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The interval of the difference in mAP50-95 between two models that were validated on the same images.

    Args:
        first (Findings): What the first model found, usually the parent.
        second (Findings): What the second found.
        level (float): How much of the differences the interval holds, in (0, 1).
        figures (tuple[float, float] | None): mAP50-95 of both as Ultralytics told it, fractions of 1: the interval lies
            around their difference, which is what tables show. Of few images it is another one than here, see `_areas`.
        resamples (int): How often images are drawn.
        seed (int): Of the draws.

    Raises:
        ValueError: If they were not validated on the same images.
    """
    if not first.same_images(second):
        raise ValueError("The two models were not validated on the same images.")
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(first.count, np.full(first.count, 1 / first.count), size=resamples)
    parts = np.array_split(draws, max(resamples // AT_ONCE, 1))
    differences = np.concatenate([second.mean_ap(part) - first.mean_ap(part) for part in parts])
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    difference = second.mean_ap()[0] - first.mean_ap()[0]
    told = difference if figures is None else figures[1] - figures[0]
    points = [round(100 * float(x), 3) for x in (told, low + told - difference, high + told - difference)]
    return Interval(points[0], points[1], points[2], level, first.count)
