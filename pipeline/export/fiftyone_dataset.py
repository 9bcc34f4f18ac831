"""A FiftyOneDataset folder, for `fiftyone.Dataset.from_dir`, written without FiftyOne."""

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.mask_crops import crop_mask
from pipeline.export.json_list import JsonList
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.writer import Context, Writer
from pipeline.review.documents import box_to_rel

DATA = "data"
FIELD = "ground_truth"


class FiftyoneWriter(Writer):
    """Writes metadata.json, samples.json and data/.

    A sample has `image_id`, `path` and `ground_truth` detections with their masks, `confidence`, `mask_score`, `prompt`
    and `object_id`; a side is a tag of its samples. It is the form without a schema version, in which FiftyOne takes
    the fields from the samples themselves, so no database migration of another version comes into play. With `images`
    none, paths are those of the images where they are.

    Source: fiftyone/utils/data/importers.py, LegacyFiftyOneDatasetImporter, which reads what has no version.
    """

    side_folders = False

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        classes = [spec.name for spec in context.classes.classes]
        info = {"default_classes": classes, "fingerprint": context.labels.fingerprint}
        self.write_text("metadata.json", json.dumps({"media_type": "image", "info": info}, indent=1) + "\n")
        self._stream = self.open_text("samples.json")
        self._stream.write('{"samples":[')
        self._list = JsonList(self._stream)

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write the sample of an image."""
        height, width = image.image_hw
        inside = self.context.options.images != "none"
        filepath = f"{DATA}/{image.path}" if inside else str(self.context.image_file(image).absolute())
        detections = [_detection(found, image.image_hw) for found in image.objects]
        self._list.add(
            {
                "filepath": filepath,
                "tags": [side] if side else [],
                "metadata": {"_cls": "ImageMetadata", "width": width, "height": height},
                "_media_type": "image",
                "image_id": image.image_id,
                "path": image.path,
                FIELD: {"_cls": "Detections", "detections": detections},
            }
        )
        self.context.place(image, self.folder / DATA, image.path)
        self.context.count(image, side)

    def finish(self) -> None:
        """Close the list."""
        self._stream.write("\n]}\n")


def _detection(found: ExportObject, image_hw: tuple[int, int]) -> dict[str, Any]:
    height, width = image_hw
    cropped = crop_mask(found.mask) if found.mask is not None else None
    if cropped is None:
        left, top, right, bottom = np.clip(found.box_xyxy, 0, [width, height, width, height]).tolist()
        box = np.array([left, top, right - left, bottom - top], dtype=np.float64)
    else:
        box = cropped[0]
    detection: dict[str, Any] = {
        "_cls": "Detection",
        "attributes": {},
        "tags": [],
        "label": found.class_name,
        "bounding_box": box_to_rel(box, image_hw),
        "object_id": found.instance_id,
        "iscrowd": found.crowd,
    }
    if cropped is not None:
        detection["mask"] = {"$binary": {"base64": _pack(cropped[1]), "subType": "00"}}
    values = {
        "confidence": found.score,
        "mask_score": found.mask_score,
        "prompt": found.prompt,
        "provenance": found.provenance,
    }
    return detection | {key: value for key, value in values.items() if value is not None}


def _pack(mask: NDArray[np.bool_]) -> str:
    """Return a mask as FiftyOne's database has it: a .npy file, compressed by zlib, in base64."""
    stream = io.BytesIO()
    np.save(stream, mask, allow_pickle=False)
    return base64.b64encode(zlib.compress(stream.getvalue())).decode("ascii")
