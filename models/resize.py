"""Resizing large images a band of rows at a time."""

from collections.abc import Callable

import numpy as np

from models.interfaces import Image

LARGE_BYTES = 48 * 1024**2
"""Images of more bytes are resized in bands."""
_BAND_BYTES = 12 * 1024**2


def resize_in_bands(
    image: Image, image_hw: tuple[int, int], resize: Callable[[Image, tuple[int, int]], Image]
) -> Image:
    """Resize an image without a second copy of a large one.

    A large image is first made narrower, band by band, then lower. The resizers of Pillow and torch do the same with a
    whole image, Pillow in the other order where it is much taller than wide: bytes differ by 1 at most.

    Args:
        image: (H, W, 3) uint8 RGB; its memory may have gaps.
        image_hw: (height, width) wanted, both at least 1.
        resize: Returns an image at a size, rounding to bytes after each of the two steps.

    Returns:
        (height, width, 3) uint8.

    Source: Pillow, src/libImaging/Resample.c; PyTorch, aten/src/ATen/native/cpu/UpSampleKernelAVXAntialias.h.
    """
    if image.nbytes <= LARGE_BYTES:
        return resize(image, image_hw)
    width = image_hw[1]
    narrow = np.empty((image.shape[0], width, 3), np.uint8)
    step = max(_BAND_BYTES // (3 * image.shape[1]), 1)
    for top in range(0, image.shape[0], step):
        band = np.ascontiguousarray(image[top : top + step])
        narrow[top : top + step] = resize(band, (len(band), width))
    return resize(narrow, image_hw)
