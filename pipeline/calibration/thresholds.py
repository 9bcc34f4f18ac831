"""The score from which a class's boxes are right often enough, and how sure that is."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.calibration.proportion import (
    ONE_SIDED_95,
    Share,
    boxes_for_width,
    design_effect,
    wilson,
    wilson_bounds,
)

LEAST_JUDGED = 50
"""Boxes of a class below which nothing is said of it."""
_LEAST_KEPT = 10
"""Boxes above a threshold below which it is not looked at."""
_RESAMPLES = 200
_SEED = 0


class Finding(StrEnum):
    """What is known of the threshold of a class."""

    SHOWN = "met"
    """The lower end of the interval reaches the asked precision."""
    LIKELY = "likely"
    """The share that is right does, its interval reaches lower: more reviews would tell."""
    OUT_OF_REACH = "out of reach"
    """At no score are enough of the boxes right."""
    TOO_FEW = "too few"
    """Too few boxes were judged to say anything."""


@dataclass(frozen=True, eq=False)
class JudgedBoxes:
    """The boxes of one class of which is known whether they are right; N may be 0.

    Attributes:
        scores: (N,) float64, the detector's, in [0, 1].
        right: (N,) bool.
        images: (N,) int64, which image each is of.
        missed: Objects of the class that no box found.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    images: NDArray[np.int64]
    missed: int = 0

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision over the threshold; K different scores, highest first.

    Attributes:
        scores: (K,) float64.
        kept: (K,) float64, boxes with at least this score.
        right: (K,) float64, how many of them are right.
    """

    scores: NDArray[np.float64]
    kept: NDArray[np.float64]
    right: NDArray[np.float64]

    @property
    def precision(self) -> NDArray[np.float64]:
        """(K,) share of the kept boxes that is right."""
        return np.asarray(self.right / self.kept, np.float64)


@dataclass(frozen=True)
class Threshold:
    """What was found for one class.

    Attributes:
        finding: How sure it is.
        score: The threshold; None where there is none to propose.
        low: Lower end of the threshold's own 95 % interval, over resampled images; None where it is not known.
        high: Upper end.
        is_lowest: All judged boxes are kept: a lower threshold was not tried.
        kept: Judged boxes from the threshold on.
        precision: Share of them that is right, with its 95 % interval.
        recall: Share of the objects that they find; NaN where the class has no object.
        more_boxes: How many more reviewed boxes from the threshold on would narrow the interval to the asked width.
        more_images: In how many images that many are; None where no box is kept.
    """

    finding: Finding
    score: float | None
    low: float | None
    high: float | None
    is_lowest: bool
    kept: int
    precision: Share
    recall: float
    more_boxes: int
    more_images: int | None


def precision_curve(boxes: JudgedBoxes, weights: NDArray[np.float64] | None = None) -> Curve:
    """Return precision over the threshold; boxes of equal scores are kept or dropped together.

    Args:
        boxes: Of one class; N may be 0.
        weights: (N,) how often each box counts; None for once.
    """
    order = np.argsort(-boxes.scores, kind="stable")
    scores = boxes.scores[order]
    counted = np.ones(len(scores)) if weights is None else weights[order]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, np.int64)
    kept, right = np.cumsum(counted), np.cumsum(counted * boxes.right[order])
    some = ends[kept[ends] > 0]
    return Curve(scores[some], kept[some], right[some])


def choose_threshold(boxes: JudgedBoxes, precision: float, width: float, images: int) -> Threshold:
    """Choose the lowest threshold from which the boxes of a class are right often enough.

    Taken is the lowest score at which the one-sided 95 % lower end of the precision reaches what is asked. Where it
    does at none, the score with the highest lower end among those whose share of right boxes does.

    Args:
        boxes: The judged boxes.
        precision: Share of the kept boxes that should be right, in (0, 1).
        width: Of the precision's 95 % interval, for `more_boxes`.
        images: How many images were judged.
    """
    if len(boxes) < LEAST_JUDGED:
        return _nothing(Finding.TOO_FEW, boxes, LEAST_JUDGED - len(boxes), images)
    effect = design_effect(boxes.right, boxes.images)
    curve = precision_curve(boxes)
    chosen = _choose(curve, precision, effect)
    if chosen is None:
        return _nothing(Finding.OUT_OF_REACH, boxes, 0, images)
    place, finding = chosen
    kept, right = float(curve.kept[place]), float(curve.right[place])
    needed = boxes_for_width(right / kept, width) * effect
    more = max(0, int(np.ceil(needed - kept)))
    low, high = _resample(boxes, precision, effect)
    objects = int(boxes.right.sum()) + boxes.missed
    return Threshold(
        finding,
        _round_down(curve.scores, place),
        low,
        high,
        place == len(curve.scores) - 1,
        int(kept),
        wilson(right / effect, kept / effect),
        right / objects if objects else float("nan"),
        more,
        int(np.ceil(more / kept * images)),
    )


def _choose(curve: Curve, precision: float, effect: float) -> tuple[int, Finding] | None:
    """Return the place of the threshold on the curve; None where no share of right boxes is high enough."""
    lows, _ = wilson_bounds(curve.right / effect, curve.kept / effect, ONE_SIDED_95)
    enough = curve.kept >= _LEAST_KEPT
    shown = np.flatnonzero(enough & (lows >= precision))
    if len(shown):
        return int(shown[-1]), Finding.SHOWN
    likely = np.flatnonzero(enough & (curve.precision >= precision))
    if len(likely):
        return int(likely[np.argmax(lows[likely])]), Finding.LIKELY
    return None


def _nothing(finding: Finding, boxes: JudgedBoxes, more: int, images: int) -> Threshold:
    """Return the finding for a class without a threshold; its precision is that of all its boxes."""
    count, right = len(boxes), int(boxes.right.sum())
    effect = design_effect(boxes.right, boxes.images)
    objects = right + boxes.missed
    return Threshold(
        finding,
        None,
        None,
        None,
        False,
        count,
        wilson(right / effect, count / effect),
        right / objects if objects else float("nan"),
        more,
        int(np.ceil(more / count * images)) if count else None,
    )


def _resample(boxes: JudgedBoxes, precision: float, effect: float) -> tuple[float | None, float | None]:
    """Return the middle 95 % of the thresholds that resampled images give; nothing where most give none."""
    random = np.random.default_rng(_SEED)
    _, rows = np.unique(boxes.images, return_inverse=True)
    groups = int(rows.max()) + 1
    found = []
    for _ in range(_RESAMPLES):
        drawn = np.bincount(random.integers(groups, size=groups), minlength=groups).astype(np.float64)
        curve = precision_curve(boxes, drawn[rows])
        if (chosen := _choose(curve, precision, effect)) is not None:
            found.append(curve.scores[chosen[0]])
    if len(found) <= _RESAMPLES / 2:
        return None, None
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _round_down(scores: NDArray[np.float64], place: int) -> float:
    """Return a score with four digits where these still stand above the next lower score, else as it is."""
    score = float(scores[place])
    short = float(np.floor(score * 1e4) / 1e4)
    is_between = place == len(scores) - 1 or short > scores[place + 1]
    return short if is_between else score
