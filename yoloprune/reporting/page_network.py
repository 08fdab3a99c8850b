"""Sections of a page on what was cut where: the network, its costs, importance, gamma, what is frozen."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from yoloprune.reporting import svg
from yoloprune.reporting.facts import Report
from yoloprune.reporting.page_quality import table
from yoloprune.reporting.text_table import Row

STEP, BAR = 12.0, 9.0  # from layer to layer, and how wide a bar is, in pixels
HALF, COSTS = 90.0, 110.0  # heights: of half the widest layer, and of the bars of FLOPs


COLUMNS = {
    "MFLOPs": lambda most: f"FLOPs, up to {most / 1e3:.3g} GFLOPs a layer",
    "ms": lambda most: f"time, up to {most:.3g} ms a layer (torch, this machine)",
}
"""What is drawn of a layer's costs, and the words below it."""

BANDS = ((0, 95), (10, 90), (25, 75), (40, 60))
"""Quantiles of |gamma| between which a band is drawn, in percent."""

GAMMA = frozenset({"epoch", "dead", "flops", "params", "gamma_q50", *(f"gamma_q{q}" for band in BANDS for q in band)})
"""What is drawn of an epoch of a sparse training."""

TIMED = (
    ", and time: torch on this machine, whatever format= was asked for, one image, batch-norm folded, median of a few "
    "runs; what runs between layers is not in it"
)


def network(report: Report) -> str:
    """Every layer from input to head as a bar as high as it is wide, what stays of it filled; below, what it costs."""
    rows = [r for r in report.layers if "kept" in r]
    if not rows:
        return ""
    widest, middle = max(r["width"] for r in rows), HALF + 10
    sizes = {c: max((r.get(k) or 0.0) for r in rows for k in (c, f"{c} kept")) for c in COLUMNS}
    costs = {column: most for column, most in sizes.items() if most}
    floors = {k: 2 * HALF + 60 + COSTS + i * (COSTS + 30) for i, k in enumerate(costs)}
    parts = []
    for i, row in enumerate(rows):
        left = 8 + i * STEP
        whole, kept = (HALF * row[k] / widest for k in ("width", "kept"))
        held = " held" if str(row["state"]).startswith("frozen") else ""
        bars = _upright(left, middle - whole, 2 * whole, "parent" + held) + _upright(
            left, middle - kept, 2 * kept, "kept" + held
        )
        for column, most in costs.items():
            for key, kind in ((column, "parent"), (f"{column} kept", "kept")):
                high = COSTS * (row.get(key) or 0.0) / most
                bars += _upright(left, floors[column] - high, high, kind + held)
        if _block(row) != (_block(rows[i - 1]) if i else ""):
            bars += svg.label(
                0, 0, _block(row), transform=f"translate({left + 8:.0f} {2 * HALF + 22:.0f}) rotate(60)", class_="small"
            )
        group = svg.titled(bars, _told(row))
        parts.append(
            svg.element("g", group, class_="layer", data_name=row["layer"], data_with=" ".join(row["coupled with"]))
        )
    for column, most in costs.items():
        parts.append(svg.label(8, floors[column] + 16, COLUMNS[column](most), class_="small"))
    below = max(floors.values(), default=2 * HALF + 60)
    what = " and ".join(["widths", *({"MFLOPs": "FLOPs", "ms": "times"}[column] for column in costs)])
    drawn = svg.picture(max(24 + len(rows) * STEP, 320), below + 24, parts, f"{what} of all layers, from input to head")
    note = (
        f"<p class=note>From the input on the left to the head. A bar is as high as its layer is wide (up to "
        f"{widest:,} channels): pale before, strong after; grey may not be cut. Below: where FLOPs went"
        f"{TIMED if 'ms' in costs else ''}. Point at a layer to see what loses the same channels.</p>"
    )
    shown = [{k: ", ".join(v) if isinstance(v, list) else v for k, v in r.items()} for r in report.layers]
    listed = f"<details><summary>All {len(rows)} layers as a table</summary>{table(shown, sortable=True)}</details>"
    return note + drawn + listed


def _upright(left: float, top: float, height: float, kind: str) -> str:
    return svg.element("rect", x=left, y=top, width=BAR, height=max(height, 0.0), class_=kind)


def _block(row: Row) -> str:
    """The first two parts of a layer's name."""
    return ".".join(str(row["layer"]).split(".")[:2])


