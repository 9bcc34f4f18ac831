"""Box formats and the arithmetic on them, in numpy.

`boxes_xyxy` is pixels, x1 y1 x2 y2, origin top-left, in the frame of the EXIF-transposed image.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.floating]


def as_boxes(boxes: ArrayLike, name: str = "boxes_xyxy") -> NDArray[np.float32]:
    """Return boxes as a validated (N, 4) float32 array.

    Args:
        boxes: (N, 4) numbers; N may be 0, and an empty list counts as (0, 4).
        name: What the error message calls the argument.

    Returns:
        (N, 4) float32.

    Raises:
        ValueError: The shape is not (N, 4) or a number is not finite.
    """
    array = np.asarray(boxes, dtype=np.float32)
    if array.size == 0:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"{name} must have the shape (N, 4), not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has a number that is not finite")
    return array


def check_image_hw(image_hw: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) if both are positive.

    Raises:
        ValueError: A side is not positive.
    """
    height, width = image_hw
    if height <= 0 or width <= 0:
        raise ValueError(f"image_hw must be positive (height, width), not {image_hw}")
    return int(height), int(width)


def clip_boxes(boxes_xyxy: FloatArray, image_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Clip pixel corner boxes to the image.

    Args:
        boxes_xyxy: (N, 4), pixels; N may be 0.
        image_hw: Image (height, width) in pixels.

    Returns:
        (N, 4) float32 with 0 <= x <= width and 0 <= y <= height.
    """
    height, width = check_image_hw(image_hw)
    limits = np.array([width, height, width, height], dtype=np.float32)
    return np.clip(as_boxes(boxes_xyxy), 0, limits).astype(np.float32)


def box_areas(boxes_xyxy: FloatArray) -> NDArray[np.float32]:
    """Return the areas of corner boxes in square pixels; (N,) float32, negative sides count as 0."""
    boxes = as_boxes(boxes_xyxy)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1], dtype=np.float32)


def cxcywh_rel_to_xyxy(boxes_cxcywh_rel: FloatArray, image_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Convert the detector's relative centre boxes to pixel corner boxes.

    Args:
        boxes_cxcywh_rel: (N, 4), centre x, centre y, width, height in [0, 1]; N may be 0.
        image_hw: Image (height, width) in pixels.

    Returns:
        (N, 4) float32 pixels, not clipped.

    Source: Carion et al. 2020 (DETR), the box head's parametrisation.
    """
    height, width = check_image_hw(image_hw)
    boxes = as_boxes(boxes_cxcywh_rel, "boxes_cxcywh_rel")
    half = boxes[:, 2:] / 2
    corners = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    return np.asarray(corners * np.array([width, height, width, height], dtype=np.float32), dtype=np.float32)


def xyxy_to_xywh(boxes_xyxy: FloatArray) -> NDArray[np.float32]:
    """Convert pixel corner boxes to COCO's x, y, width, height; (N, 4) float32, N may be 0."""
    boxes = as_boxes(boxes_xyxy)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def xywh_to_xyxy(boxes_xywh: FloatArray) -> NDArray[np.float32]:
    """Convert COCO's x, y, width, height to pixel corner boxes; (N, 4) float32, N may be 0."""
    boxes = as_boxes(boxes_xywh, "boxes_xywh")
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def pairwise_iou(first_xyxy: FloatArray, second_xyxy: FloatArray) -> NDArray[np.float32]:
    """Return the intersection over union of every pair of boxes.

    Args:
        first_xyxy: (N, 4) pixels; N may be 0.
        second_xyxy: (M, 4) pixels; M may be 0.

    Returns:
        (N, M) float32 in [0, 1]; two boxes without area have IoU 0.
    """
    first, second = as_boxes(first_xyxy), as_boxes(second_xyxy)
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(bottom_right - top_left, 0)
    overlap = sides[..., 0] * sides[..., 1]
    union = box_areas(first)[:, None] + box_areas(second)[None, :] - overlap
    return np.asarray(np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0), dtype=np.float32)
