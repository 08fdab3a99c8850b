"""Tables in text: alignment, the row of differences, and the words that a command ends with."""

from __future__ import annotations

import pytest

from yoloprune.reporting.text_table import closing, headline, table, with_change

PARENT = {"model": "parent", "mAP50-95": 0.62, "params": 2000, "ms": 20.0}
PRUNED = {"model": "pruned", "mAP50-95": 0.6, "params": 500, "ms": 15.0}


def test_quality_changes_by_a_difference_and_size_by_a_share() -> None:
    expected = {"model": "change", "mAP50-95": "-0.0200", "params": "-75.0 %", "ms": "-25.0 %"}
    assert with_change([PARENT, PRUNED]) == [PARENT, PRUNED, expected]


def test_the_last_is_set_against_the_first_and_says_so_where_others_stand_between() -> None:
    tuned = {**PRUNED, "model": "fine-tuned", "mAP50-95": 0.63}
    changed = with_change([PARENT, PRUNED, tuned])[-1]
    assert changed["model"] == "change" and changed["mAP50-95"] == "+0.0100"
    several = [{**row, "model": name} for row, name in zip((PARENT, PRUNED, tuned), "abc", strict=True)]
    assert with_change(several)[-1] == {**changed, "model": "change, first to last"}


def test_times_of_different_runtimes_are_not_set_against_each_other() -> None:
    """The rest is, and of one runtime all is."""
    first, last = ({**row, "runtime": runtime} for row, runtime in ((PARENT, "torch"), (PRUNED, "onnx")))
    rest = {"model": "change", "mAP50-95": "-0.0200", "params": "-75.0 %"}
    assert with_change([first, last])[-1] == rest
    assert with_change([first, {**last, "runtime": "torch"}])[-1] == {**rest, "ms": "-25.0 %"}


def test_what_one_row_lacks_has_no_difference() -> None:
    assert with_change([PARENT]) == [PARENT]
    assert with_change([PARENT, {"model": "pruned"}]) == [PARENT, {"model": "pruned"}]
    assert with_change([PARENT, {"model": "pruned", "params": 1000}])[-1] == {"model": "change", "params": "-50.0 %"}
    shares = [{"model": "a", "flops": 1.0, "channels": 1.0}, {"model": "b", "flops": 0.4, "channels": 0.25}]
    assert with_change(shares)[-1] == {"model": "change", "flops": "-60.0 %", "channels": "-75.0 %"}
    assert with_change([{"model": "a", "ms": 0.0}, {"model": "b", "ms": 1.0}])[-1]["ms"] == "-"


def test_counts_differ_by_a_count() -> None:
    assert with_change([{"model": "a", "classes": 80}, {"model": "b", "classes": 2}])[-1]["classes"] == "-78"


def test_an_export_is_no_network_of_its_own() -> None:
    """Its row is a size and a time of the network before it, and the change stands below both."""
    parent = {**PARENT, "ms onnx": 10.0}
    tuned = {**PRUNED, "model": "fine-tuned", "mAP50-95": 0.63}
    exported = {"model": "exported", "mAP50-95": 0.5, "MB": 3.0, "ms onnx": 4.0}
    expected = {"model": "change", "mAP50-95": "+0.0100", "params": "-75.0 %", "ms": "-25.0 %", "ms onnx": "-60.0 %"}
    assert with_change([parent, PRUNED, tuned, exported]) == [parent, PRUNED, tuned, exported, expected]
    trained = {**PARENT, "model": "trained"}
    assert with_change([parent, trained, PRUNED, tuned, exported])[5] == expected
    assert with_change([parent, exported]) == [parent, exported]  # nothing was cut
    several = [{**PARENT, "model": name} for name in "abcd"]
    assert with_change(several) == several


@pytest.mark.parametrize("figure", ["accuracy_top1", "mIoU", "delta1", "mAP50-95(M)"])
@pytest.mark.parametrize(
    "beside",
    [
        {"model": "parent", "zeros": 0.0, "nonzero": 1.0},  # of a sweep of masks
        {"model": "parent", "channels": 1.0, "flops": 1.0, "params": 1.0, "ms": 3.0},
        {"point": 0, "group": "parent", "width": 0, "kept": 0, "share": 1.0, "loss": 2.0, "low": 0.1, "high": 0.2},
        {"model": "best", "dead": 0.5, "GFLOPs": 1.0, "MB": 1.0, "imgsz": 64, "ms onnx": 1.0, "made up later": 1.0},
    ],
)
def test_nothing_that_stands_beside_a_figure_is_taken_for_it(beside: dict[str, object], figure: str) -> None:
    assert headline([*beside, figure]) == headline([figure, *beside]) == figure
    assert headline(beside) == ""


def test_what_holds_or_not_is_said_in_words() -> None:
    assert table([{"round": 1, "held": True}, {"round": 2, "held": False}]).splitlines()[1:] == [
        "1      yes",
        "2      no",
    ]


def test_numbers_and_their_differences_stand_under_each_other() -> None:
    assert table(with_change([PARENT, PRUNED])).splitlines() == [
        "model   mAP50-95   params       ms",
        "parent      0.62    2,000       20",
        "pruned       0.6      500       15",
        "change   -0.0200  -75.0 %  -25.0 %",
    ]


def test_closing_words() -> None:
    said = closing("halved", [PARENT, PRUNED], ["a/pruned.pt", "a/report.html"], "yoloprune finetune model=a/pruned.pt")
    lines = said.splitlines()
    assert lines[0] == "halved"
    assert lines[-4].startswith("change")
    assert lines[-3:] == [
        "saved a/pruned.pt",
        "      a/report.html",
        "next: yoloprune finetune model=a/pruned.pt",
    ]
    assert closing("nothing", []) == "nothing"