def _told(row: Row) -> str:
    cost = f", {row['MFLOPs']:,.0f} → {row['MFLOPs kept']:,.0f} MFLOPs" if row.get("MFLOPs") is not None else ""
    cost += f", {row['ms']:.3g} → {row['ms kept']:.3g} ms" if row.get("ms") is not None else ""
    partners = f"; coupled with {', '.join(row['coupled with'])}" if row["coupled with"] else ""
    return f"{row['layer']}: {row['width']} → {row['kept']} channels{cost}; {row['state']}{partners}"


def importance(report: Report) -> str:
    """How scores were distributed, kept and cut, with the threshold."""
    found = report.importance
    if found is None:
        return ""
    highest = max(a + b for a, b in zip(found.kept, found.cut, strict=True))
    frame = svg.Frame((found.edges[0], found.edges[-1]), (0, highest))
    for left, right, stay, go in zip(found.edges[:-1], found.edges[1:], found.kept, found.cut, strict=True):
        said = f"10^{left:.2f} to 10^{right:.2f}: {go} cut, {stay} kept"
        frame.bar(left, right, 0, go, "cut", said)
        frame.bar(left, right, go, go + stay, "kept", said)
    frame.line([found.threshold, found.threshold], [0, highest], "threshold")
    zeros = (
        f" Not shown: {sum(found.zeros)} channels of importance 0, of which {found.zeros[1]} went."
        if sum(found.zeros)
        else ""
    )
    note = (
        f"<p class=note>{svg.escaped(found.what)}. Orange goes, blue stays; the line separates them best. "
        f"{found.across:,} channels went or stayed against their importance: widths are rounded, some layers must be "
        f"equally wide, and no layer loses more than its limit.{zeros}</p>"
    )
    return note + frame.drawn("log10 of importance", "channels", "distribution of importance, kept and cut")


def gamma(report: Report) -> str:
    """|gamma| over the epochs of a sparse training, and how many channels are dead."""
    rows = report.gamma
    if len(rows) < 2:
        return ""
    epochs = [r["epoch"] for r in rows]
    ends = (epochs[0], epochs[-1])
    scales = svg.Frame(ends, (0, 1.3 * max(r["gamma_q95"] for r in rows)))
    for low, high in BANDS:
        scales.band(epochs, [r[f"gamma_q{low}"] for r in rows], [r[f"gamma_q{high}"] for r in rows], "band")
    scales.line(epochs, [r["gamma_q50"] for r in rows], "median")
    shares = svg.Frame(ends, (0, 1))
    named = (
        ("dead", "channels dead", "first"),
        ("flops", "FLOPs once cut", "second"),
        ("params", "parameters once cut", "third"),
    )
    for i, (key, said, kind) in enumerate(named):
        shares.line(epochs, [r[key] for r in rows], f"share {kind}")
        shares.parts.append(svg.label(shares.width - 20, 28 + 16 * i, said, text_anchor="end", class_=f"small {kind}"))
    note = "<p class=note>|gamma| of all channels: median, the middle 20, 50 and 80 %, and all but the largest 5 %.</p>"
    drawn = scales.drawn("epoch", "|gamma|", "gamma over the epochs") + shares.drawn(
        "epoch", "share", "shares over the epochs"
    )
    return note + drawn


def zeros(report: Report) -> str:
    """How much of each masked layer is zero."""
    if not report.zeros:
        return ""
    note = (
        "<p class=note>Shapes are what they were, and so are FLOPs: only a runtime that skips zeros is faster. "
        "Layers from input to head; what is not masked is listed below, with the reason.</p>"
    )
    rows = [{**row, "share": f"{row['share']:.1%}"} for row in report.zeros]
    return note + table(rows, sortable=True)


def frozen(report: Report) -> str:
    """What may not be cut, and why."""
    return _listed(report.frozen)


def parts(report: Report) -> str:
    """Links to the pages of parts of the run."""
    links = "".join(
        f"<li>{svg.element('a', svg.escaped(name), href=quote(place))}</li>" for name, place in report.pages.items()
    )
    return f"<ul>{links}</ul>" if links else ""


def repeat(report: Report) -> str:
    """What to type to do it again, and the versions that did it."""
    words = "".join(f"<pre class=scroll tabindex=0>{svg.escaped(line)}</pre>" for line in report.repeat)
    told = ", ".join(f"{k} {v}" for k, v in report.versions.items())
    beside = "args.yaml lies beside this page. " if report.repeat else ""
    return words + (f"<p class=note>{beside}{svg.escaped(told)}</p>" if told else "")


def _listed(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{svg.escaped(line)}</li>' for line in lines)}</ul>" if lines else ""
