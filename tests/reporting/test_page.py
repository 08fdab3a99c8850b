"""The page of a run and its data: sections, escaped names, numbers worked out by hand, the schema."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import NASTY, full, image
from schemas import faults

from yoloprune.reporting import page_network, page_quality, run_report, schema, svg
from yoloprune.reporting.facts import ClassFigures, Importance, Report, points_of

VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Elements that are open, what they say, and where they lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def told(text: str) -> list[str]:
    return Reader(text).words


# the page -------------------------------------------------------------------------------------------------------------
def test_every_section_is_there_and_all_elements_are_closed() -> None:
    page = Reader(run_report.page(full()))
    assert not page.open
    said = " ".join(page.words)
    assert all(name in said for name, _ in run_report.SECTIONS)
    assert "Do it again" in said


def test_an_empty_report_has_no_empty_sections() -> None:
    page = Reader(run_report.page(Report("val", [{"model": "a", "params": 1}])))
    assert [tag for tag, _ in page.seen if tag in {"h1", "h2"}] == ["h1"]


def test_names_are_text_and_never_markup() -> None:
    text = run_report.page(full())
    assert NASTY not in text and text.count("<script>") == 1  # our own
    assert sum(NASTY in word for word in told(text)) >= 5


def test_pages_of_parts_are_linked_beside_this_one() -> None:
    page = Reader(run_report.page(full()))
    links = [attrs["href"] or "" for tag, attrs in page.seen if tag == "a"]
    assert len(links) == 1 and links[0].endswith("/report.html") and not set(links[0]) & set("<>\"': ")


def test_nothing_is_fetched() -> None:
    page = Reader(run_report.page(full()))
    kinds = {"src", "href", "xlink:href"}
    places = [v or "" for tag, attrs in page.seen for k, v in attrs.items() if k in kinds and tag != "a"]
    assert places and all(p.startswith(("data:", "#")) for p in places)
    policy = next(a["content"] for tag, a in page.seen if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in str(policy)


def test_pixels_of_an_image_stand_in_the_page_once() -> None:
    report = full()
    jpegs = run_report.page(report).count("data:image/jpeg")
    assert jpegs == len(report.images)


# numbers --------------------------------------------------------------------------------------------------------------
def test_classes_that_lost_most_come_first() -> None:
    classes = [ClassFigures(n, 1, {"parent": 0.5, "pruned": p}) for n, p in (("a", 0.5), ("b", 0.2), ("c", 0.4))]
    report = replace(full(), by_class=classes)
    words = told(page_quality.classes(report))
    assert [w for w in words if w in {"a", "b", "c"}] == ["b", "c", "a"]
    assert "-0.3" in words


def test_classes_of_one_model_have_no_change() -> None:
    report = replace(full(), by_class=[ClassFigures("a", 1, {"fine-tuned": 0.5})])
    assert "change" not in told(page_quality.classes(report))


def test_images_that_changed_most_come_first() -> None:
    files = [replace(image(), file=name, changed=c) for name, c in (("x", 0.1), ("y", 0.7))]
    words = told(page_quality.images(replace(full(), images=files)))
    heads = [w for w in words if "found again" in w]
    assert heads == ["y: 1 of 2 found again, changed 70%", "x: 1 of 2 found again, changed 10%"]


def test_images_are_of_the_pair_that_is_named() -> None:
    """The last column may be of an export, which found nothing in these images."""
    report = replace(full(), by_class=[ClassFigures("a", 1, {"a.pt": 0.5, "b.pt": 0.4, "b.onnx": 0.4})], pair=[])
    for pair, named in (([], ["labels", "a.pt", "b.onnx"]), (["a.pt", "b.pt"], ["labels", "a.pt", "b.pt"])):
        words = told(page_quality.images(replace(report, pair=pair)))
        assert [w.partition(":")[0] for w in words if w.partition(":")[0] in {"labels", *named}][:3] == named


def test_the_threshold_separates_best() -> None:
    """Scores 1, 10, 100, 1000: the second stays although the third goes, so any line is wrong once, at 100 or above."""
    found = Importance.of(
        np.array([1.0, 10, 100, 1000, 0, 0, np.nan]), np.array([0, 1, 0, 1, 0, 1, 1], dtype=bool), "", 3
    )
    assert found is not None
    assert (found.kept, found.cut, found.edges) == ([0, 1, 1], [1, 0, 1], [0.0, 1.0, 2.0, 3.0])
    assert (found.threshold, found.across, found.zeros) == (1.0, 1, (1, 1))
    assert Importance.of(np.zeros(3), np.ones(3, dtype=bool), "") is None


def test_the_threshold_of_a_clean_cut() -> None:
    found = Importance.of(np.array([1.0, 10, 100, 1000]), np.array([0, 0, 1, 1], dtype=bool), "")
    assert found is not None and (found.threshold, found.across) == (2.0, 0)


def test_layers_are_as_high_as_they_are_wide() -> None:
    one = {"layer": "model.0", "state": "prunable", "coupled with": [], "parts": None}
    rows = [{**one, "width": 64, "kept": 16}, {**one, "layer": "model.1", "width": 32, "kept": 32}]
    bars = [a for tag, a in Reader(page_network.network(replace(full(), layers=rows))).seen if tag == "rect"]
    assert [float(str(b["height"])) for b in bars] == [180, 45, 90, 90]


def test_times_of_layers_stand_below_their_flops_where_they_were_measured() -> None:
    one = {"layer": "model.0", "width": 64, "kept": 64, "state": "prunable", "coupled with": [], "parts": None}
    costs = {"MFLOPs": 8.0, "MFLOPs kept": 4.0}
    plain = page_network.network(replace(full(), layers=[{**one, **costs}]))
    assert "this machine" not in plain
    timed = page_network.network(replace(full(), layers=[{**one, **costs, "ms": 1.0, "ms kept": 2.0}]))
    bars = [a for tag, a in Reader(timed).seen if tag == "rect"]
    assert [float(str(b["height"])) for b in bars[2:]] == [110, 55, 55, 110]
    feet = [float(str(b["y"])) + float(str(b["height"])) for b in bars[2:]]
    assert feet == [350, 350, 490, 490]
    assert "torch on this machine" in timed and "1 → 2 ms" in timed and "up to 2 ms a layer" in timed


def test_round_ticks() -> None:
    assert svg.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert svg.ticks(0.58, 0.62) == [0.58, 0.59, 0.6, 0.61, 0.62]
    assert svg.ticks(-12.4, -5.9) == [-12, -10, -8, -6]


def test_a_frame_puts_ends_at_its_borders() -> None:
    frame = svg.Frame((0, 10), (0, 2), 200, 100)
    assert (frame.x(0), frame.x(10)) == (svg.Frame.LEFT, 200 - svg.Frame.RIGHT)
    assert (frame.y(0), frame.y(2)) == (100 - svg.Frame.BOTTOM, svg.Frame.TOP)
    assert math.isfinite(svg.Frame((1, 1), (3, 3)).x(1))


def test_attributes_are_escaped() -> None:
    assert svg.element("a", "b", class_='"><x') == '<a class="&quot;&gt;&lt;x">b</a>'


def test_names_may_hold_control_characters() -> None:
    """U+FFFD stands for what no page should hold, a terminal's escape and a character that turns text around."""
    assert svg.escaped("<b>\x1b[31m\u202e\tà") == "&lt;b&gt;\ufffd[31m\ufffd\tà"
    assert "\x1b" not in svg.label(0, 0, "\x1b") + svg.titled("", "\x1b")


