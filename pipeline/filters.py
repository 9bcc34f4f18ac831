"""Taking boxes away between detector and segmenter, and counting why."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from models.boxes import box_areas, clip_boxes, pairwise_iou
from models.detections import Detections
from pipeline.config import FilterSettings

REASONS = ("negative", "outside", "small", "large", "overlap")
"""Why a box goes: it belongs to a negative prompt; has no area inside the image; is smaller than `min_box_area`;
covers more of the image than `max_box_share`; overlaps a box of its class with a higher score."""


def filter_detections(detections: Detections, settings: FilterSettings) -> tuple[Detections, Counter[str]]:
    """Clip boxes to the image and take away those that the settings don't keep.

    Args:
        detections: Of one image; N may be 0.
        settings: What is kept.

    Returns:
        The kept rows, highest score first (of equal scores the first one given comes first), and how many went
        by reason (keys of `REASONS` that occurred).
    """
    drops: Counter[str] = Counter()
    boxes = clip_boxes(detections.boxes_xyxy, detections.image_hw)
    clipped = Detections(detections.image_hw, boxes, detections.scores, detections.class_ids, detections.prompt_ids)
    areas = box_areas(boxes)
    image_area = detections.image_hw[0] * detections.image_hw[1]
    tests = {
        "negative": clipped.class_ids == 0,
        "outside": areas <= 0,
        "small": areas < settings.min_box_area,
        "large": areas > settings.max_box_share * image_area,
    }
    keep = np.ones(len(clipped), dtype=bool)
    for reason, goes in tests.items():
        drops[reason] += int((keep & goes).sum())
        keep &= ~goes
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort(-clipped.scores[rows], kind="stable")]
    kept = clipped[rows]
    survivors = kept[non_maximum_suppression(kept, settings.nms_iou, settings.class_agnostic)]
    drops["overlap"] += len(kept) - len(survivors)
    return survivors, +drops


def non_maximum_suppression(detections: Detections, iou: float, class_agnostic: bool = False) -> NDArray[np.bool_]:
    """Return which rows stay when each takes away the later ones that overlap it too much.

    Args:
        detections: Highest score first; N may be 0.
        iou: Overlap above which the later row goes; 1 or more keeps all.
        class_agnostic: Also rows of other classes go.

    Returns:
        (N,) bool.
    """
    stays = np.ones(len(detections), dtype=bool)
    if iou >= 1 or len(detections) < 2:
        return stays
    rivals = pairwise_iou(detections.boxes_xyxy, detections.boxes_xyxy) > iou
    if not class_agnostic:
        rivals &= detections.class_ids[:, None] == detections.class_ids[None, :]
    for row in range(len(detections)):
        if stays[row]:
            stays[row + 1 :] &= ~rivals[row, row + 1 :]
    return stays
