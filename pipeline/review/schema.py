"""How a run's records look in FiftyOne: field names and types, and one image's labels there and back.

A detection's `bounding_box` is the tight box of its mask, as in COCO exports, because FiftyOne stretches the mask over
the box: so the mask is neither cut where it leaves the detector's box nor moved. The detector's own box is kept in
`detector_box`. An object whose mask is empty has the detector's box and no mask.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.boxes import check_image_hw, clip_boxes
from models.ontology import Ontology
from pipeline.records import AnnotatedImage, FailedImage, Record
from pipeline.review.crops import crop_mask

PREDICTIONS = "predictions"
FAILED_TAG = "failed"
GONE_TAG = "not_in_run"
REVIEWED_TAG = "reviewed"
NUDGE = 1e-4
"""Added to boxes in pixels, so that a reader that multiplies by the side and truncates lands on the right pixel."""

SAMPLE_FIELDS = {
    "image_id": ("StringField", "The run's id of the image, from its path below the images' folder"),
    "path": ("StringField", "Path below the images' folder"),
    "fingerprint": ("StringField", "What the labels were made with: models, prompts, thresholds, version"),
    "reason": ("StringField", "Why the image failed; empty where it did not"),
    "ingested": ("StringField", "Digests of the run's row and of the labels made of it, by which edits are seen"),
}
_MOST_RADIO_BUTTONS = 5
DETECTION_FIELDS = {
    "object_id": ("StringField", "The run's instance_id; FiftyOne keeps that name for itself"),
    "class_id": ("IntField", "The run's id of the class, from 1 in the order of the ontology"),
    "prompt": ("StringField", "The prompt that found the object"),
    "mask_score": ("FloatField", "The segmenter's predicted IoU of the mask"),
    "detector_box": ("ListField", "The detector's box, which need not hold the mask: x1 y1 x2 y2 in pixels"),
}


def dataset_name(run_folder: Path) -> str:
    """Return the name of a run's dataset: the folder's name and 8 digits of a hash of its absolute path."""
    absolute = run_folder.resolve()
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", absolute.name).strip("-.") or "run"
    return f"{plain[:60]}-{hashlib.sha256(os.fsencode(absolute)).hexdigest()[:8]}"


def declare_fields(dataset: Any) -> None:
    """Declare all fields with their types and the indexes; nothing changes where they are there already.

    Args:
        dataset: A FiftyOne dataset.
    """
    import fiftyone as fo

    present = dataset.get_field_schema(flat=True)
    for name, (kind, description) in SAMPLE_FIELDS.items():
        if name not in present:
            dataset.add_sample_field(name, getattr(fo, kind), description=description)
    if PREDICTIONS not in present:
        dataset.add_sample_field(
            PREDICTIONS,
            fo.EmbeddedDocumentField,
            embedded_doc_type=fo.Detections,
            description="The run's objects: mask, class, scores",
        )
    for name, (kind, description) in DETECTION_FIELDS.items():
        path = f"{PREDICTIONS}.detections.{name}"
        if path not in present:
            subfield = {"subfield": fo.FloatField} if kind == "ListField" else {}
            dataset.add_sample_field(path, getattr(fo, kind), description=description, **subfield)
    indexes = dataset.get_index_information()
    if not indexes.get("filepath", {}).get("unique"):
        dataset.create_index("filepath", unique=True)
    if "image_id" not in indexes:
        dataset.create_index("image_id")


def color_scheme(ontology: Ontology) -> Any:
    """Return a FiftyOne colour scheme that gives each class its colour of the ontology."""
    import fiftyone as fo

    colors = [
        {"value": spec.name, "color": "#{:02x}{:02x}{:02x}".format(*color)}
        for spec, color in zip(ontology.classes, ontology.colors, strict=True)
    ]
    field = {"path": PREDICTIONS, "colorByAttribute": "label", "valueColors": colors}
    return fo.ColorScheme(color_by="value", fields=[field])


def label_schema(ontology: Ontology) -> dict[str, Any]:
    """Return what the App's annotation offers for the predictions: the ontology's classes, our attributes read-only."""
    fixed = [
        {"name": "confidence", "type": "float", "component": "text", "read_only": True},
        {"name": "prompt", "type": "str", "component": "text", "read_only": True},
        {"name": "mask_score", "type": "float", "component": "text", "read_only": True},
    ]
    classes = [spec.name for spec in ontology.classes]
    component = "radio" if len(classes) <= _MOST_RADIO_BUTTONS else "dropdown"
    return {"type": "detections", "component": component, "classes": classes, "attributes": fixed}


def box_to_rel(box_xywh: NDArray[np.float64], image_hw: tuple[int, int]) -> list[float]:
    """Convert a pixel box to FiftyOne's relative one, such that truncating readers find the same pixels.

    Args:
        box_xywh: (4,) x, y, width, height in pixels, inside the image.
        image_hw: (height, width) in pixels.

    Returns:
        Left, top, width, height in [0, 1], with left + width <= 1 and top + height <= 1.

    Source: fiftyone/core/labels.py, Detection.bounding_box; eta/core/geometry.py, RelativePoint.coords_in truncates.
    """
    height, width = check_image_hw(image_hw)
    corner, extent = [], []
    for start, length, side in ((box_xywh[0], box_xywh[2], width), (box_xywh[1], box_xywh[3], height)):
        relative = min((float(start) + NUDGE) / side, 1.0)
        corner.append(relative)
        extent.append(min((float(length) + NUDGE) / side, 1.0 - relative))
    return corner + extent


def record_to_detections(record: AnnotatedImage) -> Any:
    """Convert an image's objects to FiftyOne Detections, in order; an image without objects gives an empty list."""
    import fiftyone as fo

    instances = record.instances
    found = instances.detections
    clipped = clip_boxes(found.boxes_xyxy, record.image_hw).astype(np.float64)
    labels = []
    for row, rle in enumerate(instances.masks):
        cropped = crop_mask(rle)
        corners = clipped[row]
        box_xywh = cropped[0] if cropped else np.concatenate([corners[:2], corners[2:] - corners[:2]])
        labels.append(
            fo.Detection(
                label=record.class_names[row],
                bounding_box=box_to_rel(box_xywh, record.image_hw),
                mask=cropped[1] if cropped else None,
                confidence=float(found.scores[row]),
                object_id=record.instance_ids[row],
                class_id=int(found.class_ids[row]),
                prompt=record.prompts[row],
                mask_score=float(instances.mask_scores[row]),
                detector_box=[float(value) for value in found.boxes_xyxy[row]],
            )
        )
    return fo.Detections(detections=labels)


