"""Masks as crops of their image: run lengths straight from a crop and back, without an array of the image's size."""

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from models.masks import Rle, mask_boxes_xywh


def crop_to_rle(crop: NDArray[np.bool_], left: int, top: int, image_hw: tuple[int, int]) -> Rle:
    """Encode a mask that is given as a crop of its image; all pixels outside of the crop are 0.

    Args:
        crop: (h, w) bool; a side may be 0, and then its place does not count.
        left: The crop's first column in the image, pixels.
        top: The crop's first row, likewise.
        image_hw: The image's (height, width), both positive.

    Returns:
        The same bytes as those of the whole mask by `models.masks.encode_mask`.

    Raises:
        ValueError: The crop reaches beyond the image.
    """
    height, width = image_hw
    rows, columns = crop.shape
    if crop.size and (left < 0 or top < 0 or left + columns > width or top + rows > height):
        raise ValueError(f"a crop of {rows} × {columns} at row {top}, column {left} is not inside {image_hw}")
    stride = rows
    if rows < height:  # a row of zeros below ends each run in its own column
        stride += 1
        crop = np.concatenate([crop, np.zeros((1, columns), dtype=bool)])
    flat = np.ravel(crop, order="F").view(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=np.int8(0), append=np.int8(0)))
    ends = (left + edges // max(stride, 1)) * height + top + edges % max(stride, 1)
    counts = np.diff(ends, prepend=0, append=height * width)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return Rle((height, width), packed["counts"])


def run_lengths(counts: bytes) -> NDArray[np.int64]:
    """Unpack compressed COCO counts.

    Args:
        counts: As pycocotools packs them: 5 bits a character, the sixth says that more follow, and from the fourth
            number on the difference to the one two before.

    Returns:
        (N,) int64: lengths of the runs of 0, 1, 0 … in column-major order; N is at least 1.

    Source: pycocotools, maskApi.c rleFrString.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, ends - starts + 1))
    lengths = np.add.reduceat((codes & 31) << shifts, starts)
    negative = (codes[ends] & 16) != 0
    lengths[negative] -= np.left_shift(1, shifts[ends][negative] + 5)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths


def crop_mask(rle: Rle) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """Cut a mask out of its image; at 12 megapixels ten times as fast as decoding it.

    Returns:
        (4,) tight box x, y, width, height in whole pixels, and the mask (height, width) bool in it; None where the
        mask is empty or absent.
    """
    box = mask_boxes_xywh([rle])[0].astype(np.float64)
    x, y, width, height = (int(value) for value in box)
    if width == 0 or height == 0:
        return None
    side = rle.size[0]
    ends = np.clip(np.cumsum(run_lengths(rle.counts)), x * side, (x + width) * side) - x * side
    runs = np.diff(ends, prepend=0)
    columns = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, side)
    return box, np.ascontiguousarray(columns.T[y : y + height])
