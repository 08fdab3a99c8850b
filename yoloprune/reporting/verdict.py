"""A before/after table in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

from yoloprune.planning.paired_bootstrap import Interval
from yoloprune.reporting.text_table import Row, headline, timed_alike

NOTHING, LITTLE, MUCH = 0.5, 3.0, 10.0  # points (hundredths); two runs that differ in nothing differ by the first

SHARE = 0.1
"""Of what a model had: to lose more is not little, however few points that are."""

BLIND = 0.01
"""A figure of quality, a fraction of 1, below which a model finds next to nothing."""

HOW_TO_SEE = "'yoloprune val' with data= and against= does it"


def of(
    rows: Sequence[Row],
    *,
    trained: bool = False,
    unseen: str = "",
    cut: bool = True,
    interval: Interval | None = None,
) -> str:
    """What came of it.

    Args:
        rows (Sequence[Row]): The model before first, the one after last.
        trained (bool): Whether the last one was fine-tuned already.
        unseen (str): Why quality was not measured, where it was not.
        cut (bool): Whether the last one comes from the first; of any two models no advice follows.
        interval (Interval | None): How far the difference in quality may be chance.

    Returns:
        (str): What it keeps and what that costs; empty without two rows.
    """
    if len(rows) < 2:
        return ""
    first, last = rows[0], rows[-1]
    times = {k: f"time per image in {k[3:]}" for k in last if k.startswith("ms ") and first.get(k)}
    times = times or {"ms": "time per image"}  # what was asked for, where that was timed
    sizes = {"GFLOPs": "GFLOPs", "params": "parameters", **times, "nonzero": "weights that are not zero"}
    shares = [
        f"{last[k] / first[k]:.0%} of the {said}"
        for k, said in sizes.items()
        if first.get(k) and last.get(k) is not None and (k != "ms" or timed_alike((first, last)))
    ]
    name, before = str(last["model"]), first["model"]
    name = name[:1].upper() + name[1:] if cut else name  # else it may be a path
    kept = f"{name} has {_and(shares)} of {before}" if shares else f"{name} beside {before}"
    key = headline(first)
    if key and first.get(key) is None and last.get(key) is not None:  # it knows other classes than the data has
        yet = ": it finds next to nothing" if last[key] < BLIND else ""
        return f"{kept}, and {key} {last[key]:.3f}{yet}."
    if not key or last.get(key) is None:
        return f"{kept}; quality was not measured: {unseen or HOW_TO_SEE}."
    points = 100 * (last[key] - first[key])
    went = f"{key} goes from {first[key]:.3f} to {last[key]:.3f} ({points:+.1f} points)"
    if first[key] < BLIND:
        return f"{kept}, and {went}: {before} finds too little on this data to say what is lost."
    judged = [_judged(points, first[key], trained)] if cut else []
    if interval is not None and abs(points) >= NOTHING and interval.low < 0 < interval.high:
        judged.append(f"on {interval.images} images that may be chance")
    return f"{kept}, and {': '.join([went, *([', but '.join(judged)] if judged else [])])}."


def of_training(rows: Sequence[Row]) -> str:
    """How a training ended, beside where it started; empty without both."""
    key = headline(rows[0])
    if len(rows) < 2 or key not in rows[-1] or rows[0].get(key) is None:
        return ""
    start, end = rows[0][key], rows[-1][key]
    points = 100 * (end - start)
    where = "above" if points >= NOTHING else "BELOW" if points <= -NOTHING else "level with"
    return f"{key} ended at {end:.4f}, {where} its start at {start:.4f} ({points:+.1f} points)"


def of_several(points: Sequence[Row], metric: str) -> str:
    """Which of several models are worth a look: those that no other one beats in quality and cost.

    Args:
        points (Sequence[Row]): "model", "quality" and, where known, "ms", "GFLOPs" and "runtime". Times of different
            runtimes are not compared.
        metric (str): What "quality" is.
    """
    cost = next((c for c in ("ms", "GFLOPs") if all(p.get(c) is not None for p in points)), None)
    known = [p for p in points if p.get("quality") is not None]
    if cost is None or not known:
        return ""
    apart = by_runtime(known) if cost == "ms" else {None: known}
    told = []
    for runtime, some in apart.items():
        best = on_front([p[cost] for p in some], [p["quality"] for p in some])
        listed = sorted((some[i] for i in best), key=lambda p: p[cost])
        names = _and([f"{p['model']} ({metric} {p['quality']:.3f}, {p[cost]:.4g} {cost})" for p in listed])
        told.append(names if len(apart) == 1 else f"of those on {runtime} {names}")
    return f"Not beaten in both {metric} and {cost}: {'; '.join(told)}."


def by_runtime(points: Sequence[Row]) -> dict[str | None, list[Row]]:
    """Models whose times can be compared, by what they were measured on; None where there is but one runtime."""
    return {r: [p for p in points if p.get("runtime") == r] for r in dict.fromkeys(p.get("runtime") for p in points)}


def on_front(costs: Sequence[float], marks: Sequence[float]) -> set[int]:
    """Which points no other one beats: as cheap and better, or cheaper and as good."""
    both = list(zip(costs, marks, strict=True))

    def beaten(cost: float, mark: float) -> bool:
        return any(c <= cost and m >= mark and (c, m) != (cost, mark) for c, m in both)

    return {i for i, (cost, mark) in enumerate(both) if not beaten(cost, mark)}


def _judged(points: float, had: float, trained: bool) -> str:
    """What a change of so many points of what a model had means."""
    little = -min(LITTLE, 100 * SHARE * had)
    if points >= NOTHING:
        return "better than before"
    if points > -NOTHING:
        return "nothing that counts is lost"
    if trained:
        return "little is lost" if points >= little else "much is lost; train longer, or cut less"
    if points >= little:
        return "little is lost, and nothing is fine-tuned yet"
    if points >= -MUCH:
        return "fine-tuning has this to win back"
    return "that is much to win back; look at 'yoloprune sweep', or cut less"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
