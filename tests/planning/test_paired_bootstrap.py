"""The interval of a difference in mAP: precision by hand, the same figure as Ultralytics', draws that can be listed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ultralytics.utils.metrics import ap_per_class

from yoloprune.planning.paired_bootstrap import Findings, between, interval


def findings(hits: list[list[int]], confidence: list[float], images: list[int], labels: list[int]) -> Findings:
    """Of one class, with a label in each image that `labels` names."""
    n = len(hits)
    return Findings(
        np.array(hits, dtype=bool).reshape(n, 1),
        np.array(confidence),
        np.zeros(n),
        np.array(images),
        np.zeros(len(labels)),
        np.array(labels),
        1 + max(labels),
    )


def drawn(seed: int, images: int = 12, classes: int = 3, thresholds: int = 10) -> Findings:
    """Random findings: some labels are found, more or less exactly, the rest of the findings are wrong; the last class
    has a label and no finding."""
    generator = np.random.default_rng(seed)
    labels = np.sort(generator.integers(0, images, 60))
    kinds = generator.integers(0, classes, 60)
    seen = generator.random(60) < 0.8
    wrong = 200
    exact = np.concatenate([generator.random(seen.sum()), np.zeros(wrong)])
    return Findings(
        exact[:, None] > np.linspace(0.05, 0.95, thresholds),
        generator.permutation(len(exact)) / len(exact),  # no two alike: Ultralytics' order of ties is chance
        np.concatenate([kinds[seen], generator.integers(0, classes, wrong)]),
        np.concatenate([labels[seen], generator.integers(0, images, wrong)]),
        np.append(kinds, classes),
        np.append(labels, images - 1),
        images,
    )


def theirs(found: Findings) -> float:
    """Ultralytics' own figure."""
    return float(ap_per_class(found.hits, found.confidence, found.classes, found.label_classes)[5].mean())


def repeated(found: Findings, counts: np.ndarray) -> Findings:
    """The data set in which image i is there counts[i] times, each with findings of its own."""
    take = [np.flatnonzero(found.images == i) for i, c in enumerate(counts) for _ in range(c)]
    labels = [np.flatnonzero(found.label_images == i) for i, c in enumerate(counts) for _ in range(c)]
    at, of = np.concatenate(take), np.concatenate(labels)
    return Findings(
        found.hits[at],
        found.confidence[at],
        found.classes[at],
        np.repeat(np.arange(len(take)), [len(t) for t in take]),
        found.label_classes[of],
        np.repeat(np.arange(len(labels)), [len(t) for t in labels]),
        len(take),
    )


def test_all_found_and_nothing_else() -> None:
    # Precision is 1 at the places 0 to 0.99 and nothing at the last one, as Ultralytics counts: a trapezoid short of 1.
    assert findings([[1], [1]], [0.9, 0.8], [0, 1], [0, 1]).mean_ap()[0] == pytest.approx(0.995)


def test_a_false_finding_between_two_hits() -> None:
    # Precision is 1 at the 50 places 0 to 0.49, 2/3 at the 50 places 0.50 to 0.99, and nothing at the last one: 0.49 of
    # the first, 0.49 of the second, and the steps between (1 + 2/3) / 2 and (2/3 + 0) / 2, each 0.01 wide.
    found = findings([[1], [0], [1]], [0.9, 0.8, 0.7], [0, 0, 1], [0, 1])
    assert found.mean_ap()[0] == pytest.approx(0.49 + 0.49 * 2 / 3 + 0.01 * 5 / 6 + 0.01 / 3)


def test_what_is_sure_and_false_halves_the_precision() -> None:
    found = findings([[0], [1]], [0.9, 0.8], [0, 0], [0])
    assert found.mean_ap()[0] == pytest.approx(0.5 * 0.995)


def test_nothing_right_is_nothing() -> None:
    assert findings([[0]], [0.9], [0], [0]).mean_ap()[0] == 0
    assert findings([], [], [], [0]).mean_ap()[0] == 0


