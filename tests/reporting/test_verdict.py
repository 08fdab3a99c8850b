"""A table in one sentence."""

from __future__ import annotations

import pytest

from yoloprune.planning.paired_bootstrap import Interval
from yoloprune.reporting import verdict

PARENT = {"model": "parent", "mAP50": 0.9, "mAP50-95": 0.6, "params": 1000, "GFLOPs": 8.0, "ms": 20.0}


def pruned(quality: float) -> dict[str, object]:
    return {"model": "pruned", "mAP50": 0.8, "mAP50-95": quality, "params": 250, "GFLOPs": 4.0, "ms": 15.0}


@pytest.mark.parametrize(
    "quality, points, judged",
    [
        (0.61, "+1.0", "better than before"),
        (0.598, "-0.2", "nothing that counts is lost"),
        (0.58, "-2.0", "little is lost, and nothing is fine-tuned yet"),
        (0.55, "-5.0", "fine-tuning has this to win back"),
        (0.4, "-20.0", "that is much to win back; look at 'yoloprune sweep', or cut less"),
    ],
)
def test_a_cut(quality: float, points: str, judged: str) -> None:
    assert verdict.of([PARENT, pruned(quality)]) == (
        "Pruned has 50% of the GFLOPs, 25% of the parameters and 75% of the time per image of parent, and mAP50-95 "
        f"goes from 0.600 to {quality:.3f} ({points} points): {judged}."
    )


def test_a_time_that_was_asked_for_is_the_one_that_is_told() -> None:
    rows = [{**PARENT, "ms onnx": 10.0}, {**pruned(0.6), "ms onnx": 6.0}]
    assert "25% of the parameters and 60% of the time per image in onnx of parent" in verdict.of(rows)


def test_three_points_of_a_weak_model_are_not_little() -> None:
    rows = [{**PARENT, "mAP50-95": 0.189}, pruned(0.16)]
    assert verdict.of(rows, trained=True).endswith("(-2.9 points): much is lost; train longer, or cut less.")
    assert verdict.of(rows).endswith("(-2.9 points): fine-tuning has this to win back.")
    assert verdict.of([{**PARENT, "mAP50-95": 0.189}, pruned(0.172)], trained=True).endswith(": little is lost.")


def test_what_may_be_chance_is_not_told_as_sure() -> None:
    chance = Interval(1.7, -2.6, 5.5, 0.95, 24)
    said = verdict.of([PARENT, pruned(0.617)], trained=True, interval=chance)
    assert said.endswith("(+1.7 points): better than before, but on 24 images that may be chance.")
    sure = Interval(1.7, 0.6, 2.5, 0.95, 24)
    assert verdict.of([PARENT, pruned(0.617)], interval=sure).endswith(": better than before.")
    assert verdict.of([PARENT, pruned(0.617)], cut=False, interval=chance).endswith(
        "(+1.7 points): on 24 images that may be chance."
    )


def test_a_parent_that_finds_nothing_tells_nothing_of_a_cut() -> None:
    said = verdict.of([{**PARENT, "mAP50-95": 0.001}, pruned(0.003)])
    assert said.endswith("from 0.001 to 0.003 (+0.2 points): parent finds too little on this data to say what is lost.")


def test_of_two_models_of_which_none_comes_from_the_other_no_advice_follows() -> None:
    assert verdict.of([PARENT, pruned(0.4)], cut=False).endswith("from 0.600 to 0.400 (-20.0 points).")


def test_models_of_any_name_keep_it_and_times_of_different_runtimes_are_left_out() -> None:
    rows = [{**PARENT, "runtime": "torch"}, {**pruned(0.4), "model": "slim/weights/best.onnx", "runtime": "onnx"}]
    said = verdict.of(rows, cut=False)
    assert said.startswith("slim/weights/best.onnx has 50% of the GFLOPs and 25% of the parameters of parent, and")


def test_without_quality_it_says_how_to_measure_it() -> None:
    rows = [{"model": "parent", "params": 4}, {"model": "pruned", "params": 1}]
    assert verdict.of(rows).startswith("Pruned has 25% of the parameters of parent; quality was not measured")
    assert verdict.of([PARENT]) == ""


@pytest.mark.parametrize("end, where", [(0.61, "above"), (0.601, "level with"), (0.59, "BELOW")])
def test_a_training(end: float, where: str) -> None:
    rows = [{"model": "start", "mAP50-95": 0.6}, {"model": "fine-tuned", "mAP50-95": end}]
    assert verdict.of_training(rows).startswith(f"mAP50-95 ended at {end:.4f}, {where} its start at 0.6000")
    assert verdict.of_training(rows[1:]) == ""


def test_the_front() -> None:
    """b is dearer than a and worse; c is the best and the dearest; d is as cheap as a and worse."""
    assert verdict.on_front([1.0, 2.0, 3.0, 1.0], [0.5, 0.4, 0.6, 0.3]) == {0, 2}
    assert verdict.on_front([1.0, 1.0], [0.5, 0.5]) == {0, 1}


def test_several_models() -> None:
    points = [{"model": "a", "quality": 0.5, "ms": 9.0}, {"model": "b", "quality": 0.4, "ms": 10.0}]
    assert verdict.of_several(points, "mAP50-95") == "Not beaten in both mAP50-95 and ms: a (mAP50-95 0.500, 9 ms)."
    assert verdict.of_several([{"model": "a", "quality": 0.5}], "mAP50-95") == ""


def test_several_models_of_several_runtimes() -> None:
    """c is the fastest and as good as a, on a runtime of its own: it beats nobody."""
    points = [
        {"model": "a", "quality": 0.5, "ms": 9.0, "runtime": "torch"},
        {"model": "b", "quality": 0.4, "ms": 10.0, "runtime": "torch"},
        {"model": "c", "quality": 0.5, "ms": 3.0, "runtime": "onnx"},
    ]
    assert verdict.of_several(points, "mAP50-95") == (
        "Not beaten in both mAP50-95 and ms: of those on torch a (mAP50-95 0.500, 9 ms); of those on onnx c (mAP50-95 "
        "0.500, 3 ms)."
    )
    alike = [{**p, "runtime": "torch"} for p in points]
    assert verdict.of_several(alike, "mAP50-95") == "Not beaten in both mAP50-95 and ms: c (mAP50-95 0.500, 3 ms)."
