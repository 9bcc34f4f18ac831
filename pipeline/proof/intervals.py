"""How sure a figure is: the same figure on images drawn again and again from the ones that were judged.

Images are drawn, not objects, because the objects of an image are not independent of each other. The interval is the
figure ± 1.96 standard deviations of its resamples. Their percentiles would be off: a class that is in few images has a
higher average precision in a resample, where some of the images with its wrong labels are not.

Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", the standard normal interval.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.proof.coco_scores import Matches
from pipeline.proof.pairing import Pair

RESAMPLES = 1000
SEED = 0
_DEVIATIONS = 1.96
"""Half the width of a 95 % interval of a normal distribution."""
_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST_CELLS = 2_000_000
_TINY = np.spacing(1)

Weights = NDArray[np.float64]
"""(B, images): how often an image was drawn, in each of B resamples."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """How much higher a figure is here than there.

    Attributes:
        here: The figure of the labels that are judged.
        there: Of the others.
        change: here − there, with its interval.
        share_higher: Part of the resamples in which it is higher here.
    """

    here: float
    there: float
    change: Interval
    share_higher: float

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.change.low > 0 or self.change.high < 0

    @property
    def verdict(self) -> str:
        """What may be said of it: "better", "worse" or "not told apart"."""
        if not self.told_apart:
            return "not told apart"
        return "better" if self.change.value > 0 else "worse"


def draw_weights(images: int) -> Weights:
    """Draw as many images as there are, with replacement; (RESAMPLES, images), the same ones each time."""
    generator = np.random.default_rng(SEED)
    return generator.multinomial(images, np.full(images, 1 / images), size=RESAMPLES).astype(np.float64)


def interval(value: float, resampled: NDArray[np.float64], most: float = float("inf")) -> Interval:
    """Return a figure with its interval.

    Args:
        value: The figure.
        resampled: (B,) the same of resamples; those that are NaN do not count.
        most: What the figure can be at most; the interval ends there.
    """
    known = resampled[~np.isnan(resampled)]
    half = _DEVIATIONS * float(known.std()) if len(known) else float("nan")
    return Interval(value, value - half, min(value + half, most))


def difference(
    here: Callable[[Weights], NDArray[np.float64]], there: Callable[[Weights], NDArray[np.float64]], weights: Weights
) -> Difference:
    """Compare a figure of two sets of labels on the same resamples.

    Args:
        here: (B, images) -> (B,) the figure.
        there: Likewise, of the others.
        weights: The resamples.
    """
    once = np.ones((1, weights.shape[1]))
    value_here, value_there = float(here(once)[0]), float(there(once)[0])
    changes = here(weights) - there(weights)
    known = changes[~np.isnan(changes)]
    share = float((known > 0).mean()) if len(known) else float("nan")
    return Difference(value_here, value_there, interval(value_here - value_there, changes), share)


def weighted_ap(pair: Pair, matches: Matches, weights: Weights, thresholds: slice) -> NDArray[np.float64]:
    """Return COCO's AP where images count as often as they were drawn.

    Args:
        pair: The truth and the labels.
        matches: Of boxes or of masks.
        weights: (B, images).
        thresholds: Which of the matches' IoU thresholds: `slice(None)` for AP, `slice(1)` for AP50.

    Returns:
        (B,) mean over thresholds and the classes that have objects in the resample; NaN where none has.
    """
    values = []
    scores, classes = pair.found.scores[matches.rows], pair.found.class_rows[matches.rows]
    images = pair.found.image_rows[matches.rows]
    for class_row in range(len(pair.names)):
        positives = weights @ matches.positives[:, class_row]
        mine = np.flatnonzero(classes == class_row)
        mine = mine[np.argsort(-scores[mine], kind="mergesort")]
        right = (matches.truth_rows[thresholds][:, mine] >= 0) & ~matches.ignored[thresholds][:, mine]
        wrong = ~right & ~matches.ignored[thresholds][:, mine]
        values.append(_class_ap(weights[:, images[mine]], right, wrong, positives))
    table = np.stack(values)
    known = ~np.isnan(table)
    total = np.where(known, table, 0).sum(0)
    mean = np.divide(total, known.sum(0), out=np.full(len(total), np.nan), where=known.any(0))
    return np.asarray(mean, dtype=np.float64)


def _class_ap(
    drawn: NDArray[np.float64], right: NDArray[np.bool_], wrong: NDArray[np.bool_], positives: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the AP of one class in each resample, mean over the thresholds.

    Args:
        drawn: (B, D) how often each label's image was drawn; highest scores first.
        right: (T, D).
        wrong: (T, D).
        positives: (B,) objects in the resample.
    """
    total = np.zeros(len(drawn))
    step = max(1, _MOST_CELLS // max(drawn.shape[1], 1))
    for start in range(0, len(drawn), step):
        part = slice(start, start + step)
        for one_right, one_wrong in zip(right, wrong, strict=True):
            hits = np.flatnonzero(one_right)
            if not len(hits):
                continue
            true = np.cumsum(drawn[part][:, hits], axis=1)
            false = np.cumsum(drawn[part] * one_wrong, axis=1)[:, hits]
            precision = true / (true + false + _TINY)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            with np.errstate(divide="ignore", invalid="ignore"):
                recall = true / positives[part, None]
            reached = np.searchsorted(_RECALLS, recall.ravel(), side="right").reshape(recall.shape)
            total[part] += (envelope * np.diff(reached, axis=1, prepend=0)).sum(1) / len(_RECALLS)
    return np.where(positives > 0, total / len(right), np.nan)
