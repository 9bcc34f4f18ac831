"""How far a score is the chance that the label is right."""

from dataclasses import dataclass

import numpy as np

from pipeline.proof.coco_scores import Matches
from pipeline.proof.pairing import Pair

BINS = 10


@dataclass(frozen=True)
class ScoreBin:
    """Labels with scores from `low` (over it, but for the first bin) to `high`; mean score and share right."""

    low: float
    high: float
    labels: int
    mean_score: float
    share_right: float


@dataclass(frozen=True)
class Calibration:
    """The bins that have labels, and the expected calibration error over them."""

    bins: tuple[ScoreBin, ...]
    expected_error: float


def calibrate_scores(pair: Pair, matches: Matches) -> Calibration:
    """Compare scores with the share of labels that are right at IoU .5, in ten bins of equal width.

    Labels on a crowd do not count. Without labels there is no bin and the error is NaN.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", expected calibration error.
    """
    counted = ~matches.ignored[0]
    scores = pair.found.scores[matches.rows[counted]]
    right = matches.truth_rows[0][counted] >= 0
    places = np.clip(np.ceil(scores * BINS).astype(np.int64) - 1, 0, BINS - 1)
    bins = []
    for place in np.unique(places):
        mine = places == place
        bins.append(
            ScoreBin(
                float(place / BINS),
                float((place + 1) / BINS),
                int(mine.sum()),
                float(scores[mine].mean()),
                float(right[mine].mean()),
            )
        )
    gaps = [one.labels * abs(one.mean_score - one.share_right) for one in bins]
    return Calibration(tuple(bins), sum(gaps) / len(scores) if bins else float("nan"))
