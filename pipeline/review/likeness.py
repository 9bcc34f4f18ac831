"""Likeness of images in the App: groups of near-duplicates, and the images that differ most, as fields."""

from typing import Any

import numpy as np

from pipeline.image_features import ImageVectors, alike, spread_order
from pipeline.splits.groups import connect

MOST_DIFFERENT = 200
"""Images that the queue of the most different ones holds."""
_CHUNK = 500


def write_likeness(dataset: Any, vectors: ImageVectors) -> None:
    """Write which images are alike into the samples, without touching their time of modification.

    `duplicate_group` numbers the groups of near-duplicates, the largest first; `difference_rank` says in which order
    the most different images come. Images without either have none.

    Args:
        dataset: A FiftyOne dataset that was ingested; nobody else writes to it meanwhile.
        vectors: Of its images; an image that has no sample is passed over.
    """
    from pymongo import UpdateOne

    collection = dataset._sample_collection
    collection.update_many({}, {"$set": {"duplicate_group": None, "difference_rank": None}})
    values: dict[str, dict[str, int]] = {}
    for image_id, group in zip(vectors.image_ids, _groups(vectors).tolist(), strict=True):
        if group:
            values[image_id] = {"duplicate_group": group}
    for rank, row in enumerate(spread_order(vectors.vectors, MOST_DIFFERENT).tolist(), start=1):
        values.setdefault(vectors.image_ids[row], {})["difference_rank"] = rank
    operations = [UpdateOne({"image_id": image_id}, {"$set": fields}) for image_id, fields in values.items()]
    for start in range(0, len(operations), _CHUNK):
        collection.bulk_write(operations[start : start + _CHUNK], ordered=False)


def _groups(vectors: ImageVectors) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the group of near-duplicates of each image, from 1, the largest first; 0 for an image alone; (N,)."""
    if not len(vectors):
        return np.zeros(0, np.int64)
    sets = connect(len(vectors), alike(vectors.vectors))
    sizes = np.bincount(sets)
    order = np.argsort(-sizes, kind="stable")
    numbers = np.zeros(len(sizes), np.int64)
    several = order[sizes[order] > 1]
    numbers[several] = np.arange(1, len(several) + 1)
    return numbers[sets]
