"""Write rows of a run into a dataset: what is new, what changed, and nothing that a person changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.records import AnnotatedImage, FailedImage, Record
from pipeline.review import schema
from pipeline.review.mongod import cache_folder
from pipeline.store.run import Run


@dataclass(frozen=True)
class _Present:
    """A sample that the dataset has already."""

    sample_id: str
    image_id: str | None
    filepath: str
    ingested: str | None
    tags: tuple[str, ...]


def write_chunk(dataset: Any, run: Run, records: Sequence[Record]) -> dict[str, int]:
    """Bring some rows into the dataset.

    Args:
        dataset: A FiftyOne dataset with the declared fields.
        run: The run that the rows are of.
        records: Few enough to be in memory with their labels.

    Returns:
        How many samples were "added", "updated", and "kept" although their row had changed.
    """
    filepaths = {record.image_id: _filepath(run, record) for record in records}
    present = _find_present(dataset, filepaths)
    new = [record for record in records if record.image_id not in present]
    old = [(present[record.image_id], record) for record in records if record.image_id in present]
    _move(dataset, [(sample, record.image_id, filepaths[record.image_id]) for sample, record in old])
    changed = {
        sample.sample_id: record
        for sample, record in old
        if (sample.ingested or "").split(":")[0] != schema.record_digest(record, run.fingerprint)
    }
    kept = _belongs_to_a_person(dataset, [present[record.image_id] for record in changed.values()])
    updates = {sample_id: record for sample_id, record in changed.items() if sample_id not in kept}
    _update(dataset, run, updates)
    added = _add(dataset, run, new, filepaths)
    failed = {sample_id for sample_id, record in updates.items() if isinstance(record, FailedImage)}
    set_tag(dataset, schema.FAILED_TAG, failed, updates)
    _set_labels(dataset, run, added | updates)
    return {"added": len(added), "updated": len(updates), "kept": len(kept)}


def _move(dataset: Any, rows: Sequence[tuple[_Present, str, str]]) -> None:
    """Write the image ids and file paths of samples that have others; rows are (sample, image id, file path)."""
    moved = [row for row in rows if (row[0].image_id, row[0].filepath) != row[1:]]
    if moved:
        ids = {sample.sample_id: image_id for sample, image_id, _ in moved}
        dataset.set_values("image_id", ids, key_field="id", validate=False)
        paths = {sample.sample_id: filepath for sample, _, filepath in moved}
        dataset.set_values("filepath", paths, key_field="id", validate=False)


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


def _find_present(dataset: Any, filepaths: dict[str, str]) -> dict[str, _Present]:
    """Return the samples of some images, by image id; one with the same file but another id counts."""
    either = [{"image_id": {"$in": list(filepaths)}}, {"filepath": {"$in": list(filepaths.values())}}]
    columns = dataset.match({"$or": either}).values(["id", "image_id", "filepath", "ingested", "tags"])
    by_id, by_path = {}, {}
    for sample_id, image_id, filepath, ingested, tags in zip(*columns, strict=True):
        sample = _Present(sample_id, image_id, filepath, ingested, tuple(tags or ()))
        by_id[image_id], by_path[filepath] = sample, sample
    found = {image_id: by_id.get(image_id) or by_path.get(path) for image_id, path in filepaths.items()}
    return {image_id: sample for image_id, sample in found.items() if sample is not None}


def _belongs_to_a_person(dataset: Any, samples: Sequence[_Present]) -> set[str]:
    """Return the ids of those samples whose labels a person changed, or that are tagged `reviewed`."""
    kept = {sample.sample_id for sample in samples if schema.REVIEWED_TAG in sample.tags}
    written = {
        sample.sample_id: sample.ingested.split(":")[1]
        for sample in samples
        if sample.ingested and sample.sample_id not in kept
    }
    if written:
        for sample in dataset.select(list(written)).select_fields(schema.PREDICTIONS):
            if schema.labels_digest(sample[schema.PREDICTIONS]) != written[sample.id]:
                kept.add(sample.id)
    return kept


def _scalars(run: Run, record: Record) -> dict[str, Any]:
    import fiftyone as fo

    reason, metadata = "", None
    if isinstance(record, FailedImage):
        reason = record.reason
    else:
        height, width = record.image_hw
        metadata = fo.ImageMetadata(width=width, height=height, num_channels=3)
    return {
        "image_id": record.image_id,
        "path": record.path,
        "fingerprint": run.fingerprint,
        "reason": reason,
        "metadata": metadata,
    }


def _add(dataset: Any, run: Run, records: Sequence[Record], filepaths: dict[str, str]) -> dict[str, Record]:
    """Add samples without labels; returns the records by sample id."""
    import fiftyone as fo

    if not records:
        return {}
    samples = []
    for record in records:
        tags = [schema.FAILED_TAG] if isinstance(record, FailedImage) else []
        samples.append(fo.Sample(filepaths[record.image_id], tags=tags, **_scalars(run, record)))
    return dict(zip(dataset.add_samples(samples, validate=False, progress=False), records, strict=True))


def _update(dataset: Any, run: Run, updates: dict[str, Record]) -> None:
    """Write new scalars; the digests go first, so that labels of a killed update don't pass for a person's."""
    if not updates:
        return
    dataset.set_values("ingested", dict.fromkeys(updates), key_field="id", validate=False)
    rows = {sample_id: _scalars(run, record) for sample_id, record in updates.items()}
    for name in next(iter(rows.values())):
        values = {sample_id: row[name] for sample_id, row in rows.items()}
        dataset.set_values(name, values, key_field="id", validate=False)


def _set_labels(dataset: Any, run: Run, records: dict[str, Record]) -> None:
    """Write labels, then the digests that say that they are complete."""
    if not records:
        return
    labels, digests = {}, {}
    for sample_id, record in records.items():
        found = schema.record_to_detections(record) if isinstance(record, AnnotatedImage) else None
        labels[sample_id] = found
        digests[sample_id] = f"{schema.record_digest(record, run.fingerprint)}:{schema.labels_digest(found)}"
    dataset.set_values(schema.PREDICTIONS, labels, key_field="id", validate=False)
    dataset.set_values("ingested", digests, key_field="id", validate=False)


def set_tag(dataset: Any, tag: str, wanted: set[str], among: dict[str, Any]) -> None:
    """Give a tag to these samples and take it from the others among some; other tags stay."""
    if not among:
        return
    tagged = set(dataset.select(list(among)).match_tags(tag).values("id"))
    if wanted - tagged:
        dataset.select(list(wanted - tagged)).tag_samples(tag)
    if tagged - wanted:
        dataset.select(list(tagged - wanted)).untag_samples(tag)