def record_digest(record: Record, fingerprint: str) -> str:
    """Return a digest of all that a record puts into the dataset; equal digests mean that there is nothing to do."""
    if isinstance(record, FailedImage):
        return _digest([fingerprint, record.path, record.reason])
    found, masks = record.instances.detections, record.instances.masks
    head = [fingerprint, record.path, record.image_hw, record.instance_ids, record.class_names, record.prompts]
    columns: list[NDArray[Any]] = [found.boxes_xyxy, found.scores, found.class_ids, record.instances.mask_scores]
    return _digest([*head, *(column.tobytes() for column in columns), *(mask.counts for mask in masks)])


def labels_digest(labels: Any) -> str:
    """Return a digest of a sample's labels, by which a person's change is seen: any attribute, mask, box or tag.

    Args:
        labels: FiftyOne Detections, as made here or as the database has them; None where there are none.
    """
    if labels is None:
        return _digest([])
    parts: list[Any] = []
    for detection in labels.detections:
        for name in sorted(detection.field_names):
            value = detection[name]
            if name == "id" or value is None or (isinstance(value, (list, dict)) and not value):
                continue
            if isinstance(value, np.ndarray):
                parts += [name, value.shape, np.packbits(value > 0).tobytes()]
            else:
                parts += [name, list(value) if isinstance(value, list) else value]
        parts.append("end")
    return _digest(parts)


def _digest(parts: list[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else repr(part).encode(errors="replace"))
        digest.update(b"\0")
    return digest.hexdigest()[:24]
