"""A run's rows as reviewed objects, and reviewed images as what exports read."""

from typing import Any

from numpy.typing import NDArray

from models.boxes import clip_boxes
from models.class_spec import normalise_prompt
from models.masks import mask_areas, mask_boxes_xywh
from models.ontology import Ontology
from pipeline.box_source import BoxSource, choose_box
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.records import FailedImage, Record
from pipeline.reviewed.changes import BoxXyxy, ReviewedImage, ReviewedObject, digest


def row_digest(record: Record, fingerprint: str) -> str:
    """Return a digest of all that a row says; equal digests mean that its labels are the same."""
    if isinstance(record, FailedImage):
        return digest([fingerprint, record.path, record.reason])
    found, masks = record.instances.detections, record.instances.masks
    head = [fingerprint, record.path, record.image_hw, record.instance_ids, record.class_names, record.prompts]
    columns: list[NDArray[Any]] = [found.boxes_xyxy, found.scores, found.class_ids, record.instances.mask_scores]
    return digest([*head, *(column.tobytes() for column in columns), *(mask.counts for mask in masks)])


def record_to_objects(record: Record) -> tuple[ReviewedObject, ...]:
    """Return a row's objects, in order; boxes are those of the masks where there are masks with pixels."""
    if isinstance(record, FailedImage):
        return ()
    found, masks = record.instances.detections, record.instances.masks
    tight = mask_boxes_xywh(masks).astype(float).tolist()
    own = found.boxes_xyxy.astype(float).tolist()
    clipped = clip_boxes(found.boxes_xyxy, record.image_hw).astype(float).tolist()
    objects = []
    for row, (left, top, width, height) in enumerate(tight):
        has_pixels = width > 0 and height > 0
        objects.append(
            ReviewedObject(
                record.instance_ids[row],
                record.class_names[row],
                (left, top, left + width, top + height) if has_pixels else _box(clipped[row]),
                None if masks[row].is_absent else masks[row],
                float(found.scores[row]),
                float(record.instances.mask_scores[row]),
                record.prompts[row],
                _box(own[row]),
                origin="model",
            )
        )
    return tuple(objects)


def _box(values: list[float]) -> BoxXyxy:
    left, top, right, bottom = values
    return left, top, right, bottom


def reviewed_to_export(image: ReviewedImage, ontology: Ontology, boxes: BoxSource = "mask") -> ExportImage:
    """Convert the objects of a reviewed image that nobody rejected.

    Args:
        image: One with objects of its own.
        ontology: Has the classes of all objects; letter case and spaces don't count.
        boxes: Whose boxes objects have that are a model's work alone; others have those of their masks.
    """
    class_ids = {normalise_prompt(spec.name): spec.id for spec in ontology.classes}
    objects, empty = [], []
    kept = [found for found in image.objects or () if not found.is_rejected]
    masks = [found.mask for found in kept if found.mask is not None]
    areas, bounds = iter(mask_areas(masks).tolist()), iter(mask_boxes_xywh(masks).astype(float).tolist())
    for found in kept:
        box, area = found.box_xyxy, (found.box_xyxy[2] - found.box_xyxy[0]) * (found.box_xyxy[3] - found.box_xyxy[1])
        if found.mask is not None:
            area, (left, top, width, height) = float(next(areas)), next(bounds)
            own_box = found.detector_box if found.origin == "model" else None
            box = choose_box((left, top, left + width, top + height), own_box, boxes)
            if area == 0:
                empty.append(found.object_id)
                continue
        class_id = class_ids[normalise_prompt(found.class_name)]
        objects.append(
            ExportObject(
                found.object_id,
                class_id,
                ontology.name_of(class_id),
                box,
                area,
                found.mask,
                found.score,
                found.mask_score if found.mask is not None else None,
                found.prompt,
                provenance=found.origin,
            )
        )
    return ExportImage(image.image.image_id, image.image.path, image.image.image_hw, tuple(objects), tuple(empty))
