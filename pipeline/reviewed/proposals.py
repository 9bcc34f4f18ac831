"""What a later run finds in a reviewed image and the review does not have: proposals, kept apart from its labels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.boxes import pairwise_iou
from models.class_spec import normalise_prompt
from pipeline.reviewed.changes import ReviewedImage, ReviewedObject

SAME_IOU = 0.5
"""Overlap of boxes at which two objects of one class are the same object."""


def boxes_of(objects: Sequence[ReviewedObject]) -> NDArray[np.float32]:
    """Return the boxes of objects; (N, 4) float32 pixels, N may be 0."""
    return np.array([found.box_xyxy for found in objects], np.float32).reshape(-1, 4)


def find_proposals(state: ReviewedImage, objects: Sequence[ReviewedObject]) -> tuple[ReviewedObject, ...]:
    """Return the objects of a new row that the review neither has nor refused.

    Args:
        state: A reviewed image with objects of its own.
        objects: Of the new row.
    """
    decided = (*(state.objects or ()), *state.removed)
    ids = {found.object_id for found in decided}
    overlaps = pairwise_iou(boxes_of(objects), boxes_of(decided))
    same_class = np.array(
        [[normalise_prompt(new.class_name) == normalise_prompt(old.class_name) for old in decided] for new in objects],
        bool,
    ).reshape(overlaps.shape)
    known = ((overlaps >= SAME_IOU) & same_class).any(axis=1)
    return tuple(new for new, is_known in zip(objects, known, strict=True) if not is_known and new.object_id not in ids)
