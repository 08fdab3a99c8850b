"""What a page shows of a run: plain data, which report.json holds as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

import numpy as np

from yoloprune.reporting.text_table import Row


class Outline(TypedDict):
    """One object in an image: its class and the colour of that, how sure the model is (None of a label), its corners as
    fractions of width and height, and whether the other model has one like it.
    """

    name: str
    colour: str
    score: float | None
    points: list[tuple[float, float]]
    matched: bool


@dataclass(frozen=True)
class ExampleImage:
    """An image of the validation data with its labels, and what two models find in it.

    Attributes:
        file (str): Its name.
        size (tuple[int, int]): Width and height of `jpeg` in pixels.
        jpeg (bytes): The image, small; report.json leaves it out.
        changed (float): From 0, both models find the same boxes, to 1, none in common.
        labels (list[Outline]): From the label file.
        before (list[Outline]): Found by the first model.
        after (list[Outline]): Found by the second one.
    """

    file: str
    size: tuple[int, int]
    jpeg: bytes = field(repr=False)
    changed: float
    labels: list[Outline]
    before: list[Outline]
    after: list[Outline]


@dataclass(frozen=True)
class ClassFigures:
    """How good models are at one class.

    Attributes:
        name (str): The class.
        boxes (int | None): Labelled objects of it in the validation data, None where the release does not count them.
        figures (dict[str, float]): mAP50-95, 0..1, by the name of the model in the table, the one before first.
    """

    name: str
    boxes: int | None
    figures: dict[str, float]

    @property
    def change(self) -> float:
        """By how much the last model is better than the first."""
        found = list(self.figures.values())
        return round(found[-1] - found[0], 4)


@dataclass(frozen=True)
class Importance:
    """How scores of the channels that may go were distributed.

    Attributes:
        what (str): What a score says, in words.
        edges (list[float]): Bounds of the bins, log10 of the score, one more than bins.
        kept (list[int]): Channels that stay, by bin.
        cut (list[int]): Channels that go, by bin.
        threshold (float): log10 of the score that separates the two best.
        across (int): Channels on the wrong side of it: rounding, ties and floors hold or take them.
        zeros (tuple[int, int]): Channels kept and cut whose score is nothing, which has no logarithm.
    """

    what: str
    edges: list[float]
    kept: list[int]
    cut: list[int]
    threshold: float
    across: int
    zeros: tuple[int, int]

    @classmethod
    def of(cls, scores: np.ndarray, kept: np.ndarray, what: str, bins: int = 40) -> Importance | None:
        """Count scores.

        Args:
            scores (np.ndarray): One per channel, shape (n,).
            kept (np.ndarray): Mask of those that stay, shape (n,).
            what (str): What a score says, in words.
            bins (int): Number of bins.

        Returns:
            (Importance | None): None where fewer than two scores are above 0.
        """
        known = np.isfinite(scores) & (scores > 0)
        if known.sum() < 2:
            return None
        logs, stay = np.log10(scores[known]), kept[known]
        edges = np.histogram_bin_edges(logs, bins)
        order = np.argsort(logs, kind="stable")
        # Below a threshold all should be cut, above none: kept ones below it and cut ones from it on are across
        across = np.concatenate([[0], np.cumsum(stay[order])]) + np.concatenate(
            [np.cumsum(~stay[order][::-1])[::-1], [0]]
        )
        best = int(across.argmin())
        none = np.isfinite(scores) & (scores <= 0)
        return cls(
            what,
            [float(e) for e in edges],
            np.histogram(logs[stay], edges)[0].tolist(),
            np.histogram(logs[~stay], edges)[0].tolist(),
            float(logs[order][min(best, len(logs) - 1)]),
            int(across[best]),
            (int((none & kept).sum()), int((none & ~kept).sum())),
        )


def points_of(rows: Sequence[Row], metric: str) -> list[dict[str, Any]]:
    """Models to set against their costs, from rows of a table; GFLOPs, ms and their runtime where they are known."""
    costs = ("GFLOPs", "ms", "runtime")
    return [
        {"model": row["model"], "quality": row[metric], **{c: row[c] for c in costs if row.get(c) is not None}}
        for row in rows
        if row.get(metric) is not None
    ]


@dataclass(frozen=True)
class Report:
    """All that is said of a run.

    Attributes:
        command (str): Which one ran.
        rows (Sequence[Row]): The table: one row per model, the one before first.
        facts (Mapping[str, Any]): What else goes to report.json, by key.
        verdict (str): What came of it, in one sentence.
        by_class (Sequence[ClassFigures]): By class, where data were validated.
        images (Sequence[ExampleImage]): The same images for both models.
        pair (Sequence[str]): What these two are called in the table; the first and the last model unless given.
        layers (Sequence[Row]): From `layer_table.layer_rows`, with "MFLOPs" and "MFLOPs kept".
        importance (Importance | None): How scores were distributed.
        gamma (Sequence[Mapping[str, float]]): Rows of sparsity.csv.
        points (Sequence[Row]): Models to set against their costs: "model" and "quality"; "GFLOPs", "ms" and "runtime"
            where they are known.
        metric (str): What "quality" of the points, and the headline of the rows, is.
        frozen (Sequence[str]): What may not be cut, and why.
        repeat (Sequence[str]): Commands that do it again.
        versions (Mapping[str, str]): Of what ran, by package.
        zeros (Sequence[Row]): Of a mask, by layer: "layer", "weights", "zeros" and their "share".
        notes (Sequence[str]): What stands below the table, in sentences: intervals, and what happened on the way.
        pages (Mapping[str, str]): Pages of parts of the run, by what they are of: paths from its folder.
    """

    command: str
    rows: Sequence[Row]
    facts: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = ""
    by_class: Sequence[ClassFigures] = ()
    images: Sequence[ExampleImage] = ()
    layers: Sequence[Row] = ()
    importance: Importance | None = None
    gamma: Sequence[Mapping[str, float]] = ()
    points: Sequence[Row] = ()
    metric: str = ""
    frozen: Sequence[str] = ()
    repeat: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    zeros: Sequence[Row] = ()
    notes: Sequence[str] = ()
    pages: Mapping[str, str] = field(default_factory=dict)
    pair: Sequence[str] = ()

    def data(self) -> dict[str, Any]:
        """What report.json holds: the facts, and each field that is not empty, images without their pixels."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"facts", "rows", "images"}}
        told = {k: _plain(v) for k, v in own.items() if v is not None and len(v if hasattr(v, "__len__") else [v])}
        if self.images:
            told["images"] = [{k: v for k, v in vars(image).items() if k != "jpeg"} for image in self.images]
        return {**self.facts, **told, "table": [dict(row) for row in self.rows]}


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (ClassFigures, Importance)):
        return dict(vars(value))
    return dict(value) if isinstance(value, Mapping) else value
