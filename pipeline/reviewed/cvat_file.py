"""CVAT's "CVAT for images 1.1" XML as images with objects."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from models.masks import Rle
from pipeline.errors import UserError
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.paths import path_to_image_id
from pipeline.reviewed.file_shapes import (
    box_corners,
    box_object,
    crop_placed,
    ellipse_corners,
    mask_object,
    polygon_mask,
    turned,
)

_SHAPES = ("box", "polygon", "mask", "ellipse")
_NO_OBJECTS = ("tag", "polyline", "points", "skeleton")
"""Elements that label a whole image or have no area."""
_ID = "instance_id"


def read_cvat(file: Path, root: Element) -> Iterator[ExportImage]:
    """Yield the images of a document, in its order.

    A turned box becomes a mask. Tags, lines and points are passed over.

    Args:
        file: For messages.
        root: Its outermost element.

    Raises:
        UserError: It is another XML, or has a shape that cannot be read.
    """
    if root.tag != "annotations" or root.find("track") is not None:
        raise UserError(f'{file}: not CVAT\'s XML of images; export the task as "CVAT for images 1.1"')
    for place, image in enumerate(root.iter("image")):
        name = image.get("name") or ""
        image_hw = int(_number(file, image, "height")), int(_number(file, image, "width"))
        rows = (_to_object(file, f"cvat-{place}-{row}", shape, image_hw) for row, shape in enumerate(image))
        yield ExportImage(path_to_image_id(name), name, image_hw, tuple(found for found in rows if found is not None))


def _to_object(file: Path, key: str, shape: Element, image_hw: tuple[int, int]) -> ExportObject | None:
    if shape.tag in _NO_OBJECTS:
        return None
    if shape.tag not in _SHAPES:
        raise UserError(f"{file}: a <{shape.tag}> cannot become a label; only {', '.join(_SHAPES)} can")
    known = (found.text for found in shape.iter("attribute") if found.get("name") == _ID and found.text)
    key, label = next(known, key), shape.get("label") or ""
    degrees = float(shape.get("rotation") or 0)
    if shape.tag == "box" and not degrees:
        return box_object(key, label, _box(file, shape), image_hw)
    mask = _mask(file, shape, image_hw, degrees)
    return mask_object(key, label, mask) if mask is not None else None


def _mask(file: Path, shape: Element, image_hw: tuple[int, int], degrees: float) -> Rle | None:
    origin = f"{file}: a <{shape.tag}>"
    if shape.tag == "mask":
        return _runs_to_mask(file, shape, image_hw)
    if shape.tag == "polygon":
        points = [tuple(map(float, point.split(","))) for point in (shape.get("points") or "").split(";") if point]
        return polygon_mask([(x, y) for x, y in points], image_hw, origin)
    if shape.tag == "ellipse":
        centre = _number(file, shape, "cx"), _number(file, shape, "cy")
        radii = _number(file, shape, "rx"), _number(file, shape, "ry")
        return polygon_mask(ellipse_corners(centre, radii, degrees), image_hw, origin)
    box = _box(file, shape)
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return polygon_mask(turned(box_corners(box), middle, degrees), image_hw, origin)


def _runs_to_mask(file: Path, shape: Element, image_hw: tuple[int, int]) -> Rle:
    """Return a mask of runs of 0, 1, 0 … in its box, row by row."""
    left, top, width, height = (int(_number(file, shape, name)) for name in ("left", "top", "width", "height"))
    runs = [int(run) for run in (shape.get("rle") or "").split(",")]
    if sum(runs) != width * height or min(runs) < 0:
        raise UserError(f"{file}: a mask of {width} × {height} pixels has {sum(runs)} in its rle")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return crop_placed(flat.reshape(height, width), left, top, image_hw)


def _box(file: Path, shape: Element) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (_number(file, shape, name) for name in ("xtl", "ytl", "xbr", "ybr"))
    return x1, y1, x2, y2


def _number(file: Path, element: Element, name: str) -> float:
    try:
        return float(element.get(name) or "")
    except ValueError as error:
        raise UserError(f"{file}: <{element.tag}> has {name}={element.get(name)!r}, which is no number") from error
