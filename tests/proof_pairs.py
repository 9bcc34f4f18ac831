"""Small truths and labels made by hand, for the tests of the evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.masks import Rle, encode_mask
from pipeline.proof.label_set import LabelledImage, Objects
from pipeline.proof.pairing import Pair

IMAGE_HW = (60, 80)
Box = tuple[float, float, float, float]


def objects(
    rows: Sequence[tuple[int, int, Box, float]],
    crowd: Sequence[int] = (),
    masks: Sequence[NDArray[np.bool_]] | None = None,
) -> Objects:
    """Return objects; a row is (image, class, box x y width height, score)."""
    boxes = np.array([box for _, _, box, _ in rows], np.float64).reshape(-1, 4)
    is_crowd = np.zeros(len(rows), bool)
    is_crowd[list(crowd)] = True
    encoded: tuple[Rle | None, ...] = tuple(map(encode_mask, masks)) if masks is not None else (None,) * len(rows)
    return Objects(
        np.array([image for image, _, _, _ in rows], np.int64),
        np.array([class_row for _, class_row, _, _ in rows], np.int64),
        boxes,
        boxes[:, 2] * boxes[:, 3],
        np.array([score for _, _, _, score in rows], np.float64),
        is_crowd,
        encoded,
    )


def pair(truth: Objects, found: Objects, images: int = 2, names: Sequence[str] = ("a", "b")) -> Pair:
    """Return both sides as a pair, which has masks where all objects have one."""
    has_masks = all(mask is not None for mask in (*truth.masks, *found.masks))
    listed = tuple(LabelledImage(f"{row}.png", IMAGE_HW) for row in range(images))
    return Pair(tuple(names), listed, truth, found, True, has_masks, None, ())


def block(left: int, top: int, width: int, height: int) -> NDArray[np.bool_]:
    """Return a mask with one filled rectangle."""
    mask = np.zeros(IMAGE_HW, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def coco(
    images: Sequence[str], names: Sequence[str], rows: Sequence[tuple[int, int, Box, float | None]]
) -> dict[str, Any]:
    """Return a COCO dictionary; a row is (image, class, box, score or None), ids count from 10."""
    return {
        "images": [
            {"id": 10 + row, "file_name": name, "height": IMAGE_HW[0], "width": IMAGE_HW[1]}
            for row, name in enumerate(images)
        ],
        "categories": [{"id": 10 + row, "name": name} for row, name in enumerate(names)],
        "annotations": [
            {
                "id": 10 + row,
                "image_id": 10 + image,
                "category_id": 10 + class_row,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            | ({} if score is None else {"score": score})
            for row, (image, class_row, box, score) in enumerate(rows)
        ],
    }


def write_json(path: Path, content: Any) -> Path:
    """Write JSON, with the folders that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
