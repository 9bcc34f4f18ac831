"""Taking boxes away between detector and segmenter, and objects after it, and saying why each went.

Each filter is a pure function from detections (or instances) and one limit to what goes. A box is counted under the
first filter that takes it, in the order of `REASONS`.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from models.boxes import box_areas, clip_boxes
from models.detections import Detections, Instances
from models.masks import mask_areas
from pipeline.config import FilterSettings
from pipeline.overlaps import STAYS, contained_in, suppressed_by

REASONS = {
    "merged": "the same object as in another tile",
    "negative": "a negative prompt's",
    "outside": "without area in the image",
    "small": "smaller than min_box_area or min_box_share",
    "large": "larger than max_box_area or max_box_share",
    "aspect": "more stretched than max_aspect",
    "border": "within border_margin of the image's border",
    "overlap": "NMS: overlaps a stronger box of its class",
    "overlap of classes": "NMS: overlaps a stronger box of any class",
    "contained": "lies in a stronger box of its class",
    "beyond top k": "weaker than the top_k strongest boxes",
    "empty mask": "no pixel in its mask",
    "thin mask": "its mask fills less of the box than min_mask_fill",
    "loose mask": "its mask has more of the box's area than max_mask_fill",
    "mask score": "mask score below min_mask_score",
}
"""Why a box goes -> what that means. `drops` in summary.json and the manifest count under these keys."""

DropCounts = Counter[tuple[str, int]]
"""(reason, class id) -> boxes; the class id of a negative prompt is 0."""


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What becomes of each of N boxes.

    Attributes:
        reasons: N keys of `REASONS`, or "" where the box stays.
        rivals: (N,) int64, the row that took this one away, or -1 where none did.
    """

    reasons: tuple[str, ...]
    rivals: NDArray[np.int64]

    @property
    def stays(self) -> NDArray[np.bool_]:
        """(N,) bool."""
        return np.array([not reason for reason in self.reasons], dtype=bool)

    def counts(self, class_ids: NDArray[np.int64]) -> DropCounts:
        """Return how many went, by reason and class; `class_ids` is (N,)."""
        pairs = zip(self.reasons, class_ids.tolist(), strict=True)
        return Counter((reason, class_id) for reason, class_id in pairs if reason)


def is_negative(detections: Detections) -> NDArray[np.bool_]:
    """Tell which boxes belong to a negative prompt."""
    return np.asarray(detections.class_ids == 0, dtype=bool)


def is_outside(detections: Detections) -> NDArray[np.bool_]:
    """Tell which boxes have no area."""
    return np.asarray(box_areas(detections.boxes_xyxy) <= 0, dtype=bool)


def is_small(detections: Detections, min_area: float, min_share: float) -> NDArray[np.bool_]:
    """Tell which boxes are below an area in square pixels or a share of the image's area."""
    areas = box_areas(detections.boxes_xyxy)
    return np.asarray(areas < max(min_area, min_share * _image_area(detections)), dtype=bool)


def is_large(detections: Detections, max_area: float | None, max_share: float) -> NDArray[np.bool_]:
    """Tell which boxes are above an area in square pixels or a share of the image's area."""
    areas = box_areas(detections.boxes_xyxy)
    share = max_share * _image_area(detections)
    return np.asarray(areas > (share if max_area is None else min(max_area, share)), dtype=bool)


def is_stretched(detections: Detections, max_aspect: float | None) -> NDArray[np.bool_]:
    """Tell which boxes have a longer side of more than `max_aspect` times the shorter one."""
    if max_aspect is None:
        return np.zeros(len(detections), dtype=bool)
    sides = detections.boxes_xyxy[:, 2:] - detections.boxes_xyxy[:, :2]
    return np.asarray(sides.max(axis=1, initial=0) > max_aspect * sides.min(axis=1, initial=np.inf), dtype=bool)


def touches_border(detections: Detections, margin: float | None) -> NDArray[np.bool_]:
    """Tell which boxes are less than `margin` pixels from the image's border, or just on it where that is 0."""
    if margin is None:
        return np.zeros(len(detections), dtype=bool)
    height, width = detections.image_hw
    low, high = detections.boxes_xyxy[:, :2], detections.boxes_xyxy[:, 2:]
    room = np.minimum(low, np.array([width, height], np.float32) - high).min(axis=1, initial=np.inf)
    return np.asarray((room < margin) | (room <= 0), dtype=bool)