def test_points() -> None:
    rows = [{"model": "a", "mAP": 0.5, "GFLOPs": 2.0, "params": 3}, {"model": "b"}]
    assert points_of(rows, "mAP") == [{"model": "a", "quality": 0.5, "GFLOPs": 2.0}]


def test_times_of_different_runtimes_have_pictures_of_their_own() -> None:
    """Two on torch and one on onnx, which is alone and nothing to compare; all three have GFLOPs."""
    points = [
        {"model": m, "quality": 0.5, "GFLOPs": 2.0, "ms": 3.0, "runtime": r}
        for m, r in zip("abc", ("torch", "torch", "onnx"), strict=True)
    ]
    drawn = page_quality.costs(replace(full(), points=points))
    assert drawn.count("<figure>") == 2 and "milliseconds per image, torch" in drawn and "per image, onnx" not in drawn
    assert "Times of different runtimes are not compared" in drawn
    alike = page_quality.costs(replace(full(), points=[{**p, "runtime": "torch"} for p in points]))
    assert alike.count("<figure>") == 2 and "image, torch" not in alike and "different runtimes" not in alike


# the data -------------------------------------------------------------------------------------------------------------
def test_the_reader_of_schemas() -> None:
    rule = {"type": "object", "required": ["a"], "properties": {"a": {"type": ["integer", "null"]}}}
    assert faults({"a": None}, rule) == faults({"a": 3, "b": "x"}, rule) == []
    assert faults({}, rule) == [": no a"]
    assert faults({"a": True}, rule) and faults({"a": "x"}, rule) and faults([], rule)


