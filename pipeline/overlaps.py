"""Which boxes go because a stronger one covers them; one row at a time, so that memory grows with N and not with N²."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.boxes import box_areas, pairwise_iou
from models.detections import Detections

Boxes = NDArray[np.float32]

STAYS = -1
"""Stands for the row of a stronger box where there is none."""


def suppressed_by(detections: Detections, iou: float, class_agnostic: bool = False) -> NDArray[np.int64]:
    """Non-maximum suppression: each row that stays takes away the later ones that overlap it too much.

    Args:
        detections: Highest score first; N may be 0.
        iou: Overlap above which the later row goes; 1 or more keeps all.
        class_agnostic: Also rows of other classes go.

    Returns:
        (N,) int64: the row that takes this one away, or `STAYS`.
    """
    return _taken_by_stronger(detections, iou, lambda row, rest: pairwise_iou(row[None], rest)[0], class_agnostic)


def contained_in(detections: Detections, max_share: float) -> NDArray[np.int64]:
    """Find the boxes that lie in a stronger box of their class, as the part in the whole.

    Args:
        detections: Highest score first; N may be 0.
        max_share: Largest share of a box's area inside a stronger one; 1 or more keeps all.

    Returns:
        (N,) int64: the row that takes this one away, which itself stays; or `STAYS`.
    """
    return _taken_by_stronger(detections, max_share, lambda row, rest: shares_inside(rest, row), class_agnostic=False)


def _taken_by_stronger(
    detections: Detections, limit: float, overlap: Callable[[Boxes, Boxes], Boxes], class_agnostic: bool
) -> NDArray[np.int64]:
    """Go through the rows that stay; each takes the later ones with an overlap above the limit. 1 or more keeps all."""
    taken_by = np.full(len(detections), STAYS, np.int64)
    boxes, class_ids = detections.boxes_xyxy, detections.class_ids
    for row in range(len(detections) - 1 if limit < 1 else 0):
        if taken_by[row] == STAYS:
            rest = slice(row + 1, None)
            goes = (taken_by[rest] == STAYS) & (overlap(boxes[row], boxes[rest]) > limit)
            if not class_agnostic:
                goes &= class_ids[rest] == class_ids[row]
            taken_by[rest][goes] = row
    return taken_by


def shares_inside(boxes_xyxy: NDArray[np.float32], outer_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return which share of each box's area lies inside one box.

    Args:
        boxes_xyxy: (N, 4) pixels; N may be 0.
        outer_xyxy: (4,) pixels.

    Returns:
        (N,) float32 in [0, 1]; 0 for a box without area.
    """
    low = np.maximum(boxes_xyxy[:, :2], outer_xyxy[:2])
    high = np.minimum(boxes_xyxy[:, 2:], outer_xyxy[2:])
    areas = box_areas(boxes_xyxy)
    inside = box_areas(np.concatenate([low, high], axis=1))
    return np.divide(inside, areas, out=np.zeros_like(areas), where=areas > 0)
