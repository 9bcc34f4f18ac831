"""How sure a share of right boxes is: Wilson's interval, and how many more boxes would narrow it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TWO_SIDED_95 = 1.959964
"""Normal quantile .975: an interval that holds the share 95 times of 100."""
ONE_SIDED_95 = 1.644854
"""Normal quantile .95: a lower end that the share is above 95 times of 100."""


@dataclass(frozen=True)
class Share:
    """A share with its interval, all in [0, 1]; NaN, 0 and 1 of nothing."""

    value: float
    low: float
    high: float


def wilson(right: float, count: float, deviations: float = TWO_SIDED_95) -> Share:
    """Return the share of right ones with Wilson's interval.

    Args:
        right: How many are right; need not be whole.
        count: Of how many, 0 or more.
        deviations: Half the width of the interval in standard deviations.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if count <= 0:
        return Share(math.nan, 0.0, 1.0)
    lows, highs = wilson_bounds(np.array([right]), np.array([count]), deviations)
    return Share(right / count, float(lows[0]), float(highs[0]))


def wilson_bounds(
    right: NDArray[np.float64], count: NDArray[np.float64], deviations: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both ends of Wilson's interval for many shares.

    Args:
        right: (K,) how many are right.
        count: (K,) of how many, above 0.
        deviations: As in `wilson`.

    Returns:
        Lower and upper ends, (K,) each, in [0, 1], around the share also where rounding would have it otherwise.
    """
    square = deviations**2
    share = right / count
    centre = (share + square / (2 * count)) / (1 + square / count)
    spread = share * (1 - share) / count + square / (4 * count**2)
    half = deviations * np.sqrt(np.maximum(spread, 0)) / (1 + square / count)
    return np.clip(centre - half, 0, share), np.clip(centre + half, share, 1)


def boxes_for_width(share: float, width: float) -> int:
    """Return how many boxes make Wilson's 95 % interval of a share at most this wide.

    Args:
        share: In [0, 1]; taken to stay what it is.
        width: In (0, 1), from end to end.
    """

    def is_wide(count: int) -> bool:
        found = wilson(share * count, count)
        return found.high - found.low > width

    high = 1
    while is_wide(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_wide(middle) else (low, middle)
    return high


def design_effect(right: NDArray[np.bool_], images: NDArray[np.int64]) -> float:
    """Return how many boxes count as one, because boxes of an image tend to be right or wrong together.

    Args:
        right: (N,) which boxes are right; N may be 0.
        images: (N,) the image of each.

    Returns:
        At least 1; 1 where all boxes, or none, are right, or all are of one image.

    Source: Kish 1965, "Survey Sampling": variance of a ratio over images, over that of as many independent boxes.
    """
    count = len(right)
    _, rows = np.unique(images, return_inverse=True)
    groups = int(rows.max()) + 1 if count else 0
    share = float(right.mean()) if count else 0.0
    if groups < 2 or share in (0.0, 1.0):
        return 1.0
    residuals = np.bincount(rows, weights=right - share)
    variance = groups / (groups - 1) * float((residuals**2).sum()) / count**2
    return max(1.0, variance / (share * (1 - share) / count))
