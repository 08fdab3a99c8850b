"""Sections of a page on how good the models are: table, costs against quality, classes, images."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

from yoloprune.reporting import svg
from yoloprune.reporting.facts import ExampleImage, Outline, Report
from yoloprune.reporting.text_table import Row, cell, ends, with_change
from yoloprune.reporting.verdict import by_runtime, on_front

NAMED = 12  # boxes of a picture that may have names: of more nobody reads them

LETTER = 0.62  # width of a letter of a name, by its size: bold and wider than most are

LONGEST = 32  # of the name of a point, in characters


def table(rows: Sequence[Row], *, sortable: bool = False, marked: Row | None = None) -> str:
    """Rows as a table; the one that is `marked` is set apart."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    head = "".join(
        f"<th>{'<button>' + svg.escaped(c) + '</button>' if sortable else svg.escaped(c)}</th>" for c in columns
    )
    lines = ["".join(f"<td>{svg.escaped(cell(row.get(c)))}</td>" for c in columns) for row in rows]
    body = [f"<tr{' class=change' if row is marked else ''}>{line}</tr>" for row, line in zip(rows, lines, strict=True)]
    kind = " class=sortable" if sortable else ""
    return (
        f"<div class=scroll tabindex=0 role=region aria-label=table><table{kind}><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def summary(report: Report) -> str:
    """The verdict, and the table."""
    rows = with_change(report.rows)
    said = f"<p class=verdict>{svg.escaped(report.verdict)}</p>" if report.verdict else ""
    added = next((row for row in rows if not any(row is one for one in report.rows)), None)
    notes = "".join(f"<p class=note>{svg.escaped(line)}</p>" for line in report.notes)
    return said + table(rows, marked=added) + notes


def rounds(report: Report) -> str:
    """Each round of cutting and fine-tuning, where there were several."""
    rows = report.facts.get("rounds") or ()
    note = "<p class=note>Shares are of the model before the first round; the folder holds what a round made.</p>"
    return note + table(rows) if len(rows) > 1 else ""


def costs(report: Report) -> str:
    """Quality against GFLOPs, and against milliseconds of each runtime; the front is a line."""
    drawn, apart = "", by_runtime([p for p in report.points if p.get("ms") is not None])
    for runtime, timed in apart.items():
        unit = "milliseconds per image" + (f", {runtime}" if runtime and len(apart) > 1 else "")
        drawn += _figure(timed, "ms", unit, report.metric)
    drawn += _figure(report.points, "GFLOPs", "GFLOPs", report.metric)
    note = "Right is dearer, up is better. Filled points are those that no other one beats in both."
    note += " Times of different runtimes are not compared." if len(apart) > 1 else ""
    return drawn and f"{drawn}<p class=note>{note}</p>"


def _figure(points: Sequence[Row], column: str, unit: str, metric: str) -> str:
    known = [p for p in points if p.get(column) is not None and p.get("quality") is not None]
    return f"<figure>{_scatter(known, column, unit, metric)}</figure>" if len(known) > 1 else ""


def _scatter(points: Sequence[Row], column: str, unit: str, metric: str) -> str:
    costs, marks = [p[column] for p in points], [p["quality"] for p in points]
    room = 0.12 * (max(marks) - min(marks)) or 0.05
    frame = svg.Frame((min(0.0, *costs), 1.12 * max(costs)), (max(0.0, min(marks) - room), max(marks) + room))
    front = on_front(costs, marks)
    along = sorted(front, key=lambda i: costs[i])
    frame.line([costs[i] for i in along], [marks[i] for i in along], "front")
    for i, point in enumerate(points):
        x, y = frame.x(costs[i]), frame.y(marks[i])
        kind = "point best" if i in front else "point"
        said = f"{point['model']}: {metric} {marks[i]:.4f} at {costs[i]:.4g} {unit}"
        frame.parts.append(svg.titled(svg.element("circle", cx=x, cy=y, r=6, class_=kind), said))
        name = str(point["model"])
        name = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
        right = x > 0.6 * frame.width
        place = (x - 9, y - 8, "end") if right else (x + 9, y + 15, "start")
        frame.parts.append(svg.label(*place[:2], name, text_anchor=place[2], class_="small"))
    return frame.drawn(unit, metric, f"{metric} against {unit}")


def classes(report: Report) -> str:
    """Classes by what they lost, most first."""
    several = any(len(c.figures) > 1 for c in report.by_class)
    rows = [
        {"class": c.name, "boxes": c.boxes, **c.figures, **({"change": c.change} if several else {})}
        for c in sorted(report.by_class, key=lambda c: c.change)
    ]
    return f"<p class=note>mAP50-95. Few boxes say little.</p>{table(rows, sortable=True)}" if rows else ""


def images(report: Report) -> str:
    """The same images with labels, and what the two models find; those that changed most come first."""
    before, after = _names(report)
    seen = [o for i in report.images for o in (*i.labels, *i.before, *i.after)]
    classes = dict.fromkeys((o["name"], o["colour"]) for o in seen)
    shown = []
    for number, image in enumerate(sorted(report.images, key=lambda i: -i.changed)):
        panels = (("labels", image.labels), (before, image.before), (after, image.after))
        three = "".join(
            f"<figure>{_boxes(image, f'i{number}', found, first=i == 0)}"
            f"<figcaption>{svg.escaped(said)}: {len(found)}</figcaption></figure>"
            for i, (said, found) in enumerate(panels)
        )
        same = sum(o["matched"] for o in image.after)
        words = f"{image.file}: {same} of {len(image.before)} found again, changed {image.changed:.0%}"
        shown.append(f"<section class=example><h3>{svg.escaped(words)}</h3><div class=three>{three}</div></section>")
    note = (
        "<p class=note>Drawn by chance, the same in every run on this data; most changed first. Dashed: the other "
        "model finds nothing like it (same class, IoU of at least 0.5). Colours are those of 'yolo predict', one for "
        f"each class. Names stand at the {NAMED} surest boxes at most, and where they lie over no other name; a "
        "pointer on a box shows its name.</p>"
    )
    note += svg.element("p", "".join(_key(*told) for told in classes), class_="note")
    return note + "".join(shown) if shown else ""


def _key(name: str, colour: str) -> str:
    """The colour of a class, and its name."""
    dot = svg.element("circle", cx=6, cy=6, r=5, stroke=colour, class_="box dot")
    return f"{svg.element('svg', dot, viewBox='0 0 12 12', class_='key', aria_hidden='true')}{svg.escaped(name)} "


def _boxes(image: ExampleImage, name: str, found: Sequence[Outline], *, first: bool) -> str:
    """One image with outlines. Its pixels stand in the page once and are used three times."""
    width, height = image.size
    place = f"data:image/jpeg;base64,{b64encode(image.jpeg).decode()}"
    pixels = (
        svg.element("image", id=name, href=place, width=width, height=height)
        if first
        else svg.element("use", href=f"#{name}")
    )
    size = max(width, height) / 30
    outlines = [[(x * width, y * height) for x, y in one["points"]] for one in found]
    words = [one["name"] if one["score"] is None else f"{one['name']} {one['score']:.2f}" for one in found]
    boxes, texts = [], []
    named = places(outlines, words, image.size, size, [one["score"] or 0.0 for one in found])
    for one, corners, said, at in zip(found, outlines, words, named, strict=True):
        kind = f"box{'' if one['matched'] else ' alone'}"
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        drawn = svg.element("polygon", points=points, stroke=one["colour"], class_=kind)
        boxes.append(svg.titled(drawn, said))
        if at is not None:
            texts.append(svg.label(at[0], at[1], said, font_size=size, class_=f"name {kind}"))
    parts = [pixels, *boxes, *texts]  # no box lies over a name
    said = f"{image.file}: {len(found)} boxes"
    return svg.element("svg", "".join(parts), viewBox=f"0 0 {width} {height}", role="img", aria_label=said)


def places(
    outlines: Sequence[Sequence[tuple[float, float]]],
    words: Sequence[str],
    image: tuple[int, int],
    size: float,
    sure: Sequence[float],
) -> list[tuple[float, float] | None]:
    """Where the names of the surest boxes are written so that none lies over another one; of two alike, the larger's.

    Args:
        outlines (Sequence): Corners of each box, in pixels.
        words (Sequence[str]): What is written at each.
        image (tuple[int, int]): Width and height of the image in pixels.
        size (float): Of the letters, in pixels.
        sure (Sequence[float]): How sure each box is.

    Returns:
        (list): Left end and base line of each name, None where there is no room for it, and for all but `NAMED`.
    """
    found: list[tuple[float, float] | None] = [None] * len(words)
    taken: list[tuple[float, float, float, float]] = []
    ends = [(*map(min, zip(*o, strict=True)), *map(max, zip(*o, strict=True))) for o in outlines]
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in ends]
    for i in sorted(range(len(words)), key=lambda i: (-sure[i], -areas[i]))[:NAMED]:
        left, top, right, bottom = ends[i]
        long = LETTER * size * len(words[i])
        lines = (top - 3, top + size, bottom - 3, bottom + size)  # above, inside at both ends, below
        for y in lines:
            for x in (left + 2, right - long - 2):
                x = max(0.0, min(x, image[0] - long))
                spot = (x, y - size, x + long, y)
                inside = spot[1] >= 0 and y <= image[1]
                if inside and not any(_meet(spot, other) for other in taken):
                    found[i] = (x, y)
                    break
            if found[i] is not None:
                taken.append(spot)
                break
    return found


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Whether two rectangles, as left, top, right and bottom, have an area in common."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _names(report: Report) -> tuple[str, str]:
    """What the two models are called: as in the figures by class, else as in the table."""
    called = [*report.pair]
    if not called:
        called = [*report.by_class[0].figures] if report.by_class else [str(r.get("model")) for r in ends(report.rows)]
    return called[0], called[-1]
