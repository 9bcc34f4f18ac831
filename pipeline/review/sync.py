"""Find what people changed in a run's dataset and write it into the run's reviewed layer.

Each sample knows what was written into it (`written`), so changes are seen also where the shards are of a later run by
now, and also those of another program. A sample's labels are never changed here, nor its time of modification: the
App refuses to save a sample that changed behind its back.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from PIL.Image import DecompressionBombError

from pipeline.images import upright_size
from pipeline.review.documents import document_to_object
from pipeline.review.present import PresentImages
from pipeline.review.schema import LABEL_FIELDS, POLYGONS, PREDICTIONS, PROPOSALS
from pipeline.review.written import Written, labels_of, own_tags, place_labels, sign_labels
from pipeline.reviewed.base import BaseLabels, read_base
from pipeline.reviewed.changes import (
    ACCEPTED_TAG,
    REJECTED_TAG,
    Change,
    ImageRef,
    Kind,
    ReviewedImage,
    ReviewedObject,
    replay,
    take_labels,
)
from pipeline.reviewed.diff import object_changes, tag_changes
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import Run

_CHUNK = 200
_CLOCK_SLACK = timedelta(seconds=5)
_FIELDS = ("image_id", "path", "filepath", "tags", "metadata", "written", *LABEL_FIELDS)


@dataclass(frozen=True)
class _Edited:
    """A stored sample that is no longer what was written."""

    sample: Mapping[str, Any]
    written: Written
    labels: Mapping[str, Mapping[str, dict[str, Any]]]
    signs: Mapping[str, Mapping[str, str]]

    @property
    def image_id(self) -> str:
        return str(self.sample["image_id"])

    @property
    def proposals_differ(self) -> bool:
        return self.signs[PROPOSALS] != self.written.labels.get(PROPOSALS, {})

    @property
    def labels_differ(self) -> bool:
        return any(self.signs[name] != self.written.labels.get(name, {}) for name in LABEL_FIELDS)


def sync_dataset(run: Run, dataset: Any, layer: ReviewedLayer, since: datetime | None = None) -> int:
    """Write all changes that a dataset holds and the layer does not yet have into the layer.

    Args:
        run: The run, opened.
        dataset: Its FiftyOne dataset.
        layer: Of the run; grows.
        since: Only look at samples that were saved after this time (UTC); None looks at all.

    Returns:
        How many images had changes.

    Raises:
        UserError: The layer cannot be written.
    """
    collection = dataset._sample_collection
    found: dict[str, Any] = {"image_id": {"$ne": None}, "written": {"$ne": None}}
    if since is not None:
        found["last_modified_at"] = {"$gt": since - _CLOCK_SLACK}
    count = 0
    for edited in _chunks(collection.find(found, dict.fromkeys(_FIELDS, 1)).batch_size(_CHUNK)):
        count += _sync_chunk(run, collection, layer, edited)
    return count + _sync_presence(run, dataset, layer, quick=since is not None)


def _chunks(samples: Iterator[Mapping[str, Any]]) -> Iterator[list[_Edited]]:
    chunk: list[_Edited] = []
    for sample in samples:
        written = Written.from_document(sample["written"])
        if written is None:
            continue
        labels = {name: labels_of(sample, name) for name in LABEL_FIELDS}
        edited = _Edited(sample, written, labels, {name: sign_labels(found) for name, found in labels.items()})
        if edited.labels_differ or own_tags(sample.get("tags")) != written.tags:
            chunk.append(edited)
        if len(chunk) >= _CHUNK:
            yield chunk
            chunk = []
    yield chunk


def _sync_chunk(run: Run, collection: Any, layer: ReviewedLayer, edited: Sequence[_Edited]) -> int:
    from pymongo import UpdateOne

    if not edited:
        return 0
    base = read_base(run, [sample.image_id for sample in edited])
    changes, marks = [], []
    for sample in edited:
        state = layer.images.get(sample.image_id)
        found = _changes(sample, state, base.get(sample.image_id))
        changes += found
        # Else the next ingest has something to write: the layer was ahead, or a proposal became a label.
        was_equal = sample.written.state == (state.digest() if state else "") and not sample.proposals_differ
        after = replay(found, layer.images).get(sample.image_id, state)
        seen = replace(
            sample.written,
            state=after.digest() if after and was_equal else sample.written.state,
            tags=own_tags(sample.sample.get("tags")),
            labels=sample.signs,
            places={name: place_labels(found) for name, found in sample.labels.items()},
        )
        marks.append(UpdateOne({"_id": sample.sample["_id"]}, {"$set": {"written": seen.to_document()}}))
    layer.add(changes)
    collection.bulk_write(marks, ordered=False)
    return len({change.image.image_id for change in changes})


def _changes(edited: _Edited, state: ReviewedImage | None, base: BaseLabels | None) -> list[Change]:
    """Return what a person did to one image since it was last seen."""
    image = _image_ref(edited, state, base)
    tags = tag_changes(image, state.tags if state else (), _merged_tags(edited, state))
    is_accepted = ACCEPTED_TAG in own_tags(edited.sample.get("tags")) and ACCEPTED_TAG not in edited.written.tags
    if not all(image.image_hw) or not (edited.labels_differ or is_accepted):
        return tags
    start: list[Change] = []
    as_it_is: set[str] = set()
    if state is None or state.objects is None:
        if base is not None and base.digest == edited.written.row:
            start = take_labels(image, base.objects, base.digest)
        else:
            start = take_labels(image, _still_there(edited, image), edited.written.row)
            as_it_is = _changed_keys(edited)
        state = replay(start, {image.image_id: state} if state else None)[image.image_id]
    objects = {found.object_id: found for found in state.objects or () if found.object_id not in as_it_is}
    removed = {found.object_id for found in state.removed}
    proposed = base.objects if base is not None and base.digest == edited.written.row else ()
    changes = _object_changes(edited, image, objects, removed)
    changes += _proposal_changes(edited, image, {found.object_id: found for found in proposed}, {*objects, *removed})
    return start + changes + tags


def _merged_tags(edited: _Edited, state: ReviewedImage | None) -> tuple[str, ...]:
    """Return the layer's tags of an image with what changed in the dataset since it was last seen."""
    now, before = {*own_tags(edited.sample.get("tags"))}, {*edited.written.tags}
    return tuple(sorted(({*(state.tags if state else before)} | (now - before)) - (before - now)))


