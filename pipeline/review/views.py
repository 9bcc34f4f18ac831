"""The queues in the App: their numbers as fields, and saved views that each say why."""

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.queues import ImageScore
from pipeline.review.documents import document_key
from pipeline.review.orders import ORDERS
from pipeline.review.schema import FAILED_TAG, PREDICTIONS, PROPOSALS
from pipeline.reviewed.changes import ACCEPTED_TAG

_CHUNK = 500
_DIGITS = 4
MISSED_VIEW = ORDERS["missed"]
DESCRIPTIONS = {
    "Review order": "Start here: the images with the most wrong labels to be expected for the time that they take, "
    "without those that are accepted.",
    "Doubtful objects": "Single objects, most doubtful first, to be tagged 'accepted' or 'rejected' many at a time.",
    "Uncertain first": "The models themselves are unsure: a score near the lowest of its class, a low mask score, or a "
    "mask that does not fit its box.",
    "Conflicts": "Two objects in one place: of different classes, or the same object twice; or a later run contradicts "
    "a reviewed label.",
    "Odd shapes": "Objects whose area, aspect, filling or number of pieces is unlike that of their class.",
    MISSED_VIEW: "No label at all, while other images of the same folder have some; or a box just under the "
    "threshold where no label is, in the images where 'Find missed objects' looked for such.",
    "Near duplicates": "Images that are almost the same, side by side; one of them is enough, and all of them belong "
    "on one side of a split.",
    "Most different": "The images that differ most from each other, by what the detector sees in them: the fewest "
    "images that show what the set holds.",
    "Proposals": "Reviewed images in which a later run found more. Tag a proposal 'accepted' to make it a label, or "
    "'rejected' or delete it to refuse it.",
    "Failed": "Images that could not be labelled; the field 'reason' says why.",
    "Accepted": "Images whose labels a person found right as a whole: tagged 'accepted'.",
}
"""Saved view -> the sentence that says why these images are in it."""


def write_queues(dataset: Any, scores: Sequence[ImageScore]) -> None:
    """Write the queues' numbers into the samples, without touching their time of modification.

    Args:
        dataset: A FiftyOne dataset that was ingested; nobody else writes to it meanwhile.
        scores: Of its images; an image that has no sample is passed over.
    """
    from pymongo import UpdateOne

    collection = dataset._sample_collection
    for start in range(0, len(scores), _CHUNK):
        part = {score.image_id: score for score in scores[start : start + _CHUNK]}
        keys = dict.fromkeys((f"{PREDICTIONS}.detections._id", f"{PREDICTIONS}.detections.object_id"), 1)
        found = collection.find({"image_id": {"$in": list(part)}}, {"image_id": 1, **keys})
        operations = []
        for sample in found:
            score = part[sample["image_id"]]
            values: dict[str, Any] = {
                "review_order": score.order,
                "review_gain": round(score.gain, _DIGITS),
                "why": score.why,
                "uncertain": round(score.uncertain, _DIGITS),
                "conflict": round(score.conflict, _DIGITS),
                "odd_shape": round(score.odd_shape, _DIGITS),
                "likely_missed": round(score.likely_missed, _DIGITS),
            }
            labels = (sample.get(PREDICTIONS) or {}).get("detections") or ()
            for row, label in enumerate(labels):
                doubt = score.doubts.get(document_key(label), 0.0)
                values[f"{PREDICTIONS}.detections.{row}.doubt"] = round(doubt, _DIGITS)
            operations.append(UpdateOne({"_id": sample["_id"]}, {"$set": values}))
        if operations:
            collection.bulk_write(operations, ordered=False)


def save_views(dataset: Any) -> None:
    """Save a view for each queue that has none yet; views of other names are left alone.

    Args:
        dataset: A FiftyOne dataset with the declared fields; best while it is small, as the view of single objects is
            computed once when it is saved.
    """
    from fiftyone import ViewField

    def above(name: str, least: float) -> Any:
        return dataset.match(ViewField(name) > least).sort_by(name, reverse=True)

    views: dict[str, Callable[[], Any]] = {
        "Review order": lambda: dataset.match(ViewField("review_order") > 0).sort_by("review_order"),
        "Doubtful objects": lambda: dataset.to_patches(PREDICTIONS).sort_by(f"{PREDICTIONS}.doubt", reverse=True),
        "Uncertain first": lambda: above("uncertain", 0.25),
        "Conflicts": lambda: above("conflict", 0.25),
        "Odd shapes": lambda: above("odd_shape", 0.25),
        MISSED_VIEW: lambda: above("likely_missed", 0.0),
        "Near duplicates": lambda: dataset.match(ViewField("duplicate_group") > 0).sort_by("duplicate_group"),
        "Most different": lambda: dataset.match(ViewField("difference_rank") > 0).sort_by("difference_rank"),
        "Proposals": lambda: dataset.match(ViewField(f"{PROPOSALS}.detections").length() > 0),
        "Failed": lambda: dataset.match_tags(FAILED_TAG),
        "Accepted": lambda: dataset.match_tags(ACCEPTED_TAG),
    }
    saved = set(dataset.list_saved_views())
    for name, make in views.items():
        if name not in saved:
            dataset.save_view(name, make(), description=DESCRIPTIONS[name])


def opening_view(dataset: Any, order: str) -> str:
    """Return how the App's address calls the saved view of an order.

    Args:
        dataset: A FiftyOne dataset that was ingested.
        order: One of `ORDERS`.

    Returns:
        Empty for all images: where that is asked for, or where the view has nothing in it.
    """
    import fiftyone.core.utils as fou

    name = ORDERS[order]
    if not name or not dataset.has_saved_view(name) or not len(dataset.load_saved_view(name)):
        return ""
    return str(fou.to_slug(name))
