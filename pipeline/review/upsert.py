"""Write rows of a run and reviewed images into a dataset: what is new and what changed, in one write a sample.

MongoDB changes a sample all at once, with the note of what was written (`written`): a killed ingest leaves a sample as
it was or complete.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.looks import read_looks
from pipeline.queues import QueueColumns
from pipeline.records import FailedImage, Record
from pipeline.review import schema
from pipeline.review.asked import asked_proposals, still_open
from pipeline.review.documents import keyed, object_to_document
from pipeline.review.mongod import cache_folder
from pipeline.review.schema import POLYGONS, PREDICTIONS, PROPOSALS
from pipeline.review.written import Written, labels_of, own_tags, place_labels, sign_labels
from pipeline.reviewed.changes import ReviewedImage, ReviewedObject
from pipeline.reviewed.convert import record_to_objects, row_digest
from pipeline.reviewed.proposals import find_proposals
from pipeline.store.run import Run

_LOOKERS = 2


@dataclass(frozen=True)
class _Present:
    """A sample that the dataset has already."""

    sample_id: Any
    image_id: str | None
    filepath: str
    written: Written | None
    tags: tuple[str, ...]
    polygons: frozenset[str]
    label_ids: Mapping[str, Any]
    asked: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class _Row:
    """One image as the dataset shall have it."""

    record: Record
    filepath: str
    state: ReviewedImage | None
    objects: tuple[ReviewedObject, ...]
    proposals: tuple[ReviewedObject, ...]
    row: str

    @property
    def state_digest(self) -> str:
        return self.state.digest() if self.state is not None else ""

    @property
    def image_hw(self) -> tuple[int, int] | None:
        if not isinstance(self.record, FailedImage):
            return self.record.image_hw
        known = self.state.image.image_hw if self.state is not None else (0, 0)
        return known if all(known) else None


class Upsert:
    """Writes rows, a chunk at a time.

    Args:
        dataset: A FiftyOne dataset with the declared fields, which has no changes that the layer does not know.
        run: The run that the rows are of.
        images: The reviewed state, by image id.
        columns: Collects what the queues are computed from.
        looks: At how many images to look for the queues.

    Attributes:
        added: Samples that are new.
        updated: Samples whose row or reviewed state had changed, without the kept ones.
        kept: Samples whose row had changed, but which a person has reviewed: the new labels are proposals there.
        proposals: Objects that are proposed in all images.
    """

    def __init__(
        self, dataset: Any, run: Run, images: Mapping[str, ReviewedImage], columns: QueueColumns, looks: int
    ) -> None:
        self._dataset, self._run, self._images, self._columns = dataset, run, images, columns
        self._looks_left = looks
        self._collection = dataset._sample_collection
        self._class_ids = {spec.name: spec.id for spec in run.ontology.classes}
        self.added = self.updated = self.kept = self.proposals = 0

    def write(self, records: Sequence[Record]) -> None:
        """Bring some rows into the dataset.

        Args:
            records: Few enough to be in memory with their labels.
        """
        rows = [self._row(record) for record in records]
        present = self._find_present(rows)
        stale = [present[row.record.image_id] for row in rows if row.record.image_id in present and _is_deleted(row)]
        if stale:
            self._dataset.delete_samples([str(sample.sample_id) for sample in stale])
        rows = [row for row in rows if not _is_deleted(row)]
        self._collect(rows)
        new = [row for row in rows if row.record.image_id not in present]
        old = [(present[row.record.image_id], row) for row in rows if row.record.image_id in present]
        changed = [(sample, row) for sample, row in old if not _is_current(sample, row)]
        self._move([(sample, row) for sample, row in old if _is_current(sample, row)])
        kept = sum(_is_kept(sample, row) for sample, row in changed)
        self.kept += kept
        self.added, self.updated = self.added + len(new), self.updated + len(changed) - kept
        self._save(self._add(new) + changed)

    def _row(self, record: Record) -> _Row:
        state = self._images.get(record.image_id)
        own, digest = record_to_objects(record), row_digest(record, self._run.fingerprint)
        filepath = _filepath(self._run, record)
        if state is None or state.objects is None:
            return _Row(record, filepath, state, own, (), digest)
        proposals = find_proposals(state, own) if digest != state.base else ()
        self.proposals += len(proposals)
        return _Row(record, filepath, state, state.objects, proposals, digest)

    def _collect(self, rows: Sequence[_Row]) -> None:
        for row, looks in zip(rows, self._look(rows), strict=True):
            over = row.state is not None and row.state.is_accepted, isinstance(row.record, FailedImage)
            self._columns.add(
                *(row.record.image_id, row.record.path, row.image_hw, row.objects, row.proposals, *over), looks
            )

    def _look(self, rows: Sequence[_Row]) -> list[NDArray[np.float32] | None]:
        """Look at the images, as long as there are some left to be looked at."""

        def look(row: _Row) -> NDArray[np.float32] | None:
            if row.image_hw is None or not row.objects:
                return None
            return read_looks(self._run.image_path(row.record), row.image_hw, row.objects)

        count = min(len(rows), self._looks_left)
        self._looks_left -= count
        with ThreadPoolExecutor(_LOOKERS) as threads:
            return [*threads.map(look, rows[:count]), *[None] * (len(rows) - count)]

    def _find_present(self, rows: Sequence[_Row]) -> dict[str, _Present]:
        """Return the samples of some images, by image id; one with the same file but another id counts."""
        ids = [row.record.image_id for row in rows]
        either = [{"image_id": {"$in": ids}}, {"filepath": {"$in": [row.filepath for row in rows]}}]
        names = ("image_id", "filepath", "written", "tags", f"{POLYGONS}.polylines._id", PROPOSALS)
        keys = (f"{PREDICTIONS}.detections._id", f"{PREDICTIONS}.detections.object_id")
        by_id, by_path = {}, {}
        for found in self._collection.find({"$or": either}, dict.fromkeys([*names, *keys], 1)):
            labels = labels_of(found, PREDICTIONS)
            sample = _Present(
                found["_id"],
                found.get("image_id"),
                found["filepath"],
                Written.from_document(found.get("written")),
                tuple(found.get("tags") or ()),
                frozenset(labels_of(found, POLYGONS)),
                {key: label["_id"] for key, label in labels.items()},
                asked_proposals((found.get(PROPOSALS) or {}).get("detections") or ()),
            )
            by_id[sample.image_id], by_path[sample.filepath] = sample, sample
        paths = {row.record.image_id: row.filepath for row in rows}
        matched = {image_id: by_id.get(image_id) or by_path.get(path) for image_id, path in paths.items()}
        return {image_id: sample for image_id, sample in matched.items() if sample is not None}

    def _move(self, pairs: Sequence[tuple[_Present, _Row]]) -> None:
        """Write the image ids and file paths of samples that have others."""
        moved = {
            str(sample.sample_id): row
            for sample, row in pairs
            if (sample.image_id, sample.filepath) != (row.record.image_id, row.filepath)
        }
        if moved:
            ids = {sample_id: row.record.image_id for sample_id, row in moved.items()}
            self._dataset.set_values("image_id", ids, key_field="id", validate=False)
            paths = {sample_id: row.filepath for sample_id, row in moved.items()}
            self._dataset.set_values("filepath", paths, key_field="id", validate=False)

    def _add(self, rows: Sequence[_Row]) -> list[tuple[_Present, _Row]]:
        """Add samples without labels."""
        import fiftyone as fo
        from bson import ObjectId

        if not rows:
            return []
        samples = [fo.Sample(row.filepath) for row in rows]
        ids = self._dataset.add_samples(samples, validate=False, progress=False)
        empty = [_Present(ObjectId(sample_id), None, "", None, (), frozenset(), {}) for sample_id in ids]
        return list(zip(empty, rows, strict=True))

    def _save(self, pairs: Sequence[tuple[_Present, _Row]]) -> None:
        from pymongo import UpdateOne

        if not pairs:
            return
        now = datetime.now(UTC)
        operations = [
            UpdateOne({"_id": sample.sample_id}, {"$set": self._document(sample, row) | {"last_modified_at": now}})
            for sample, row in pairs
        ]
        self._dataset._bulk_write(operations, ids=[str(sample.sample_id) for sample, _ in pairs])

    def _document(self, sample: _Present, row: _Row) -> dict[str, Any]:
        """Return all that we write into one sample."""
        record, failed = row.record, isinstance(row.record, FailedImage)
        tags = row.state.tags if row.state is not None else own_tags(sample.tags)
        kept = [found for found in row.objects if found.object_id not in sample.polygons]
        predictions = self._labels(row, kept, sample.label_ids)
        removed = row.state.removed if row.state is not None else ()
        asked = still_open(sample.asked, record, row.image_hw, (*row.objects, *row.proposals), removed)
        proposals = [*self._labels(row, row.proposals, {}), *asked]
        labels = {PREDICTIONS: keyed(predictions), PROPOSALS: keyed(proposals)}
        signs = {name: sign_labels(found) for name, found in labels.items()}
        places = {name: place_labels(found) for name, found in labels.items()}
        if sample.written is not None:
            signs[POLYGONS] = dict(sample.written.labels.get(POLYGONS, {}))
        written = Written(row.row, row.state_digest, own_tags(tags), signs, places)
        gone = [schema.GONE_TAG] if schema.GONE_TAG in sample.tags else []
        document = {
            "image_id": record.image_id,
            "path": record.path,
            "filepath": row.filepath,
            "fingerprint": self._run.fingerprint,
            "reason": record.reason if isinstance(record, FailedImage) else "",
            "tags": [*own_tags(tags), *gone, *([schema.FAILED_TAG] if failed else [])],
            PREDICTIONS: None if failed and not kept else {"_cls": "Detections", "detections": predictions},
            PROPOSALS: {"_cls": "Detections", "detections": proposals} if proposals else None,
            "written": written.to_document(),
        }
        if row.image_hw is not None:
            height, width = row.image_hw
            document["metadata"] = {"_cls": "ImageMetadata", "width": width, "height": height, "num_channels": 3}
        return document

    def _labels(
        self, row: _Row, objects: Sequence[ReviewedObject], label_ids: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        from bson import ObjectId

        if row.image_hw is None:
            return []
        return [
            object_to_document(
                found,
                row.image_hw,
                self._class_ids.get(found.class_name),
                label_ids.get(found.object_id) or ObjectId(),
            )
            for found in objects
        ]


def _is_deleted(row: _Row) -> bool:
    return row.state is not None and row.state.deleted


def _is_current(sample: _Present, row: _Row) -> bool:
    """Say whether a sample holds what it shall hold."""
    written = sample.written
    return written is not None and (written.row, written.state) == (row.row, row.state_digest)


def _is_kept(sample: _Present, row: _Row) -> bool:
    """Say whether the run has a new row for an image that a person has reviewed."""
    reviewed = row.state is not None and row.state.objects is not None
    return reviewed and sample.written is not None and sample.written.row != row.row


def _filepath(run: Run, record: Record) -> str:
    """Return an image's absolute path; a link to it in the cache where its name is not valid text for a database."""
    path = run.image_path(record).absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        suffix = path.suffix if path.suffix.isascii() else ""
        link = cache_folder() / "links" / schema.dataset_name(run.folder) / f"{record.image_id}{suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        return str(link)
    return str(path)


def set_tag(dataset: Any, tag: str, wanted: set[str], among: Mapping[str, Any]) -> None:
    """Give a tag to these samples and take it from the others among some; other tags stay."""
    if not among:
        return
    tagged = set(dataset.select(list(among)).match_tags(tag).values("id"))
    if wanted - tagged:
        dataset.select(list(wanted - tagged)).tag_samples(tag)
    if tagged - wanted:
        dataset.select(list(tagged - wanted)).untag_samples(tag)
