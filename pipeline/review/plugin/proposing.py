"""Objects that the models find when the App asks them, put beside the labels as proposals."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.boxes import clip_boxes, pairwise_iou
from models.class_spec import normalise_prompt
from models.detections import Detections, Instances
from models.interfaces import Image
from models.ontology import Ontology
from pipeline.records import AnnotatedImage
from pipeline.review.documents import document_key, object_to_document, rel_to_box, signature
from pipeline.review.plugin.edits import Document, LabelEdit
from pipeline.review.plugin.targets import image_hw_of, stored_labels
from pipeline.review.schema import FOUND_BY, PREDICTIONS, PROPOSALS
from pipeline.review.written import Written
from pipeline.reviewed.changes import ACCEPTED_TAG, ReviewedImage, ReviewedObject, digest
from pipeline.reviewed.convert import record_to_objects
from pipeline.reviewed.proposals import SAME_IOU
from pipeline.stages import Stages


def find_boxes(stages: Stages, pixels: Image) -> Detections:
    """Return what the detector finds, before all filters; in tiles where the stages have tiles."""
    windows = stages.windows((pixels.shape[0], pixels.shape[1]))
    if not windows:
        return stages.detect([pixels])[0]
    return stages.detect_in_tiles(pixels, windows, lambda images: None).objects


def to_objects(sample: Document, instances: Instances, ontology: Ontology) -> tuple[ReviewedObject, ...]:
    """Return what was found in a sample's image as objects with ids of their own."""
    record = AnnotatedImage.from_instances(sample["image_id"], sample["path"], instances, ontology)
    return tuple(
        replace(
            found, object_id=f"app-{digest([sample['image_id'], found.class_name, found.prompt, found.detector_box])}"
        )
        for found in record_to_objects(record)
    )


def propose(
    sample: Document, objects: Sequence[ReviewedObject], state: ReviewedImage | None, found_by: str
) -> list[LabelEdit]:
    """Return the changes that add to a sample's proposals what it does not have yet and nobody deleted.

    Args:
        sample: As MongoDB has it.
        objects: Found in its image; N may be 0.
        state: The reviewed state of the image; None where it has none.
        found_by: What the models were asked, to be read with the proposal.
    """
    from bson import ObjectId

    known = known_boxes(sample, state)
    ids = {document_key(label) for field in (PREDICTIONS, PROPOSALS) for label in stored_labels(sample, field)}
    ids |= {found.object_id for found in state.removed} if state is not None else set()
    edits = []
    for found in objects:
        if found.object_id in ids or covered(found.class_name, np.array([found.box_xyxy], np.float32), known)[0]:
            continue
        document = object_to_document(found, image_hw_of(sample), None, ObjectId()) | {FOUND_BY: found_by}
        edits.append(LabelEdit(sample["_id"], PROPOSALS, None, document, noted=True))
    return edits


KnownBoxes = dict[str, NDArray[np.float32]]
"""Class, normalised -> boxes (N, 4) in pixels."""


def known_boxes(sample: Document, state: ReviewedImage | None) -> KnownBoxes:
    """Return the boxes of all labels and proposals of a sample, and of the objects that a person deleted in it."""
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    image_hw = image_hw_of(sample)
    for field in (PREDICTIONS, PROPOSALS):
        for label in stored_labels(sample, field):
            rows.setdefault(normalise_prompt(str(label.get("label"))), []).append(
                rel_to_box(label["bounding_box"], image_hw)
            )
            if label.get("detector_box"):
                rows[normalise_prompt(str(label.get("label")))].append(tuple(label["detector_box"]))
    for found in state.removed if state is not None else ():
        rows.setdefault(normalise_prompt(found.class_name), []).append(found.box_xyxy)
    return {name: clip_boxes(np.array(boxes, np.float32), image_hw) for name, boxes in rows.items()}


def covered(class_name: str, boxes_xyxy: NDArray[np.float32], known: KnownBoxes) -> NDArray[np.bool_]:
    """Tell which boxes (N, 4) overlap a known one of their class; (N,) bool."""
    others = known.get(normalise_prompt(class_name), np.zeros((0, 4), np.float32))
    return np.asarray((pairwise_iou(boxes_xyxy, others) >= SAME_IOU).any(axis=1), dtype=bool)


def touched_labels(sample: Document, state: ReviewedImage | None) -> set[Any]:
    """Return the ids of a sample's labels that a person accepted, drew or corrected."""
    labels = stored_labels(sample, PREDICTIONS)
    if ACCEPTED_TAG in (sample.get("tags") or ()):
        return {label["_id"] for label in labels}
    written = Written.from_document(sample.get("written"))
    lines = written.labels.get(PREDICTIONS, {}) if written is not None else {}
    origins = {found.object_id: found.origin for found in (state.objects or () if state is not None else ())}
    return {
        label["_id"]
        for label in labels
        if ACCEPTED_TAG in (label.get("tags") or ())
        or label.get("confidence") is None
        or origins.get(document_key(label), "model") != "model"
        or lines.get(document_key(label), "").split()[:3] != signature(label).split()[:3]
    }
