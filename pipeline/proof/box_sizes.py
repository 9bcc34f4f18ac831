"""The sizes of a class's boxes, gathered one by one in fixed memory."""

from dataclasses import dataclass

import numpy as np

_STEPS = 24
"""Bins for each doubling: a median is off by at most 1.5 %."""
_LOWEST, _HIGHEST = -30, 24
"""Powers of two that the bins start and end with: from a billionth of an image to 16 million pixels."""
_AT_ONCE = 4096


@dataclass(frozen=True)
class Spread:
    """The least, about the median, and the most of some numbers; NaN where there were none."""

    least: float
    median: float
    most: float

    def rounded(self, digits: int) -> dict[str, float]:
        """Return them by the names that a datasheet has."""
        return {"min": round(self.least, digits), "median": round(self.median, digits), "max": round(self.most, digits)}


class BoxSizes:
    """Of the boxes of one class: width and height in pixels, and the part of its image that a box covers."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, float, float]] = []
        self._bins = np.zeros((3, (_HIGHEST - _LOWEST) * _STEPS + 1), np.int64)
        self._least, self._most = np.full(3, np.inf), np.full(3, -np.inf)

    def add(self, width: float, height: float, image_hw: tuple[int, int]) -> None:
        """Add a box, its sides in pixels, of an image of this (height, width)."""
        self._waiting.append((width, height, width * height / (image_hw[0] * image_hw[1])))
        if len(self._waiting) >= _AT_ONCE:
            self._count()

    def spreads(self) -> tuple[Spread, Spread, Spread]:
        """Return what is known of width, height and part of the image.

        Source: the median is the middle of the bin that holds the middle number, within the least and the most.
        """
        self._count()
        total = self._bins[0].sum()
        if not total:
            nothing = Spread(np.nan, np.nan, np.nan)
            return nothing, nothing, nothing
        places = [int(np.searchsorted(np.cumsum(row), (total + 1) // 2)) for row in self._bins]
        medians = np.clip([2 ** (place / _STEPS + _LOWEST) for place in places], self._least, self._most)
        rows = zip(self._least, medians, self._most, strict=True)
        width, height, share = (Spread(float(least), float(median), float(most)) for least, median, most in rows)
        return width, height, share

    def _count(self) -> None:
        if not self._waiting:
            return
        values = np.array(self._waiting, np.float64).T
        self._waiting.clear()
        self._least = np.minimum(self._least, values.min(1))
        self._most = np.maximum(self._most, values.max(1))
        powers = np.log2(np.maximum(values, 2.0**_LOWEST))
        places = np.rint((np.minimum(powers, _HIGHEST) - _LOWEST) * _STEPS).astype(np.int64)
        for row, own in enumerate(places):
            self._bins[row] += np.bincount(own, minlength=self._bins.shape[1])
