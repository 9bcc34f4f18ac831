"""Proposals that the App was asked for: they are in no shard, so an ingest keeps them until a person decides."""

from collections.abc import Sequence
from typing import Any

from pipeline.records import Record
from pipeline.review.documents import document_to_object, keyed
from pipeline.review.schema import FOUND_BY
from pipeline.reviewed.changes import ReviewedImage, ReviewedObject, record_ref
from pipeline.reviewed.proposals import find_proposals


def asked_proposals(documents: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Return the stored proposals that the App was asked for."""
    return tuple(document for document in documents if document.get(FOUND_BY))


def still_open(
    documents: Sequence[dict[str, Any]],
    record: Record,
    image_hw: tuple[int, int] | None,
    objects: Sequence[ReviewedObject],
    removed: Sequence[ReviewedObject],
) -> list[dict[str, Any]]:
    """Return the stored proposals that are neither decided nor covered by a label of their class.

    Args:
        documents: Of one image; N may be 0.
        record: The run's row of the image.
        image_hw: (height, width) in pixels; None where it is not known, and then there are none.
        objects: The labels and other proposals of the image.
        removed: Objects that a person deleted or refused.
    """
    if not documents or image_hw is None:
        return []
    stored = keyed(documents)
    found = (document_to_object(document, key, image_hw, None, False) for key, document in stored.items())
    state = ReviewedImage(record_ref(record), tuple(objects), tuple(removed))
    left = {one.object_id for one in find_proposals(state, [one for one in found if one is not None])}
    return [document for key, document in stored.items() if key in left]
