"""The rim of a mask, and how well the rims of two masks agree."""

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks import Rle, decode_mask, encode_mask, mask_boxes_xywh

DILATION_RATIO = 0.02
"""Width of the rim as a part of the image's diagonal, as the paper's experiments on COCO have it."""

_KEPT_RIMS = 1 << 16
"""Rims that are kept, because scores, clicks and outlines ask for the same ones."""


def rim_width(image_hw: tuple[int, int], ratio: float = DILATION_RATIO) -> int:
    """Return the width of the rim in pixels, at least 1."""
    return max(1, round(ratio * math.hypot(*image_hw)))


def mask_rim(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return the pixels of a mask that are within some pixels of its outline.

    What lies on the image's border is outline, too.

    Args:
        mask: (H, W) bool.
        width: Of the rim, in pixels, at least 1.

    Returns:
        (H, W) bool; empty for an empty mask.

    Source: Cheng et al. 2021, "Boundary IoU": the mask less its erosion by a 3 × 3 square, `width` times.
    """
    square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    core = cv2.erode(mask.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    return np.asarray(mask & (core == 0), dtype=np.bool_)


@lru_cache(maxsize=_KEPT_RIMS)
def rim_of_rle(rle: Rle, ratio: float = DILATION_RATIO) -> Rle:
    """Return the rim of an encoded mask, encoded; work is done inside its box only."""
    left, top, width, height = (int(side) for side in mask_boxes_xywh([rle])[0])
    if not width or not height:
        return rle
    mask = decode_mask(rle)
    part = np.s_[top : top + height, left : left + width]
    rim = np.zeros_like(mask)
    rim[part] = mask_rim(mask[part], rim_width(rle.size, ratio))
    return encode_mask(rim)