def _image_ref(edited: _Edited, state: ReviewedImage | None, base: BaseLabels | None) -> ImageRef:
    sample = edited.sample
    metadata = sample.get("metadata") or {}
    image_hw = (int(metadata.get("height") or 0), int(metadata.get("width") or 0))
    for known in (state.image if state else None, base.image if base else None):
        if not all(image_hw) and known is not None:
            image_hw = known.image_hw
    if not all(image_hw):
        image_hw = _read_size(Path(sample["filepath"]))
    return ImageRef(edited.image_id, sample["path"], image_hw)


def _read_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an upright image; (0, 0) where it cannot be read, and then it has no labels."""
    try:
        width, height = upright_size(path)
    except (OSError, ValueError, SyntaxError, DecompressionBombError):
        return 0, 0
    return height, width


def _still_there(edited: _Edited, image: ImageRef) -> list[ReviewedObject]:
    """Return the objects that were written and are still there, from the sample itself: the run's row is gone."""
    before = edited.written.labels.get(PREDICTIONS, {})
    documents = {key: document for key, document in edited.labels[PREDICTIONS].items() if key in before}
    objects = (document_to_object(found, key, image.image_hw, None, False) for key, found in documents.items())
    return [found for found in objects if found is not None]


def _changed_keys(edited: _Edited) -> set[str]:
    before = edited.written.labels.get(PREDICTIONS, {})
    return {key for key, sign in edited.signs[PREDICTIONS].items() if before.get(key) not in (None, sign)}


def _object_changes(
    edited: _Edited, image: ImageRef, objects: Mapping[str, ReviewedObject], removed: set[str]
) -> list[Change]:
    changes: list[Change] = []
    for name in (PREDICTIONS, POLYGONS):
        before = edited.written.labels.get(name, {})
        now = edited.signs[name]
        for key in before:
            if key not in now and key not in removed and not _moved_elsewhere(edited, name, key):
                changes.append(_deleted(edited, image, name, key, objects.get(key)))
        for key, sign in now.items():
            if sign != before.get(key):
                changes += _one_object(edited, image, name, key, objects.get(key))
    return changes


