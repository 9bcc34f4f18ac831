"""The fields of a run's dataset in FiftyOne: names, types, indexes, colours, and what the App offers to annotate."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from models.ontology import Ontology

PREDICTIONS = "predictions"
PROPOSALS = "proposals"
POLYGONS = "polygons"
FOUND_BY = "found_by"
LABEL_FIELDS = (PREDICTIONS, PROPOSALS, POLYGONS)
FAILED_TAG = "failed"
GONE_TAG = "not_in_run"
SYSTEM_TAGS = (FAILED_TAG, GONE_TAG)
"""Tags of images that the ingest gives and takes."""

SAMPLE_FIELDS = {
    "image_id": ("StringField", "The run's id of the image, from its path below the images' folder"),
    "path": ("StringField", "Path below the images' folder"),
    "fingerprint": ("StringField", "What the labels were made with: models, prompts, thresholds, version"),
    "reason": ("StringField", "Why the image failed; empty where it did not"),
    "written": ("DictField", "What the ingest wrote, by which a person's changes are seen"),
    "review_order": ("IntField", "Place in the review, 1 first; none where there is nothing to review"),
    "review_gain": ("FloatField", "Wrong labels to be expected for the time that the image takes"),
    "why": ("StringField", "Why the image is worth a look"),
    "uncertain": ("FloatField", "Highest doubt by the models' own scores, 0 to 1"),
    "conflict": ("FloatField", "Highest overlap of two objects, or with a proposal of another class, 0 to 1"),
    "odd_shape": ("FloatField", "How unlike its class the oddest object's shape is, 0 to 1"),
    "likely_missed": ("FloatField", "How likely an object was missed, 0 to 1"),
    "duplicate_group": ("IntField", "Images of one number are near-duplicates; none where an image has none"),
    "difference_rank": ("IntField", "Place among the images that differ most from each other, 1 first"),
}
DETECTION_FIELDS = {
    "object_id": ("StringField", "The run's instance_id; FiftyOne keeps that name for itself"),
    "class_id": ("IntField", "The run's id of the class, from 1 in the order of the ontology"),
    "prompt": ("StringField", "The prompt that found the object"),
    "mask_score": ("FloatField", "The segmenter's predicted IoU of the mask"),
    "detector_box": ("ListField", "The detector's box, which need not hold the mask: x1 y1 x2 y2 in pixels"),
    "doubt": ("FloatField", "How likely the label is wrong, by all signs together, 0 to 1"),
    FOUND_BY: ("StringField", "What the App was asked that found the object; none where the run found it"),
}
_LABELS = {
    PREDICTIONS: ("Detections", "The objects: mask, class, scores; a person's changes stay"),
    PROPOSALS: (
        "Detections",
        "What a later run finds in an image that a person reviewed, and the review does not have",
    ),
    POLYGONS: ("Polylines", "Polygons that a person draws; they become masks"),
}
_INDEXES = ("image_id", "review_order")
_MOST_RADIO_BUTTONS = 5


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

    samples = {name: _create(dataset, name, *spec) for name, spec in SAMPLE_FIELDS.items()}
    for name, (kind, description) in _LABELS.items():
        samples[name] = _create(dataset, name, "EmbeddedDocumentField", description, getattr(fo, kind))
    labels = {
        f"{field}.detections.{name}": _create(dataset, name, *spec)
        for field in (PREDICTIONS, PROPOSALS)
        for name, spec in DETECTION_FIELDS.items()
    }
    for declared in (samples, labels):  # all at once: FiftyOne saves the dataset for each call
        present = dataset.get_field_schema(flat=True)
        missing = {path: field for path, field in declared.items() if path not in present}
        if missing:
            dataset._merge_sample_field_schema(missing)
    indexes = dataset.get_index_information()
    if not indexes.get("filepath", {}).get("unique"):
        dataset.create_index("filepath", unique=True)
    for name in _INDEXES:
        if name not in indexes:
            dataset.create_index(name)


def _create(dataset: Any, name: str, kind: str, description: str, document: Any = None) -> Any:
    import fiftyone as fo

    subfield = fo.FloatField if kind == "ListField" else None
    options = {"embedded_doc_type": document, "subfield": subfield, "description": description}
    return dataset._sample_doc_cls._create_field(name, getattr(fo, kind), **options)


def color_scheme(ontology: Ontology) -> Any:
    """Return a FiftyOne colour scheme that gives each class its colour of the ontology."""
    import fiftyone as fo

    colors = [
        {"value": spec.name, "color": "#{:02x}{:02x}{:02x}".format(*color)}
        for spec, color in zip(ontology.classes, ontology.colors, strict=True)
    ]
    fields = [{"path": name, "colorByAttribute": "label", "valueColors": colors} for name in LABEL_FIELDS]
    return fo.ColorScheme(color_by="value", fields=fields)


def label_schemas(ontology: Ontology) -> dict[str, dict[str, Any]]:
    """Return what the App's annotation offers, by field: the classes; our attributes can be read only."""
    fixed = [
        {"name": "confidence", "type": "float", "component": "text", "read_only": True},
        {"name": "prompt", "type": "str", "component": "text", "read_only": True},
        {"name": "mask_score", "type": "float", "component": "text", "read_only": True},
    ]
    classes = [spec.name for spec in ontology.classes]
    component = "radio" if len(classes) <= _MOST_RADIO_BUTTONS else "dropdown"
    choice = {"component": component, "classes": classes}
    return {
        PREDICTIONS: {"type": "detections", **choice, "attributes": fixed},
        POLYGONS: {"type": "polylines", **choice, "attributes": []},
    }
