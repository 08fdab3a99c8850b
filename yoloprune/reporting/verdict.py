"""A before/after table in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from yoloprune.reporting.text_table import SIZES, Row, headline

NOTHING, LITTLE, MUCH = 0.5, 3.0, 10.0  # points (hundredths); two runs that differ in nothing differ by the first


def of(rows: Sequence[Row], *, trained: bool = False) -> str:
    """What came of it.

    Args:
        rows (Sequence[Row]): The model before first, the one after last.
        trained (bool): Whether the last one was fine-tuned already.

    Returns:
        (str): What it keeps and what that costs; empty without two rows.
    """
    if len(rows) < 2:
        return ""
    first, last = rows[0], rows[-1]
    sizes = {"GFLOPs": "GFLOPs", "params": "parameters", "ms": "time per image"}
    shares = [
        f"{last[k] / first[k]:.0%} of the {said}"
        for k, said in sizes.items()
        if first.get(k) and last.get(k) is not None
    ]
    kept = (
        f"{last['model']} keeps {_and(shares)} of {first['model']}"
        if shares
        else f"{last['model']} beside {first['model']}"
    )
    key = headline(k for k in first if k not in {*SIZES, "model", "classes", "flops", "channels"})
    if not key or last.get(key) is None:
        return f"{kept}; quality was not measured: 'yoloprune val' with data= and against= does."
    points = 100 * (last[key] - first[key])
    went = f"{key} goes from {first[key]:.3f} to {last[key]:.3f} ({points:+.1f} points)"
    return f"{kept}, and {went}: {_judged(points, trained)}."


def _judged(points: float, trained: bool) -> str:
    """What a change of so many points means."""
    if points >= NOTHING:
        return "better than before"
    if points > -NOTHING:
        return "nothing that counts is lost"
    if trained:
        return "little is lost" if points >= -LITTLE else "much is lost; train longer, or cut less"
    if points >= -LITTLE:
        return "little is lost, and nothing is fine-tuned yet"
    if points >= -MUCH:
        return "fine-tuning has this to win back"
    return "that is much to win back; look at 'yoloprune sweep', or cut less"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
