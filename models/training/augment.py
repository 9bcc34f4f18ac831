"""Augmentation of labelled images: flips, crops and zooms, mosaic, colour. Boxes follow the pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from models.boxes import box_areas

_GREY = (114, 114, 114)


@dataclass(frozen=True, eq=False)
class Labelled:
    """An image with named boxes.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes_xyxy: (N, 4) float32 pixels; N may be 0.
        names: N class names.
    """

    image: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    names: tuple[str, ...]

    @property
    def image_hw(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]


def flip_boxes(boxes_xyxy: NDArray[np.float32], width: float) -> NDArray[np.float32]:
    """Mirror boxes left to right in an image of this width."""
    return np.stack([width - boxes_xyxy[:, 2], boxes_xyxy[:, 1], width - boxes_xyxy[:, 0], boxes_xyxy[:, 3]], axis=1)


def flip_horizontal(labelled: Labelled) -> Labelled:
    """Mirror an image left to right. Names with a side in them must be mirrored by the caller."""
    boxes = flip_boxes(labelled.boxes_xyxy, labelled.image.shape[1])
    return Labelled(np.ascontiguousarray(labelled.image[:, ::-1]), boxes, labelled.names)


def flip_vertical(labelled: Labelled) -> Labelled:
    """Mirror an image top to bottom."""
    height = labelled.image.shape[0]
    boxes = labelled.boxes_xyxy[:, [0, 3, 2, 1]].copy()
    boxes[:, [1, 3]] = height - boxes[:, [1, 3]]
    return Labelled(np.ascontiguousarray(labelled.image[::-1]), boxes, labelled.names)


def quarter_turn(labelled: Labelled) -> Labelled:
    """Turn an image by 90 degrees against the clock; its width becomes its height."""
    x1, y1, x2, y2 = labelled.boxes_xyxy.T
    width = labelled.image.shape[1]
    boxes = np.stack([y1, width - x2, y2, width - x1], axis=1)
    return Labelled(np.ascontiguousarray(np.rot90(labelled.image)), boxes, labelled.names)


def crop_resize(
    labelled: Labelled,
    window_xyxy: tuple[float, float, float, float],
    size_hw: tuple[int, int],
    min_visible: float = 0.3,
) -> Labelled:
    """Cut a window and resize it.

    Args:
        labelled: The image.
        window_xyxy: Pixels of the image; may reach beyond it, what lies outside is grey.
        size_hw: (height, width) of the result.
        min_visible: A box stays if at least this share of its area is inside; what stays is clipped.

    Returns:
        The window at the new size, with the boxes that stayed.
    """
    left, top, right, bottom = window_xyxy
    height, width = labelled.image_hw
    inside = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
    scale_x, scale_y = size_hw[1] / (right - left), size_hw[0] / (bottom - top)
    picture = Image.fromarray(labelled.image)
    if inside == window_xyxy:
        canvas = picture.resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR, box=inside)
    else:
        canvas = Image.new("RGB", (size_hw[1], size_hw[0]), _GREY)
        place = (round((inside[0] - left) * scale_x), round((inside[1] - top) * scale_y))
        patch = (
            max(round((inside[2] - inside[0]) * scale_x), 1),
            max(round((inside[3] - inside[1]) * scale_y), 1),
        )
        canvas.paste(picture.resize(patch, Image.Resampling.BILINEAR, box=inside), place)
    boxes = (labelled.boxes_xyxy - np.array([left, top, left, top], np.float32)) * np.array(
        [scale_x, scale_y, scale_x, scale_y], np.float32
    )
    clipped = np.clip(boxes, 0, np.array([size_hw[1], size_hw[0]] * 2, np.float32)).astype(np.float32)
    whole = np.maximum(box_areas(boxes), 1e-6)
    keep = (box_areas(clipped) / whole >= min_visible) & (box_areas(clipped) >= 4)
    names = tuple(name for name, stays in zip(labelled.names, keep, strict=True) if stays)
    return Labelled(np.asarray(canvas), clipped[keep], names)


def random_window(
    rng: np.random.Generator, image_hw: tuple[int, int], size_hw: tuple[int, int], zoom: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Draw a window of the result's aspect ratio.

    Args:
        rng: Source of chance.
        image_hw: The image.
        size_hw: The result; gives the aspect ratio.
        zoom: Range of the window's size over the smallest window that holds the whole image; over 1 zooms out.

    Returns:
        x1, y1, x2, y2 in pixels of the image.
    """
    height, width = image_hw
    fit = max(height / size_hw[0], width / size_hw[1])
    scale = fit * rng.uniform(*zoom)
    window_h, window_w = size_hw[0] * scale, size_hw[1] * scale
    top = rng.uniform(min(0, height - window_h), max(0, height - window_h))
    left = rng.uniform(min(0, width - window_w), max(0, width - window_w))
    return left, top, left + window_w, top + window_h


def mosaic(four: Sequence[Labelled], size_hw: tuple[int, int]) -> Labelled:
    """Join four images into one, each filling a quarter.

    Raises:
        ValueError: Not four images.

    Source: Bochkovskiy et al. 2020 (YOLOv4), mosaic augmentation.
    """
    if len(four) != 4:
        raise ValueError(f"a mosaic takes 4 images, not {len(four)}")
    half_h, half_w = size_hw[0] // 2, size_hw[1] // 2
    canvas = np.zeros((*size_hw, 3), np.uint8)
    boxes, names = [np.zeros((0, 4), np.float32)], list[str]()
    for index, part in enumerate(four):
        top, left = (index // 2) * half_h, (index % 2) * half_w
        cell_hw = (size_hw[0] - half_h if top else half_h, size_hw[1] - half_w if left else half_w)
        small = crop_resize(part, (0.0, 0.0, float(part.image_hw[1]), float(part.image_hw[0])), cell_hw)
        canvas[top : top + cell_hw[0], left : left + cell_hw[1]] = small.image
        boxes.append(small.boxes_xyxy + np.array([left, top, left, top], np.float32))
        names.extend(small.names)
    return Labelled(canvas, np.concatenate(boxes), tuple(names))


def jitter_colour(rng: np.random.Generator, image: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """Change brightness, contrast and saturation by up to `strength` (a share) each."""
    picture = Image.fromarray(image)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(float(rng.uniform(1 - strength, 1 + strength)))
    return np.asarray(picture)
