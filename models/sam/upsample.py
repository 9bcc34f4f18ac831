"""From low-resolution logits to run-length masks, one mask at a time, without an array of the image's size.

Bilinear interpolation gives convex combinations, so a pixel can only be positive where a positive logit has a part in
it. The crop that is computed is that of the positive logits' bounds and the pixels next to them, wherever they lie: a
mask may leave its box. Interpolation is separable, so a crop is two small matrix products, and several steps of
interpolation are one pair of matrices.
"""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.mask_crops import crop_to_rle, strips_to_rle
from models.masks import Rle

FloatArray = NDArray[np.float32]

_STRIP_PIXELS = 4_000_000
"""Pixels of a mask that are computed at once: those of a whole scan would take more memory than the scan."""


def bilinear_weights(centres: NDArray[np.floating], cells: int) -> FloatArray:
    """Return how much each cell of a row contributes to each point along it, as bilinear interpolation has it.

    Args:
        centres: (N,) where the points lie, in cells: the first cell is from 0 to 1 and its centre at .5. Beyond the
            centres of the outer cells these count alone.
        cells: How many cells there are, at least 1.

    Returns:
        (N, cells) float32; each row sums to 1 and has at most two entries that are not 0.
    """
    places = np.clip(centres - 0.5, 0, cells - 1)
    first = np.floor(places).astype(np.int64)
    share = places - first
    weights = np.zeros((len(places), cells), np.float32)
    rows = np.arange(len(places))
    weights[rows, np.minimum(first + 1, cells - 1)] = share
    weights[rows, first] += 1 - share
    return weights


def resize_weights(cells: int, points: int) -> FloatArray:
    """Return the weights with which `interpolate(..., mode="bilinear", align_corners=False)` resizes an axis.

    Args:
        cells: Length before, at least 1.
        points: Length after, at least 1.

    Returns:
        (points, cells) float32.
    """
    return bilinear_weights((np.arange(points) + 0.5) * (cells / points), cells)


class Axis:
    """How one axis of an image is interpolated from the cells of one axis of the logits.

    Args:
        weights: (points, cells) float32; each row has entries in some consecutive cells, further on from row to row.
        start: The pixel of the image that the first point is.
    """

    def __init__(self, weights: FloatArray, start: int = 0) -> None:
        self.weights = weights
        self.start = start
        used = weights > 0
        self._first_cell = used.argmax(axis=1)
        self._last_cell = weights.shape[1] - 1 - used[:, ::-1].argmax(axis=1)

    def crop(self, first: int, last: int) -> tuple[int, FloatArray, slice]:
        """Cut the axis to what some of its cells have a part in.

        Args:
            first: The first of these cells.
            last: The last one.

        Returns:
            The first pixel, the weights (n, k) of its pixels for the cells of the slice, and that slice; n may be 0.
        """
        begin = int(np.searchsorted(self._last_cell, first, side="left"))
        end = int(np.searchsorted(self._first_cell, last, side="right"))
        if end <= begin:
            return self.start, self.weights[:0, :1], slice(0, 1)
        cells = slice(int(self._first_cell[begin]), int(self._last_cell[end - 1]) + 1)
        return self.start + begin, self.weights[begin:end, cells], cells


def positive_to_rle(logits: FloatArray, rows: Axis, columns: Axis, image_hw: tuple[int, int]) -> Rle:
    """Interpolate logits where they can become positive, and encode what does.

    Args:
        logits: (cells, cells) as the axes have them.
        rows: Of the image's rows.
        columns: Of the image's columns.
        image_hw: The image's (height, width).
    """
    positive = logits > 0
    used_rows, used_columns = np.flatnonzero(positive.any(axis=1)), np.flatnonzero(positive.any(axis=0))
    if not len(used_rows):
        return crop_to_rle(np.zeros((0, 0), dtype=bool), 0, 0, image_hw)
    top, row_weights, row_cells = rows.crop(int(used_rows[0]), int(used_rows[-1]))
    left, column_weights, column_cells = columns.crop(int(used_columns[0]), int(used_columns[-1]))
    fine_rows = row_weights @ logits[row_cells, column_cells]
    step = max(_STRIP_PIXELS // max(len(fine_rows), 1), 1)
    strips = (fine_rows @ column_weights[start : start + step].T > 0 for start in range(0, len(column_weights), step))
    return strips_to_rle(strips, left, top, image_hw)


class SquareUpsampler:
    """Upsamples logits over a padded square to the image, as Segment Anything does: to the square, and on to the image.

    Args:
        cells: Side of the logits.
        resized_hw: (height, width) of the resized image inside the square.
        side: Side of the square, pixels.
        image_hw: The image's (height, width).

    Source: segment_anything/modeling/sam.py, Sam.postprocess_masks.
    """

    def __init__(self, cells: int, resized_hw: tuple[int, int], side: int, image_hw: tuple[int, int]) -> None:
        self._image_hw = image_hw
        square = resize_weights(cells, side)
        self._rows, self._columns = (
            Axis(resize_weights(inner, outer) @ square[:inner])
            for inner, outer in zip(resized_hw, image_hw, strict=True)
        )

    def to_rle(self, logits: Tensor) -> Rle:
        """Return the mask of logits (cells, cells) in the image's frame."""
        return positive_to_rle(logits.float().cpu().numpy(), self._rows, self._columns, self._image_hw)


def window_to_rle(logits: FloatArray, window_xyxy: FloatArray, image_hw: tuple[int, int]) -> Rle:
    """Interpolate logits from a window's cells to the pixels under it and keep the positive ones.

    Args:
        logits: (S, S) over the window's cells.
        window_xyxy: (4,) pixels; may reach beyond the image.
        image_hw: The image's (height, width).

    Returns:
        The mask in the image's frame; empty outside the window.
    """
    left, top, right, bottom = (float(value) for value in window_xyxy)
    rows = _window_axis(top, bottom, image_hw[0], logits.shape[0])
    columns = _window_axis(left, right, image_hw[1], logits.shape[1])
    return positive_to_rle(np.asarray(logits, np.float32), rows, columns, image_hw)


def _window_axis(start: float, stop: float, limit: int, cells: int) -> Axis:
    """Return the axis of the pixels whose centres lie between two coordinates and in the image."""
    first, last = max(math.ceil(start - 0.5), 0), min(math.floor(stop - 0.5), limit - 1)
    centres = np.arange(first, last + 1, dtype=np.float64) + 0.5
    scale = cells / (stop - start) if stop > start else 0.0
    return Axis(bilinear_weights((centres - start) * scale, cells), first)
