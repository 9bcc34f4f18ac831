"""A COCO file of which one image is stored on its side, for the tests of training."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_coco(folder: Path, annotations: list[dict] | None = None, images: list[dict] | None = None) -> Path:  # type: ignore[type-arg]
    """Write two images, the second of which is stored on its side (EXIF orientation 6)."""
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[10:40, 20:50] = (250, 30, 30)
    Image.fromarray(picture).save(folder / "plain.png")
    turned = Image.fromarray(np.rot90(picture).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.png", exif=exif)
    box = {"bbox": [20, 10, 30, 30], "category_id": 7, "iscrowd": 0}
    data = {
        "images": [
            {"id": 3, "file_name": "plain.png", "width": 90, "height": 60},
            {"id": 9, "file_name": "turned.png", "width": 90, "height": 60},
        ]
        if images is None
        else images,
        "annotations": [
            {"id": 1, "image_id": 3, **box},
            {"id": 2, "image_id": 9, **box},
            {"id": 3, "image_id": 3, **box, "iscrowd": 1, "bbox": [0, 0, 90, 60]},
        ]
        if annotations is None
        else annotations,
        "categories": [{"id": 7, "name": "Red Thing"}, {"id": 2, "name": "ghost"}],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path
