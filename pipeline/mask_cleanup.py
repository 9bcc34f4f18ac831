"""Taking holes and islands out of masks, on crops of the image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.detections import Instances
from models.mask_crops import crop_mask, crop_to_rle
from models.masks import Rle

_NEIGHBOURS = np.ones((3, 3), dtype=int)
"""Pixels of a part touch by sides or corners; those of a hole by sides, or it would leak through a diagonal line."""


@dataclass(frozen=True)
class MaskCleanup:
    """What is cleaned.

    Attributes:
        min_area: Holes of fewer pixels are filled, islands of fewer are removed; the largest part always stays.
        largest_part: Only the largest connected part stays, of equals the first by rows.
    """

    min_area: float = 0.0
    largest_part: bool = False

    @property
    def does_nothing(self) -> bool:
        """Whether all masks stay as they are; a hole or island has at least one pixel."""
        return self.min_area <= 1 and not self.largest_part


def clean_instances(instances: Instances, cleanup: MaskCleanup) -> Instances:
    """Return the instances with clean masks; boxes and scores stay. Empty and absent masks stay as they are."""
    if cleanup.does_nothing:
        return instances
    masks = tuple(clean_mask(mask, cleanup) for mask in instances.masks)
    return Instances(instances.detections, masks, instances.mask_scores)


def clean_mask(rle: Rle, cleanup: MaskCleanup) -> Rle:
    """Return one clean mask: islands go first, so that none of them is kept as the shore of a filled hole."""
    cropped = crop_mask(rle)
    if cropped is None:
        return rle
    box_xywh, crop = cropped
    crop = fill_holes(keep_parts(crop, cleanup), cleanup.min_area)
    return crop_to_rle(crop, int(box_xywh[0]), int(box_xywh[1]), rle.size)


def keep_parts(mask: NDArray[np.bool_], cleanup: MaskCleanup) -> NDArray[np.bool_]:
    """Return a mask (H, W) without the islands that are too small, or with the largest part only."""
    from scipy import ndimage  # takes long to import, and most runs clean nothing

    labels, count = ndimage.label(mask, _NEIGHBOURS)
    if count < 2:
        return mask
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    stays = (areas >= cleanup.min_area) & (areas > 0) & (not cleanup.largest_part)
    stays[areas.argmax()] = True
    return np.asarray(stays[labels], dtype=bool)


def fill_holes(mask: NDArray[np.bool_], below: float) -> NDArray[np.bool_]:
    """Return a mask (H, W) with the holes of fewer than `below` pixels filled; what touches the border is no hole."""
    if below <= 1:
        return mask
    from scipy import ndimage

    labels, count = ndimage.label(~np.pad(mask, 1))
    if count < 2:
        return mask
    holes = np.bincount(labels.ravel()) < below
    holes[0] = False
    holes[labels[0, 0]] = False
    return np.asarray(mask | holes[labels][1:-1, 1:-1], dtype=bool)
