"""Objects painted into one map an image, and PNG files of such maps.

Overlap: objects are painted from the largest to the smallest, so that the smaller one lies on top; of two of equal area
the one that comes later in the record.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.mask_crops import crop_mask
from pipeline.export.objects import ExportImage, ExportObject

UNKNOWN_8_BIT = 255
UNKNOWN_16_BIT = 65535
VOID_COLOR = (224, 224, 192)


@dataclass(frozen=True, eq=False)
class Maps:
    """An image's objects as maps.

    Attributes:
        semantic: (H, W) uint16: the class id, 0 where nothing is, `unknown` in boxes without a mask and in crowds.
        instances: (H, W) uint16: place of the object in the record, from 1; 0 and `unknown` likewise.
        unknown: Its value.
    """

    semantic: NDArray[np.uint16]
    instances: NDArray[np.uint16]
    unknown: int


def paint(image: ExportImage, unknown: int) -> Maps:
    """Paint an image's objects.

    Args:
        image: Its objects may overlap, and be none.
        unknown: Value of pixels that may or may not belong to an object; objects with a place from here on are painted
            with it, too.
    """
    semantic = np.zeros(image.image_hw, np.uint16)
    instances = np.zeros(image.image_hw, np.uint16)
    order = sorted(range(len(image.objects)), key=lambda row: -image.objects[row].area)
    for sure in (False, True):  # what is unknown lies below what is known
        for row in order:
            found = image.objects[row]
            if (found.mask is not None and not found.crowd) != sure:
                continue
            value = row + 1 if sure and row + 1 < unknown else unknown
            _paint_object(found, semantic, found.class_id if sure else unknown)
            _paint_object(found, instances, value)
    return Maps(semantic, instances, unknown)


def _paint_object(found: ExportObject, canvas: NDArray[np.uint16], value: int) -> None:
    if found.mask is None:
        height, width = canvas.shape
        left, top, right, bottom = found.box_xyxy
        rows = slice(max(0, int(np.floor(top))), min(height, int(np.ceil(bottom))))
        canvas[rows, max(0, int(np.floor(left))) : min(width, int(np.ceil(right)))] = value
    elif (cropped := crop_mask(found.mask)) is not None:
        left, top, width, height = (int(side) for side in cropped[0])
        canvas[top : top + height, left : left + width][cropped[1]] = value


def voc_palette() -> list[int]:
    """Return the colours that VOC's PNGs have, 256 × (red, green, blue); 255 is its void colour.

    Source: VOClabelcolormap of the VOC 2012 devkit.
    """
    colors = []
    for value in range(256):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (value >> (3 * bit + channel) & 1) << (7 - bit)
        colors += rgb
    colors[3 * UNKNOWN_8_BIT :] = VOID_COLOR
    return colors


def class_palette(color_of: Callable[[int], tuple[int, int, int]], count: int) -> list[int]:
    """Return a palette with black at 0, the classes' colours from 1, and VOC's void colour at 255.

    Args:
        color_of: Class id -> colour.
        count: How many classes, at most 254.
    """
    colors = [channel for class_id in range(1, count + 1) for channel in color_of(class_id)]
    return [0, 0, 0, *colors, *[0] * (3 * (UNKNOWN_8_BIT - 1 - count)), *VOID_COLOR]


def save_map(values: NDArray[np.uint16], path: Path, palette: list[int] | None) -> None:
    """Write a map as PNG: with 8 bits and a palette, or without a palette as 16-bit grey.

    Raises:
        FileExistsError: The file is there already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values.astype(np.uint8) if palette else values)
    if palette:
        picture.putpalette(palette)
    with path.open("xb") as stream:
        picture.save(stream, "PNG")