def _deleted(edited: _Edited, image: ImageRef, name: str, key: str, known: ReviewedObject | None) -> Change:
    """Return the deletion of a label; where its row is gone by now, the note knows its class and place."""
    place = edited.written.places.get(name, {}).get(key)
    before = place.to_object(key, image.image_hw) if known is None and place is not None else known
    return Change(image, Kind.DELETED, key, before=before)


def _moved_elsewhere(edited: _Edited, name: str, key: str) -> bool:
    return any(key in edited.labels[other] for other in (PREDICTIONS, POLYGONS) if other != name)


def _one_object(edited: _Edited, image: ImageRef, name: str, key: str, known: ReviewedObject | None) -> list[Change]:
    """Return the changes of one label that is new or not what was written."""
    document = edited.labels[name][key]
    old, new = edited.written.labels.get(name, {}).get(key, "").split(), edited.signs[name][key].split()
    parts_differ = [new[part] != old[part] for part in range(len(new))] if old else [True] * len(new)
    _, box_differs, mask_differs, _ = parts_differ
    shape_is_known = known is not None and not box_differs and not mask_differs
    after = document_to_object(document, key, image.image_hw, known, shape_is_known)
    if after is None:
        return []
    if known is not None:
        if old and not parts_differ[0]:  # what the dataset did not change may be newer in the layer
            after = replace(after, class_name=known.class_name)
        if old and not parts_differ[3]:
            after = replace(after, tags=known.tags, attributes=known.attributes)
        return object_changes(image, known, after, brushed=mask_differs)
    if not old:
        return [Change(image, Kind.ADDED, key, after=after)]
    after = replace(after, origin="model+human" if after.origin == "model" else after.origin)
    kinds = (Kind.RELABELLED, Kind.BOX, Kind.MASK, Kind.TAG)
    return [Change(image, kind, key, after=after) for kind, differs in zip(kinds, parts_differ, strict=True) if differs]


def _proposal_changes(
    edited: _Edited, image: ImageRef, proposed: Mapping[str, ReviewedObject], decided: set[str]
) -> list[Change]:
    """Return what became of proposals: accepted ones are labels from now on, deleted and rejected ones are refused."""
    changes: list[Change] = []
    documents = edited.labels[PROPOSALS]
    for key in edited.written.labels.get(PROPOSALS, {}):
        if key not in documents and key not in decided:
            changes.append(_deleted(edited, image, PROPOSALS, key, proposed.get(key)))
    for key, document in documents.items():
        tags = document.get("tags") or ()
        if key in decided or not {ACCEPTED_TAG, REJECTED_TAG}.intersection(tags):
            continue
        known = proposed.get(key)
        found = document_to_object(document, key, image.image_hw, known, known is not None)
        if found is not None and found.is_rejected:
            changes.append(Change(image, Kind.DELETED, key, before=found))
        elif found is not None:
            changes.append(Change(image, Kind.ADDED, key, after=found))
    return changes


def _sync_presence(run: Run, dataset: Any, layer: ReviewedLayer, quick: bool) -> int:
    """Find images that a person took out of the dataset or put back."""
    present = PresentImages(dataset)
    if quick and not present.may_have_changed():
        return 0
    known, there = present.recorded(), present.now()
    gone = [key for key in known - there if not _is_deleted(layer, key)]
    back = [key for key in there - known if _is_deleted(layer, key)]
    base = read_base(run, gone)
    changes = [
        Change(base[key].image if key in base else ImageRef(key, "", (0, 0)), Kind.IMAGE_DELETED)
        for key in sorted(gone)
    ]
    changes += [Change(layer.images[key].image, Kind.IMAGE_RESTORED) for key in sorted(back)]
    layer.add(changes)
    if known and (back or known - there):
        present.record((known & there) | {*back})
    return len(changes)


def _is_deleted(layer: ReviewedLayer, image_id: str) -> bool:
    return image_id in layer.images and layer.images[image_id].deleted
