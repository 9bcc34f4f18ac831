"""Which images a dataset had when its last ingest was complete: one that is gone since was deleted by a person.

Kept in a collection of our own beside FiftyOne's, under the dataset's id, which no later dataset of the same name has.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.store.index import ids_to_numbers, number_to_id

_COLLECTION = "groundlabel.images"
_BLOCK = 500_000


class PresentImages:
    """The images of one dataset.

    Args:
        dataset: A FiftyOne dataset.
    """

    def __init__(self, dataset: Any) -> None:
        import fiftyone.core.odm as foo

        self._samples = dataset._sample_collection
        self._dataset_id = dataset._doc.id
        self._collection = foo.get_db_conn()[_COLLECTION]

    def now(self) -> set[str]:
        """Return the ids of the images that have a sample."""
        found = self._samples.find({"image_id": {"$ne": None}}, {"_id": 0, "image_id": 1})
        return {sample["image_id"] for sample in found}

    def may_have_changed(self) -> bool:
        """Say whether the number of samples is another than recorded; other programs' samples count too."""
        blocks = self._collection.find({"dataset": self._dataset_id}, {"count": 1})
        recorded: int = sum(block["count"] for block in blocks)
        return int(self._samples.estimated_document_count()) != recorded

    def recorded(self) -> set[str]:
        """Return the ids that were last recorded; none before the first ingest was complete."""
        blocks = self._collection.find({"dataset": self._dataset_id}).sort("block", 1)
        return {number_to_id(number) for block in blocks for number in np.frombuffer(block["ids"], "<u8").tolist()}

    def record(self, image_ids: Iterable[str]) -> None:
        """Replace what was recorded."""
        numbers = np.sort(ids_to_numbers(image_ids)).astype("<u8")
        self._collection.delete_many({"dataset": self._dataset_id})
        blocks = [numbers[start : start + _BLOCK] for start in range(0, len(numbers), _BLOCK)]
        rows = [
            {"dataset": self._dataset_id, "block": row, "count": len(block), "ids": block.tobytes()}
            for row, block in enumerate(blocks)
        ]
        if rows:
            self._collection.insert_many(rows)
