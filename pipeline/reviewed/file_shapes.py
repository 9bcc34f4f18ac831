"""Shapes as annotation tools write them, as objects with a box and a mask."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.mask_crops import crop_mask, crop_to_rle
from models.masks import Rle
from pipeline.export.coco_labels import read_segmentation
from pipeline.export.objects import ExportObject
from pipeline.reviewed.changes import BoxXyxy

_ELLIPSE_CORNERS = 64


def box_object(key: str, class_name: str, box_xyxy: BoxXyxy, image_hw: tuple[int, int]) -> ExportObject | None:
    """Return a box without a mask as an object, cut at the image's borders; None where nothing of it is left."""
    height, width = image_hw
    x1, y1, x2, y2 = box_xyxy
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if right <= left or bottom <= top:
        return None
    return ExportObject(key, 1, class_name, (left, top, right, bottom), (right - left) * (bottom - top))


def mask_object(key: str, class_name: str, mask: Rle) -> ExportObject | None:
    """Return a mask as an object with the box that is tight around it; None where it has no pixel."""
    cropped = crop_mask(mask)
    if cropped is None:
        return None
    left, top, width, height = (float(value) for value in cropped[0])
    return ExportObject(
        key, 1, class_name, (left, top, left + width, top + height), float(cropped[1].sum()), mask, provenance=None
    )


def polygon_mask(points: Sequence[tuple[float, float]], image_hw: tuple[int, int], origin: str) -> Rle | None:
    """Return the filled polygon of three or more corners (x, y) in pixels; None of fewer.

    Raises:
        UserError: A corner is no number.
    """
    if len(points) < 3:
        return None
    return read_segmentation([[value for corner in points for value in corner]], image_hw, origin)


def crop_placed(mask: NDArray[np.bool_], left: int, top: int, image_hw: tuple[int, int]) -> Rle:
    """Encode a mask (h, w) that lies at (left, top) in its image; what is beyond the borders is cut off."""
    height, width = image_hw
    inside = mask[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
    return crop_to_rle(inside, max(left, 0), max(top, 0), image_hw)


def ellipse_corners(
    centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0
) -> list[tuple[float, float]]:
    """Return corners of an ellipse that is turned clockwise around its centre; all in pixels."""
    angles = [2 * math.pi * row / _ELLIPSE_CORNERS for row in range(_ELLIPSE_CORNERS)]
    corners = [(centre[0] + radii[0] * math.cos(one), centre[1] + radii[1] * math.sin(one)) for one in angles]
    return turned(corners, centre, degrees)


def turned(
    corners: Sequence[tuple[float, float]], around: tuple[float, float], degrees: float
) -> list[tuple[float, float]]:
    """Return corners (x, y) turned clockwise, as it is seen in an image, around a point."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x0, y0 = around
    return [(x0 + (x - x0) * cosine - (y - y0) * sine, y0 + (x - x0) * sine + (y - y0) * cosine) for x, y in corners]


def box_corners(box_xyxy: BoxXyxy) -> list[tuple[float, float]]:
    """Return the four corners of a box, clockwise from the left upper one."""
    x1, y1, x2, y2 = box_xyxy
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
