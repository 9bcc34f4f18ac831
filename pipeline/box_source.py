"""Whose boxes the objects get: the detector's, those around their masks, or the mean of the two."""

from dataclasses import replace

import numpy as np

from models.detections import Instances
from models.masks import mask_boxes_xywh
from pipeline.config import BoxSource

_MOST_APART = 0.3
"""Sides of box and mask further apart than this share of the box are no two readings of one edge: one is wrong."""


def choose_boxes(instances: Instances, source: BoxSource) -> Instances:
    """Return the instances with the boxes of a source; order, scores and masks stay.

    Args:
        instances: N objects, N may be 0.
        source: `detector` leaves the boxes as they are. `mask` takes the bounds of each mask, as COCO's own boxes are
            made. `both` takes the mean of box and bounds; a side that is further from its mask's than 30 % of the box's
            width or height stays the detector's. Objects without a mask, or with an empty one, keep their box.
    """
    if source == "detector" or len(instances) == 0:
        return instances
    found = instances.detections
    bounds_xyxy = mask_boxes_xywh(instances.masks)
    has_mask = bounds_xyxy[:, 2:].min(axis=1) > 0
    bounds_xyxy[:, 2:] += bounds_xyxy[:, :2]
    if source == "both":
        reach = np.tile(found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2], 2) * np.float32(_MOST_APART)
        near = np.abs(bounds_xyxy - found.boxes_xyxy) <= reach
        bounds_xyxy = np.where(near, (found.boxes_xyxy + bounds_xyxy) / 2, found.boxes_xyxy)
    boxes = np.where(has_mask[:, None], bounds_xyxy, found.boxes_xyxy)
    return Instances(replace(found, boxes_xyxy=boxes), instances.masks, instances.mask_scores)