def test_report_json_keeps_the_schema(tmp_path: Path) -> None:
    run_report.write_report(tmp_path, full())
    data = json.loads((tmp_path / "report.json").read_text())
    assert faults(data, schema.SCHEMA) == []
    assert set(data) <= set(schema.PROPERTIES)
    assert "jpeg" not in data["images"][0] and data["kept"] == {"flops": 0.5}


def test_the_data_say_that_a_run_is_over_so_the_page_is_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_report, "page", killed)
    with pytest.raises(KeyboardInterrupt):
        run_report.write_report(tmp_path, full())
    assert not list(tmp_path.iterdir())


def test_every_key_is_explained() -> None:
    def unexplained(rule: dict[str, Any], place: str) -> list[str]:
        below = [(f"{place}.{k}", v) for k, v in rule.get("properties", {}).items()]
        missing = [place] if place and not rule.get("description") and "items" not in rule else []
        return missing + [f for name, v in below for f in unexplained(v, name)]

    assert unexplained(schema.SCHEMA, "") == []


@pytest.mark.parametrize("name", ["page.css", "page.js"])
def test_what_the_page_needs_comes_with_the_package(name: str) -> None:
    root = Path(run_report.__file__).parents[2]
    assert (root / "yoloprune" / "reporting" / name).is_file()
    assert f"*{Path(name).suffix}" in (root / "pyproject.toml").read_text()


# Names of boxes -------------------------------------------------------------------------------------------------------
def corners(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def test_names_of_boxes_do_not_lie_over_each_other() -> None:
    """Letters of 10 pixels, six wide each and a bit: "cat" takes 18.6 pixels."""
    place = page_quality.places([corners(20, 30, 80, 70)], ["cat"], (100, 100), 10, [0.5])
    assert place == [(22, 27)]  # above its upper left corner
    two = [corners(20, 30, 60, 60), corners(20, 30, 80, 70)]
    small, large = page_quality.places(two, ["cat"] * 2, (100, 100), 10, [0.0, 0.0])
    assert large == (22, 27)  # the larger one first
    assert small == (22, 40)  # above, it would meet that at both ends: from 22 and from 39.4, and that ends at 40.6
    assert page_quality.places(two, ["cat"] * 2, (100, 100), 10, [0.9, 0.8])[0] == (22, 27)  # the surer one first
    crowd = page_quality.places([corners(0, 0, 10, 9)] * 9, ["a long name"] * 9, (70, 20), 10, [0.5] * 9)
    assert crowd.count(None) == 8


def test_of_many_boxes_the_surest_have_names() -> None:
    """There is room for all: the boxes lie side by side."""
    many = [corners(40 * i, 50, 40 * i + 30, 80) for i in range(100)]
    found = page_quality.places(many, ["cat"] * 100, (4000, 100), 10, [i / 100 for i in range(100)])
    assert [i for i, place in enumerate(found) if place is not None] == [*range(100 - page_quality.NAMED, 100)]


def test_a_name_stays_in_the_image() -> None:
    [(x, y)] = page_quality.places([corners(95, 0, 100, 50)], ["cat"], (100, 100), 10, [0.5])
    assert x == pytest.approx(100 - 18.6) and y == 10


def test_the_colours_of_classes_are_told() -> None:
    told = page_quality.images(full())
    assert told.count('class="key"') == 2 and told.index('class="key"') < told.index("<h3>")


def test_a_class_has_its_colour_whatever_else_is_seen() -> None:
    """On the page of another run the other class comes first, or not at all."""
    cat = [o for o in image().before if o["name"] == "cat"]
    for shown in (image(), replace(image(), labels=[], before=cat, after=[])):
        drawn = page_quality.images(replace(full(), images=[shown]))
        told = [a for tag, a in Reader(drawn).seen if tag in {"polygon", "circle"}]
        assert {a["stroke"] for a in told if "alone" in str(a["class"])} == {"#0bdbeb"}  # cat's alone is not matched
        assert "#0bdbeb" in [a["stroke"] for a in told if "dot" in str(a["class"])]
