"""A COCO file with nothing wrong, and its images, for the tests of lint."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from models.masks import encode_mask

WIDTH, HEIGHT = 64, 48
Content = dict[str, Any]


def rle(left: int, top: int, width: int, height: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> dict[str, Any]:
    """Return a filled rectangle as COCO's compressed RLE."""
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return encode_mask(mask).to_coco()


def sound(folder: Path) -> Content:
    """Return a COCO file with nothing wrong, whose images are in a folder: polygons, RLE, a crowd, and a box alone."""
    for name, colour in (("a.png", 40), ("b.png", 90)):
        Image.new("RGB", (WIDTH, HEIGHT), (colour, 0, 0)).save(folder / name)
    square = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]
    crowd = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * 10, HEIGHT * 5, HEIGHT * (WIDTH - 15)]}
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
        ],
        "annotations": [
            annotation(1, 1, 1, [10, 5, 20, 20], 400, segmentation=[square]),
            annotation(2, 1, 2, [4, 6, 12, 8], 96, segmentation=rle(4, 6, 12, 8)),
            annotation(3, 2, 1, [10, 0, 5, HEIGHT], 5 * HEIGHT, segmentation=crowd, iscrowd=1),
            annotation(4, 2, 2, [20, 20, 10.5, 10], 105),
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def annotation(number: int, image: int, category: int, box: list[float], area: float, **more: Any) -> Content:
    """Return an entry of annotations; the box is x y width height."""
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": 0, **more}
