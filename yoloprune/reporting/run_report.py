"""What a run leaves to be read: report.html, one self-contained page, and report.json, the same as data."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from yoloprune import files
from yoloprune.reporting import page_network, page_quality, schema, svg
from yoloprune.reporting.facts import Report

SECTIONS = (
    ("Rounds", page_quality.rounds),
    ("Quality and cost", page_quality.costs),
    ("By class", page_quality.classes),
    ("The same images", page_quality.images),
    ("The network, from input to head", page_network.network),
    ("Zeros by layer", page_network.zeros),
    ("Importance", page_network.importance),
    ("Gamma over the epochs", page_network.gamma),
    ("What may not be cut, and why", page_network.frozen),
    ("Pages of its stages", page_network.parts),
)
"""Of the page below its table, each left out where it would be empty."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What a browser may load for the page: nothing."""

PICTURES = {
    "widths": "Widths before and after",
    "results": "Losses and figures of the last training",
    "sparsity": "The sparse training",
}
"""What stands above a picture, by the name of its file."""

JSON, HTML = NAMES = ("report.json", "report.html")


def write_report(folder: Path, report: Report, pictures: Sequence[Path] = ()) -> Path:
    """Write report.html, with words and pictures, then report.json, the same as data, which says that a run is over.

    Args:
        folder (Path): Folder of the run.
        report (Report): What to say.
        pictures (Sequence[Path]): PNG files to show as well, where they are there.

    Returns:
        (Path): The page.
    """
    data = {"schema": schema.NAME, **report.data()}
    write_text(folder / HTML, page(report, pictures))
    write_text(folder / JSON, json.dumps(data, indent=1, default=str))
    return folder / HTML


def page(report: Report, pictures: Sequence[Path] = ()) -> str:
    """The page; nothing in it is fetched from anywhere."""
    title = svg.escaped(f"yoloprune {report.command}")
    body = page_quality.summary(report)
    told = [(name, made(report)) for name, made in SECTIONS]
    told += [(PICTURES.get(p.stem, p.stem), _embedded(p)) for p in pictures if p.is_file()]
    told += [("Do it again", page_network.repeat(report))]
    body += "".join(f"<h2>{svg.escaped(name)}</h2>{content}" for name, content in told if content)
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    icon = '<link rel=icon href="data:,">'  # else a browser asks for one
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name=viewport content="width=device-width, initial-scale=1"><title>{title}</title>{icon}'
        f"<style>{style}</style></head><body><main><h1>{title}</h1>{body}"
        "<p class=note>All figures, and which channels stayed: report.json beside this page; 'yoloprune schema' says "
        f"what its keys mean.</p></main><script>{script}</script></body></html>"
    )


def _embedded(picture: Path) -> str:
    place = base64.b64encode(picture.read_bytes()).decode()
    return f'<img alt="{svg.escaped(picture.stem)}" src="data:image/png;base64,{place}">'


def write_text(path: Path, text: str) -> None:
    """Write a text in one step, so that a reader never meets half a file."""
    files.write_at_once(path, lambda f: f.write(text.encode()))
