"""Boxes just under the thresholds of a run, kept in the database, and how likely an image misses an object by them.

A run keeps no box under its thresholds, so each image is looked at again where somebody asks (`plugin.below`). What was
found is in a collection of our own under the dataset's id and the run's fingerprint.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.boxes import pairwise_iou
from pipeline.review.documents import rel_to_box
from pipeline.review.schema import PREDICTIONS, PROPOSALS
from pipeline.review.written import labels_of
from pipeline.reviewed.changes import ACCEPTED_TAG
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.reviewed.proposals import SAME_IOU
from pipeline.run_options import config_of, threshold_of
from pipeline.store.run import Run

WHY = "A box just under the threshold, where no label is."
_COLLECTION = "groundlabel.below"
_CHUNK = 500
_DIGITS = 4


@dataclass(frozen=True)
class BoxBelow:
    """One box that a lower threshold would keep.

    Attributes:
        class_name: Its class.
        prompt: What found it.
        score: The detector's, under the threshold of its class.
        box_xyxy: Pixels, inside the image.
    """

    class_name: str
    prompt: str
    score: float
    box_xyxy: tuple[float, float, float, float]


def keep_below(dataset: Any, run: Run, sample_id: Any, boxes: Sequence[BoxBelow]) -> None:
    """Keep what was found under the thresholds in one image; there may be none.

    Args:
        dataset: A FiftyOne dataset of the run.
        run: The run.
        sample_id: `bson.ObjectId` of the image's sample.
        boxes: All of them.
    """
    key = {"dataset": dataset._doc.id, "sample_id": sample_id}
    rows = [[box.class_name, box.prompt, box.score, *box.box_xyxy] for box in boxes]
    _collection().replace_one(key, {**key, "fingerprint": run.fingerprint, "boxes": rows}, upsert=True)


def known_below(dataset: Any, run: Run, sample_ids: Sequence[str] | None = None) -> dict[str, list[BoxBelow]]:
    """Return the boxes of the images that were looked at, by sample id; None asks for all images."""
    from bson import ObjectId

    key: dict[str, Any] = {"dataset": dataset._doc.id, "fingerprint": run.fingerprint}
    if sample_ids is not None:
        key["sample_id"] = {"$in": [ObjectId(sample_id) for sample_id in sample_ids]}
    return {
        str(row["sample_id"]): [BoxBelow(name, prompt, score, tuple(box)) for name, prompt, score, *box in row["boxes"]]
        for row in _collection().find(key)
    }


def write_missed(dataset: Any, run: Run) -> int:
    """Write how likely an object was missed into the samples that were looked at, without touching their time.

    Counted is the best box that overlaps no label, proposal or deleted object of any class: 1 at the threshold of its
    class, 0 at half of it. What another sign has found stays where it is more. An accepted image misses nothing.

    Args:
        dataset: A FiftyOne dataset of the run, whose queues are written.
        run: The run.

    Returns:
        How many images miss something by this sign.
    """
    from pymongo import UpdateOne

    operations = [
        UpdateOne({"_id": sample_id}, {"$max": {"likely_missed": round(likely, _DIGITS)}, "$set": {"why": why}})
        for sample_id, likely, why in _likely(dataset, run)
    ]
    for start in range(0, len(operations), _CHUNK):
        dataset._sample_collection.bulk_write(operations[start : start + _CHUNK], ordered=False)
    return len(operations)


def _likely(dataset: Any, run: Run) -> Iterator[tuple[Any, float, str]]:
    below = known_below(dataset, run)
    if not below:
        return
    config, images = config_of(run), ReviewedLayer(run.folder).images
    thresholds = {spec.name: threshold_of(run, config, spec.name) for spec in run.ontology.classes}
    wanted = [sample_id for sample_id, boxes in below.items() if boxes]
    for sample in _samples(dataset, wanted):
        size = sample.get("metadata") or {}
        image_hw = int(size.get("height") or 0), int(size.get("width") or 0)
        if ACCEPTED_TAG in (sample.get("tags") or ()) or not all(image_hw):
            continue
        state = images.get(sample["image_id"])
        known = [found.box_xyxy for found in (state.removed if state is not None else ())]
        for name in (PREDICTIONS, PROPOSALS):
            known += [rel_to_box(label["bounding_box"], image_hw) for label in labels_of(sample, name).values()]
        boxes = below[str(sample["_id"])]
        overlaps = pairwise_iou(
            np.array([box.box_xyxy for box in boxes], np.float32), np.array(known, np.float32).reshape(-1, 4)
        )
        free = overlaps.max(axis=1, initial=0.0) < SAME_IOU
        shares = np.array([box.score / max(thresholds[box.class_name], 1e-6) for box in boxes])
        likely = float(np.clip(2 * shares[free] - 1, 0, 1).max(initial=0.0))
        if likely > 0:
            earlier = str(sample.get("why") or "")
            yield sample["_id"], likely, earlier if WHY in earlier else f"{earlier} {WHY}".strip()


def _samples(dataset: Any, sample_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    from bson import ObjectId

    fields = dict.fromkeys(("image_id", "tags", "metadata", "why", PREDICTIONS, PROPOSALS), 1)
    for start in range(0, len(sample_ids), _CHUNK):
        part = [ObjectId(sample_id) for sample_id in sample_ids[start : start + _CHUNK]]
        yield from dataset._sample_collection.find({"_id": {"$in": part}}, fields)


def _collection() -> Any:
    import fiftyone.core.odm as foo

    return foo.get_db_conn()[_COLLECTION]