@pytest.mark.parametrize("seed", range(8))
def test_unweighted_it_is_the_figure_of_ultralytics(seed: int) -> None:
    found = drawn(seed)  # where a curve jumps at one of the 101 places, the last bit says on which side it is read
    assert found.mean_ap()[0] == pytest.approx(theirs(found), abs=2e-4)


@pytest.mark.parametrize("seed", range(8))
def test_an_image_that_is_not_drawn_is_not_there(seed: int) -> None:
    found = drawn(seed)
    counts = np.random.default_rng(seed).integers(0, 2, found.count)
    counts[0] = 1
    assert found.mean_ap(counts[None])[0] == pytest.approx(theirs(repeated(found, counts)), abs=2e-4)


@pytest.mark.parametrize("seed", range(8))
def test_an_image_that_is_drawn_twice_counts_twice(seed: int) -> None:
    # The copies of a hit come one after the other in a data set, and at once here: the places between are the same but
    # where two hits follow each other, so the figures differ by less than a step of the curve.
    found = drawn(seed)
    counts = np.random.default_rng(seed + 100).multinomial(found.count, np.full(found.count, 1 / found.count))
    assert found.mean_ap(counts[None])[0] == pytest.approx(theirs(repeated(found, counts)), abs=5e-3)


def test_two_images_have_three_draws() -> None:
    # Both, the first twice, or the second twice: 1/2, 1/4 and 1/4 of all draws. The first model finds the label of
    # image 0 and nothing in image 1, the second the other way round, so the difference is 0, -0.995 or +0.995.
    first = findings([[1]], [0.9], [0], [0, 1])
    second = findings([[1]], [0.9], [1], [0, 1])
    found = interval(first, second)
    assert found.difference == 0
    assert (found.low, found.high) == (-99.5, 99.5)
    middle = interval(first, second, 0.4)  # a quarter of the draws lies at either end
    assert (middle.low, middle.high) == (0, 0)


def test_a_model_beside_itself_differs_by_nothing() -> None:
    found = interval(drawn(0), drawn(0))
    assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_the_interval_is_that_of_normal_differences() -> None:
    # 400 images with one label each, all found by the first model. The second finds those of 320 and nothing else, so
    # its mAP is its recall, and a difference has a standard error of sqrt(0.8 * 0.2 / 400), which is 2 points: 3.92 to
    # either side of -20. The curve is read in steps of a point, so each is right to one.
    everywhere, most = list(range(400)), list(range(320))
    first = findings([[1]] * 400, [0.5] * 400, everywhere, everywhere)
    second = findings([[1]] * 320, [0.5] * 320, most, everywhere)
    found = interval(first, second)
    assert found.difference == pytest.approx(-20, abs=1)
    assert (found.high - found.low) / 2 == pytest.approx(3.92, abs=1)


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="same images"):
        interval(findings([[1]], [0.9], [0], [0]), findings([[1]], [0.9], [0], [0, 1]))


def test_it_says_points_level_and_images() -> None:
    text = str(interval(drawn(0), drawn(0), 0.9))
    assert text == "+0.00 points, 90% interval +0.00 to +0.00 (paired bootstrap over 12 images)"


def test_it_lies_around_the_difference_that_tables_show() -> None:
    """Of few images Ultralytics reads some curves at the other side of a jump, and its figures are what users see."""
    first = drawn(0)
    second = replace(first, hits=first.hits & (np.arange(len(first.hits)) % 3 > 0)[:, None])
    plain, told = interval(first, second), interval(first, second, figures=(0.2, 0.25))
    assert told.difference == 5 and plain.difference != 5
    assert told.high - told.low == pytest.approx(plain.high - plain.low, abs=0.002)
    assert told.low - plain.low == pytest.approx(5 - plain.difference, abs=0.002)
    assert between(first, second, (0.2, 0.25)) == told and between(None, second, None) is None


def test_of_few_images_there_is_none() -> None:
    """Of one all draws are the same: an interval of no width would say that nothing is chance."""
    first = drawn(0)
    one = replace(first, images=0 * first.images, label_images=0 * first.label_images, count=1)
    assert between(one, one, (0.2, 0.25)) is None
    assert between(replace(first, count=4), replace(first, count=4), None) is None
