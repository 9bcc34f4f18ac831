"""Whose boxes exported objects have: those of their masks, the detector's, or the mean of the two."""

from pathlib import Path
from typing import Literal, TypeAlias, get_args

from pipeline.errors import UserError

BoxSource: TypeAlias = Literal["mask", "detector", "both"]
BOX_SOURCES: tuple[BoxSource, ...] = get_args(BoxSource)

Corners: TypeAlias = tuple[float, float, float, float]

_MOST_APART = 0.3
"""Sides of mask and box further apart than this share of the box are no two readings of one edge: one is wrong."""


def refuse_boxes_without_run(path: Path, source: BoxSource) -> None:
    """Refuse to take other boxes than its own from what is no run.

    Raises:
        UserError: The source is not "mask".
    """
    if source != "mask":
        raise UserError(f"--boxes {source}: only a run has the detector's boxes beside its masks, and {path} is none")


def choose_box(mask_xyxy: Corners, detector_xyxy: Corners | None, source: BoxSource) -> Corners:
    """Return the box of an object with a mask.

    Args:
        mask_xyxy: Bounds of the mask, pixels.
        detector_xyxy: The detector's box, pixels; None where no detector found the object.
        source: `both` takes the mean of bounds and box; a side that is further from its mask's than 30 % of the box's
            width or height is the detector's.
    """
    if source == "mask" or detector_xyxy is None:
        return mask_xyxy
    if source == "detector":
        return detector_xyxy
    reach_x, reach_y = (_MOST_APART * (detector_xyxy[side + 2] - detector_xyxy[side]) for side in (0, 1))
    left, top, right, bottom = (
        (ours + other) / 2 if abs(ours - other) <= reach else other
        for ours, other, reach in zip(mask_xyxy, detector_xyxy, (reach_x, reach_y) * 2, strict=True)
    )
    return left, top, right, bottom
