"""Which figures of a validation say how good a model is; all other columns of a table say something else."""

from __future__ import annotations

PREFIX = "metrics/"
"""Before the name of a figure in what Ultralytics writes."""


def is_quality(column: str) -> bool:
    """Whether a column says how good a model is, as a fraction of 1 of which more is better.

    Told by what it is, not by what it is not: tables get columns of sizes, shares and times, and each one that a list
    of exceptions forgot would be taken for quality.
    """
    name = column.removeprefix(PREFIX)
    return name.startswith(("mAP", "accuracy", "mIoU", "delta")) or "IoU" in name
