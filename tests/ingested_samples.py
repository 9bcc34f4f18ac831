"""Runs brought into FiftyOne, and what a sample must say of its record, for the tests of the ingest."""

from pathlib import Path
from typing import Any

import numpy as np

from models.masks import decode_mask
from pipeline.records import FailedImage, Record
from pipeline.review import ingest, schema
from pipeline.store.run import Run


def bring_in(run_folder: Path) -> ingest.IngestResult:
    """Bring a run into FiftyOne."""
    return ingest.ingest(Run.open(run_folder))


def full_mask(detection: Any, image_hw: tuple[int, int]) -> np.ndarray:
    """Return a detection's mask in its image, as FiftyOne itself puts it there."""
    if detection.mask is None:
        return np.zeros(image_hw, bool)
    return np.asarray(detection.to_segmentation(frame_size=image_hw[::-1], target=255).mask) == 255


def assert_equals_record(sample: Any, record: Record) -> None:
    """Check that a sample says what a record says, to the pixel."""
    assert (sample["image_id"], sample["path"]) == (record.image_id, record.path)
    if isinstance(record, FailedImage):
        assert (sample[schema.PREDICTIONS], sample["reason"]) == (None, record.reason)
        assert schema.FAILED_TAG in sample.tags
        return
    assert schema.FAILED_TAG not in sample.tags
    assert (sample.metadata.height, sample.metadata.width) == record.image_hw
    found = record.instances.detections
    labels = sample[schema.PREDICTIONS].detections
    assert [label.label for label in labels] == list(record.class_names)
    assert [label["object_id"] for label in labels] == list(record.instance_ids)
    assert [label["prompt"] for label in labels] == list(record.prompts)
    assert [label["class_id"] for label in labels] == found.class_ids.tolist()
    np.testing.assert_array_equal([label.confidence for label in labels], found.scores)
    np.testing.assert_array_equal([label["mask_score"] for label in labels], record.instances.mask_scores)
    for label, rle, box in zip(labels, record.instances.masks, found.boxes_xyxy, strict=True):
        np.testing.assert_array_equal(label["detector_box"], box)
        left, top, width, height = label.bounding_box
        assert min(left, top) >= 0
        assert max(left + width, top + height) <= 1
        np.testing.assert_array_equal(full_mask(label, record.image_hw), decode_mask(rle))
