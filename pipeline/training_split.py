"""Splitting labelled files into training and validation, and writing them as the COCO files that training reads."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline.errors import UserError
from pipeline.training_data import LabelledFile

VALIDATION_SHARE = 0.2


def split_by_hash(
    files: Sequence[LabelledFile], seed: int, share: float = VALIDATION_SHARE
) -> tuple[list[LabelledFile], list[LabelledFile]]:
    """Split into training and validation by a hash of each image's key: the same image always falls the same way.

    Args:
        files: At least two.
        seed: Another seed, another split.
        share: Part of the images that validation gets, at least one image.

    Returns:
        Training files and validation files, each in their first order.

    Raises:
        UserError: There are fewer than two images.
    """
    if len(files) < 2:
        raise UserError(f"{len(files)} image cannot be split into training and validation; add images or give --val")
    ranked = sorted(files, key=lambda file: _hash(f"{seed}:{file.key}"))
    held_back = {file.path for file in ranked[: max(round(share * len(files)), 1)]}
    chosen = [file for file in files if file.path in held_back]
    return [file for file in files if file.path not in held_back], chosen


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def count_boxes(files: Iterable[LabelledFile]) -> Counter[str]:
    """Return how many boxes each class has."""
    return Counter(box.name for file in files for box in file.boxes)


def coco_text(files: Sequence[LabelledFile], names: Sequence[str]) -> str:
    """Return COCO JSON of files, with absolute file names, boxes of these classes alone, and the same ids each time."""
    ids = {name: index for index, name in enumerate(names, start=1)}
    annotations = list(_annotations(files, ids))
    images = [
        {"id": index, "file_name": str(file.path.absolute()), "width": file.size[0], "height": file.size[1]}
        for index, file in enumerate(files, start=1)
        if file.size is not None
    ]
    categories = [{"id": index, "name": name} for name, index in ids.items()]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}, allow_nan=False) + "\n"


def _annotations(files: Sequence[LabelledFile], ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    number = 0
    for image_id, file in enumerate(files, start=1):
        for box in file.boxes:
            if box.name in ids:
                number += 1
                area = box.box_xywh[2] * box.box_xywh[3]
                yield {
                    "id": number,
                    "image_id": image_id,
                    "category_id": ids[box.name],
                    "bbox": list(box.box_xywh),
                    "area": area,
                    "iscrowd": 0,
                }
