"""Thresholds from judged boxes: each rule on cases that were worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calibration.proportion import TWO_SIDED_95, boxes_for_width, design_effect, wilson
from pipeline.calibration.score_maps import choose_map, fit_isotonic, fit_temperature, log_loss
from pipeline.calibration.thresholds import (
    LEAST_JUDGED,
    Finding,
    JudgedBoxes,
    choose_threshold,
    precision_curve,
)


def boxes(scores: list[float], right: list[int], images: list[int] | None = None, missed: int = 0) -> JudgedBoxes:
    """Return judged boxes, each of an image of its own where no images are given."""
    rows = np.arange(len(scores)) if images is None else np.array(images)
    return JudgedBoxes(np.array(scores, np.float64), np.array(right, bool), rows.astype(np.int64), missed)


def test_wilson_is_what_the_formula_gives() -> None:
    eight = wilson(8, 10)
    assert (eight.value, eight.low, eight.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    square = TWO_SIDED_95**2
    assert wilson(10, 10).low == pytest.approx(10 / (10 + square))
    assert wilson(10, 10).high == pytest.approx(1)
    assert wilson(0, 10).low == 0
    nothing = wilson(0, 0)
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (0, 1)


def test_how_many_boxes_an_interval_needs() -> None:
    # All right: the width is z² / (n + z²), so n = z² (1 / .05 - 1) = 72.99.
    assert boxes_for_width(1.0, 0.05) == 73
    for share in (0.5, 0.9, 0.97):
        count = boxes_for_width(share, 0.05)
        widths = [wilson(share * n, n).high - wilson(share * n, n).low for n in (count - 1, count)]
        assert widths[0] > 0.05 >= widths[1]


def test_boxes_that_are_wrong_together_count_for_less() -> None:
    alone = np.array([1, 0] * 50, bool)
    assert design_effect(alone, np.arange(100)) == pytest.approx(100 / 99)
    # Four images of two boxes, right or wrong together: residuals ±1 an image, 4/3 * 4 / 8² over .25 / 8.
    assert design_effect(np.array([1, 1, 0, 0, 1, 1, 0, 0], bool), np.repeat(np.arange(4), 2)) == pytest.approx(8 / 3)
    assert design_effect(np.ones(5, bool), np.arange(5)) == 1
    assert design_effect(np.zeros(0, bool), np.zeros(0, np.int64)) == 1
    assert design_effect(np.array([1, 0], bool), np.zeros(2, np.int64)) == 1


def test_boxes_of_equal_scores_stay_or_go_together() -> None:
    curve = precision_curve(boxes([0.5, 0.9, 0.2, 0.5], [0, 1, 0, 1]))
    assert curve.scores.tolist() == [0.9, 0.5, 0.2]
    assert curve.kept.tolist() == [1, 3, 4]
    assert curve.right.tolist() == [1, 2, 2]
    assert curve.precision.tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    empty = precision_curve(boxes([], []))
    assert len(empty.scores) == len(empty.precision) == 0


def test_the_lowest_threshold_that_is_shown_is_taken() -> None:
    # 100 right ones above 60 wrong ones: with w of these, the one-sided lower end is .95 or more for w = 0 and 1.
    scores = [0.9 - row / 1000 for row in range(100)] + [0.5 - row / 1000 for row in range(60)]
    found = choose_threshold(boxes(scores, [1] * 100 + [0] * 60, missed=25), 0.95, 0.05, 160)
    assert found.finding == Finding.SHOWN
    assert found.score == pytest.approx(0.5)
    assert found.kept == 101
    assert found.recall == pytest.approx(100 / 125)
    assert not found.is_lowest
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.score <= found.high
    low = found.precision.low
    assert low < 100 / 101 < found.precision.high


def test_a_tie_at_the_threshold_is_not_cut() -> None:
    # One more right box, but it shares its score with twenty wrong ones.
    scores = [0.9] * 80 + [0.6] * 21
    found = choose_threshold(boxes(scores, [1] * 80 + [1] + [0] * 20), 0.95, 0.05, 101)
    assert (found.score, found.kept) == (0.9, 80)


@pytest.mark.parametrize(
    ("count", "finding", "more"),
    [
        # Right ones only: the lower end is n / (n + 2.7055), .95 from 52 on; the width .05 needs 73.
        (52, Finding.SHOWN, 21),
        (51, Finding.LIKELY, 22),
        (LEAST_JUDGED, Finding.LIKELY, 23),
        (LEAST_JUDGED - 1, Finding.TOO_FEW, 1),
        (0, Finding.TOO_FEW, LEAST_JUDGED),
    ],
)
def test_few_reviews_are_said_to_be_few(count: int, finding: Finding, more: int) -> None:
    found = choose_threshold(boxes([0.8] * count, [1] * count), 0.95, 0.05, count)
    assert (found.finding, found.more_boxes) == (finding, more)
    assert (found.score is None) == (finding == Finding.TOO_FEW)
    assert found.more_images == (more if count else None)


def test_what_cannot_be_reached_is_not_proposed() -> None:
    found = choose_threshold(boxes([0.9, 0.3] * 40, [0, 1] * 40), 0.95, 0.05, 80)
    assert (found.finding, found.score, found.more_boxes) == (Finding.OUT_OF_REACH, None, 0)
    assert found.precision.value == pytest.approx(0.5)
    nothing = choose_threshold(boxes([0.5] * 60, [0] * 60), 0.95, 0.05, 60)
    assert nothing.finding == Finding.OUT_OF_REACH
    assert math.isnan(nothing.recall)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.2, 0.3, 0.35, 0.5, 0.81, 0.99]), st.booleans()), max_size=90))
def test_a_threshold_keeps_what_it_says(rows: list[tuple[float, bool]]) -> None:
    judged = boxes(
        [score for score, _ in rows], [int(right) for _, right in rows], [row // 3 for row in range(len(rows))]
    )
    found = choose_threshold(judged, 0.8, 0.1, 30)
    if found.score is None:
        assert found.finding in (Finding.TOO_FEW, Finding.OUT_OF_REACH)
        return
    kept = judged.scores >= found.score
    assert kept.sum() == found.kept
    assert judged.right[kept].mean() == pytest.approx(found.precision.value)
    assert found.precision.value >= 0.8


def test_isotonic_pools_what_falls() -> None:
    found = fit_isotonic(np.array([0.3, 0.1, 0.4, 0.2]), np.array([0, 0, 1, 1], bool))
    # Shares 0 1 0 1 pool to 0 ½ ½ 1; the ends stay 1 / 6 off.
    assert found.scores == (0.1, 0.2, 0.3, 0.4)
    assert found.chances == pytest.approx((1 / 6, 0.5, 0.5, 5 / 6))
    assert found(np.array([0.0, 0.15, 0.25, 1.0])).tolist() == pytest.approx([1 / 6, 1 / 3, 0.5, 5 / 6])
    tied = fit_isotonic(np.array([0.1, 0.1, 0.9]), np.array([0, 1, 1], bool))
    assert tied.chances == pytest.approx((0.5, 0.8))
    one = fit_isotonic(np.array([0.7]), np.array([True]))
    assert one(np.array([0.0, 1.0])).tolist() == pytest.approx([2 / 3, 2 / 3])


def test_temperature_finds_the_odds_that_made_the_rights() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(0.05, 0.95, 20_000)
    chances = 1 / (1 + np.exp(-(0.5 * np.log(scores / (1 - scores)) - 1)))
    found = fit_temperature(scores, random.random(len(scores)) < chances)
    assert (found.slope, found.shift) == pytest.approx((0.5, -1), abs=0.05)
    only = fit_temperature(np.array([0.2, 0.9]), np.array([True, True]))
    assert 0.5 < only(np.array([0.5]))[0] < 1
    falling = fit_temperature(np.array([0.2] * 9 + [0.9] * 9), np.array([1] * 9 + [0] * 9, bool))
    assert falling.slope == 0


def test_the_map_that_predicts_held_out_boxes_better_is_taken() -> None:
    random = np.random.default_rng(1)
    scores = random.uniform(0, 1, 2000)
    steps = np.where(scores < 0.5, 0.1, 0.6)
    stepped = choose_map(boxes(scores.tolist(), (random.random(2000) < steps).astype(int).tolist()))
    assert stepped.score_map.method == "isotonic"
    assert stepped.losses["isotonic"] < stepped.losses["temperature"] < stepped.losses["raw"]
    smooth = choose_map(boxes(scores.tolist(), (random.random(2000) < scores).astype(int).tolist()))
    assert smooth.score_map.method == "temperature"
    few = choose_map(boxes(scores[:60].tolist(), [1] * 60))
    assert (few.score_map.method, few.losses) == ("temperature", {})


def test_log_loss() -> None:
    assert log_loss(np.array([0.5, 0.25]), np.array([True, False])) == pytest.approx(
        -(math.log(0.5) + math.log(0.75)) / 2
    )
    assert math.isfinite(log_loss(np.array([0.0, 1.0]), np.array([True, False])))