def _image_area(detections: Detections) -> int:
    return detections.image_hw[0] * detections.image_hw[1]


def judge_detections(detections: Detections, settings: FilterSettings) -> Verdicts:
    """Say of each box whether it stays, and if not, why.

    Args:
        detections: Of one image, inside of it (`clip`), highest score first; N may be 0.
        settings: What is kept.
    """
    reasons = np.full(len(detections), "", dtype=object)
    rivals = np.full(len(detections), STAYS, np.int64)
    for reason, goes in (
        ("negative", is_negative(detections)),
        ("outside", is_outside(detections)),
        ("small", is_small(detections, settings.min_box_area, settings.min_box_share)),
        ("large", is_large(detections, settings.max_box_area, settings.max_box_share)),
        ("aspect", is_stretched(detections, settings.max_aspect)),
        ("border", touches_border(detections, settings.border_margin)),
    ):
        reasons[goes & (reasons == "")] = reason
    left = np.flatnonzero(reasons == "")
    stronger: tuple[tuple[str, Callable[[Detections], NDArray[np.int64]]], ...] = (
        ("overlap", partial(suppressed_by, iou=settings.nms_iou)),
        ("overlap of classes", partial(suppressed_by, iou=settings.agnostic_nms_iou, class_agnostic=True)),
        ("contained", partial(contained_in, max_share=settings.max_contained)),
    )
    for reason, find in stronger:
        winners = find(detections[left])
        goes = winners != STAYS
        reasons[left[goes]] = reason
        rivals[left[goes]] = left[winners[goes]]
        left = left[~goes]
    reasons[left[settings.top_k :] if settings.top_k is not None else left[:0]] = "beyond top k"
    return Verdicts(tuple(reasons.tolist()), rivals)


def clip(detections: Detections) -> Detections:
    """Return detections with boxes clipped to the image, highest score first; of equal scores the first one given."""
    order = np.argsort(-detections.scores, kind="stable")
    sorted_ = detections[order]
    return replace(sorted_, boxes_xyxy=clip_boxes(sorted_.boxes_xyxy, sorted_.image_hw))


def filter_detections(detections: Detections, settings: FilterSettings) -> tuple[Detections, DropCounts]:
    """Clip boxes to the image and take away those that the settings don't keep.

    Args:
        detections: Of one image; N may be 0.
        settings: What is kept.

    Returns:
        The kept rows, highest score first (of equal scores the first one given comes first), and how many went.
    """
    clipped = clip(detections)
    verdicts = judge_detections(clipped, settings)
    return clipped[verdicts.stays], verdicts.counts(clipped.class_ids)


def mask_fills(instances: Instances) -> NDArray[np.float64]:
    """Return the area of each mask over that of its box; (N,) float64, 0 for a box without area."""
    boxes = box_areas(instances.detections.boxes_xyxy).astype(np.float64)
    areas = mask_areas(instances.masks).astype(np.float64)
    return np.divide(areas, boxes, out=np.zeros_like(areas), where=boxes > 0)


def judge_masks(instances: Instances, settings: FilterSettings) -> Verdicts:
    """Say of each object whether it stays after its mask was seen, and if not, why; absent masks are not judged."""
    present = np.array([not mask.is_absent for mask in instances.masks], dtype=bool)
    fills = mask_fills(instances)
    reasons = np.full(len(instances), "", dtype=object)
    for reason, goes in (
        ("empty mask", (fills == 0) & (settings.min_mask_fill > 0)),
        ("thin mask", fills < settings.min_mask_fill),
        ("loose mask", fills > (np.inf if settings.max_mask_fill is None else settings.max_mask_fill)),
        ("mask score", instances.mask_scores < settings.min_mask_score),
    ):
        reasons[goes & present & (reasons == "")] = reason
    return Verdicts(tuple(reasons.tolist()), np.full(len(instances), STAYS, np.int64))


def filter_masks(instances: Instances, settings: FilterSettings) -> tuple[Instances, DropCounts]:
    """Take away the objects whose masks the settings don't keep; the rest stays in its order."""
    verdicts = judge_masks(instances, settings)
    return instances[verdicts.stays], verdicts.counts(instances.detections.class_ids)
