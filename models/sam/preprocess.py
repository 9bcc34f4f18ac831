"""From an image to a segmenter's padded square, as Segment Anything does it."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor

from models.detections import Detections
from models.interfaces import Image
from models.resize import resize_in_bands

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def resized_hw(image_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the size at which the longer side of an image is `longest` pixels.

    Args:
        image_hw: (height, width) in pixels, both positive.
        longest: Pixels.

    Returns:
        (height, width), both at least 1.

    Source: segment_anything/utils/transforms.py, ResizeLongestSide.get_preprocess_shape.
    """
    height, width = image_hw
    scale = longest / max(height, width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize_longest_side(image: Image, longest: int) -> Image:
    """Resize an image so that its longer side is `longest` pixels, by Pillow's bilinear filter.

    Args:
        image: (H, W, 3) uint8 RGB.
        longest: Pixels.

    Returns:
        (h, w, 3) uint8 RGB; the image itself where it has that size.

    Source: segment_anything/utils/transforms.py, ResizeLongestSide.apply_image.
    """
    height, width = resized_hw((image.shape[0], image.shape[1]), longest)
    if image.shape[:2] == (height, width):
        return image
    return resize_in_bands(image, (height, width), _resize_bilinear)


def _resize_bilinear(image: Image, image_hw: tuple[int, int]) -> Image:
    resized = PillowImage.fromarray(image).resize(image_hw[::-1], PillowImage.Resampling.BILINEAR)
    return np.asarray(resized)


def normalise(image: Image) -> Tensor:
    """Return (3, H, W) float32: pixels less Segment Anything's mean, over its standard deviation."""
    pixels = torch.from_numpy(np.array(image, copy=True)).permute(2, 0, 1).float()
    return (pixels - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(PIXEL_STD)[:, None, None]


def pad_to_square(pixels: Tensor, side: int) -> Tensor:
    """Pad (3, h, w) with zeros at the right and the bottom to (3, side, side)."""
    return torch.nn.functional.pad(pixels, (0, side - pixels.shape[2], 0, side - pixels.shape[1]))


def scale_boxes(boxes_xyxy: NDArray[np.float32], image_hw: tuple[int, int], longest: int) -> NDArray[np.float32]:
    """Move boxes from an image's frame to its resized frame.

    Args:
        boxes_xyxy: (N, 4) pixels of the image; N may be 0.
        image_hw: The image's (height, width).
        longest: Longer side of the resized image, pixels.

    Returns:
        (N, 4) float32 pixels of the resized image.

    Source: segment_anything/utils/transforms.py, ResizeLongestSide.apply_boxes.
    """
    height, width = resized_hw(image_hw, longest)
    x, y = width / image_hw[1], height / image_hw[0]
    return np.asarray(np.asarray(boxes_xyxy, np.float64) * np.array([x, y, x, y]), dtype=np.float32)


def check_image(image: Image, detections: Detections) -> None:
    """Refuse an image that is not RGB bytes or not the one that the detections are of.

    Raises:
        ValueError: The image is not (H, W, 3) uint8 or not of the size that the detections name.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if image.shape[:2] != detections.image_hw:
        raise ValueError(f"the detections are of an image {detections.image_hw}, this one is {image.shape[:2]}")
