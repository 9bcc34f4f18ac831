"""COCO instance annotations: compressed RLE masks, ids from 1, written as a stream."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from models.masks import mask_areas, mask_boxes_xywh
from pipeline.export.folder import ExportOptions, Written, place_image
from pipeline.export.labels import Labels
from pipeline.records import AnnotatedImage

ANNOTATIONS = "annotations.json"
IMAGES = "images"
_SCORE_DIGITS = 6
_LICENSE_ID = 1


class _JsonList:
    """Writes the elements of a JSON list one by one, each on its own line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._between = "\n"

    def add(self, element: dict[str, Any]) -> None:
        self._stream.write(self._between + json.dumps(element, allow_nan=False, separators=(",", ":")))
        self._between = ",\n"


def write(labels: Labels, folder: Path, options: ExportOptions) -> Written:
    """Write annotations.json and, as the options say, images/ into a folder.

    Category ids are the ontology's, image and annotation ids count from 1 in the order of the records. Images without
    objects are kept, failed ones are not. `file_name` is relative to images/ (or to the run's image folder).

    Args:
        labels: What to export; read once.
        folder: Empty.
        options: `images` and `licence` are used.

    Returns:
        The counts and what was left out.

    Raises:
        UserError: An image file of the run is gone.

    Source: the data format page of the COCO dataset; `counts` as pycocotools' rleToString packs it.
    """
    written = Written(folder)
    body = folder / "annotations.part"
    with (folder / ANNOTATIONS).open("w", encoding="ascii") as head_stream, body.open("w+", encoding="ascii") as stream:
        head_stream.write(_header(labels, options))
        images, annotations = _JsonList(head_stream), _JsonList(stream)
        for record in labels.records():
            if not isinstance(record, AnnotatedImage):
                written.failed.append((record.path, record.reason))
                continue
            written.images += 1
            images.add(_image(record, written.images))
            for annotation in _annotations(record, written):
                annotations.add(annotation)
            place_image(labels.image_path(record), folder / IMAGES, record.path, options.images)
        head_stream.write('\n],\n"annotations":[')
        stream.seek(0)
        shutil.copyfileobj(stream, head_stream)
        head_stream.write("\n]}\n")
    body.unlink()
    return written


def _header(labels: Labels, options: ExportOptions) -> str:
    """Return the JSON text up to the opening of the list of images."""
    info = {
        "description": f"Labels made by groundlabel in {labels.folder.resolve().name}",
        "version": str(labels.settings.get("groundlabel", "")),
        "contributor": "",
        "url": "",
        "fingerprint": labels.fingerprint,
        "made_with": labels.settings.get("parts", {}),
    }
    licence = options.licence or "Unknown: the licence of the images was not given"
    licenses = [{"id": _LICENSE_ID, "name": licence, "url": ""}]
    categories = [{"id": spec.id, "name": spec.name, "supercategory": ""} for spec in labels.ontology.classes]
    parts = {"info": info, "licenses": licenses, "categories": categories}
    lines = ",\n".join(f"{json.dumps(key)}:{json.dumps(value, allow_nan=False)}" for key, value in parts.items())
    return "{" + lines + ',\n"images":['


def _image(record: AnnotatedImage, image_id: int) -> dict[str, Any]:
    height, width = record.image_hw
    return {
        "id": image_id,
        "file_name": record.path,
        "width": width,
        "height": height,
        "license": _LICENSE_ID,
        "groundlabel_id": record.image_id,
    }


def _annotations(record: AnnotatedImage, written: Written) -> Iterator[dict[str, Any]]:
    """Yield the annotations of one image and count them; a mask without pixels is noted and left out."""
    instances = record.instances
    areas, boxes_xywh = mask_areas(instances.masks), mask_boxes_xywh(instances.masks)
    for row in range(len(instances)):
        if areas[row] == 0:
            written.empty_masks.append((record.path, record.instance_ids[row]))
            continue
        written.annotations += 1
        yield {
            "id": written.annotations,
            "image_id": written.images,
            "category_id": int(instances.detections.class_ids[row]),
            "segmentation": instances.masks[row].to_coco(),
            "area": int(areas[row]),
            "bbox": [int(side) for side in boxes_xywh[row]],
            "iscrowd": 0,
            "score": round(float(instances.detections.scores[row]), _SCORE_DIGITS),
            "mask_score": round(float(instances.mask_scores[row]), _SCORE_DIGITS),
            "prompt": record.prompts[row],
            "instance_id": record.instance_ids[row],
        }
