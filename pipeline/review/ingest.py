"""Bring a run into a persistent FiftyOne dataset: an upsert that a person's work survives.

The dataset is a view of the shards. Each sample remembers digests of the run's row and of the labels that were made of
it: a row that did not change is not written again, and a sample whose labels are no longer what was written, or that
is tagged `reviewed`, belongs to a person and is left as it is.
"""

import contextlib
import fcntl
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.records import AnnotatedImage, FailedImage
from pipeline.review import schema
from pipeline.review.mongod import cache_folder
from pipeline.review.schema import dataset_name
from pipeline.review.upsert import set_tag, write_chunk
from pipeline.store.run import Run

_CHUNK = 200
_INFO_KEY = "groundlabel"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestResult:
    """What a dataset holds after an ingest, and what the ingest did.

    Attributes:
        dataset: Name of the FiftyOne dataset.
        slug: The name as it stands in the App's address.
        images: Rows of the run.
        instances: Objects in those rows.
        failed: Rows of images that could not be labelled; their samples are tagged `failed`.
        added: Samples that are new.
        updated: Samples whose row had changed.
        kept: Samples whose row had changed but which a person had edited or tagged `reviewed`; not written.
        gone: Samples whose image is not in the run any more; tagged `not_in_run`, not deleted.
    """

    dataset: str
    slug: str
    images: int
    instances: int
    failed: int
    added: int
    updated: int
    kept: int
    gone: int


def ingest(run: Run, progress: Callable[[int], None] | None = None) -> IngestResult:
    """Make a run's dataset equal to its shards, except for what a person changed.

    May be killed at any time and run again. FiftyOne must be connected (`pipeline.review.connection`).

    Args:
        run: The run, opened.
        progress: Called with the number of rows done so far.

    Raises:
        UserError: The dataset of this name belongs to another run.
    """
    name = dataset_name(run.folder)
    with _only_writer(name):
        dataset = _open_dataset(run, name)
        changes = {"added": 0, "updated": 0, "kept": 0}
        images = instances = failed = 0
        seen: set[str] = set()
        records = run.records()
        while chunk := list(itertools.islice(records, _CHUNK)):
            for key, count in write_chunk(dataset, run, chunk).items():
                changes[key] += count
            seen.update(record.image_id for record in chunk)
            images += len(chunk)
            failed += sum(isinstance(record, FailedImage) for record in chunk)
            instances += sum(len(record.instances) for record in chunk if isinstance(record, AnnotatedImage))
            if progress is not None:
                progress(images)
        gone = _tag_gone(dataset, seen)
        _finish(dataset, run)
        return IngestResult(name, dataset.slug, images, instances, failed, gone=gone, **changes)


@contextlib.contextmanager
def _only_writer(name: str) -> Iterator[None]:
    """Hold the right to write a dataset; waits where another process has it."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("another groundlabel is writing the dataset %s; waiting for it", name)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _open_dataset(run: Run, name: str) -> Any:
    """Load or make the dataset, with its fields, colours and label schema, marked as incomplete."""
    import fiftyone as fo

    folder = os.fsencode(run.folder.resolve()).decode(errors="backslashreplace")
    dataset = fo.load_dataset(name) if fo.dataset_exists(name) else fo.Dataset(name, persistent=True)
    known = dataset.info.get(_INFO_KEY, {})
    if known.get("run", folder) != folder:
        raise UserError(f"the dataset {name} belongs to the run {known['run']}, not to {folder}; rename a folder")
    dataset.persistent = True
    _repair_counts(dataset)
    schema.declare_fields(dataset)
    dataset.reload()  # or the default attributes of new label fields are not known yet
    ontology = run.ontology.to_dict()
    if known.get("ontology") != ontology:  # while it stays the same, colours and choices are the user's
        dataset.app_config.color_scheme = schema.color_scheme(run.ontology)
        choices = {schema.PREDICTIONS: schema.label_schema(run.ontology)}
        dataset.set_label_schemas(dataset.label_schemas | choices)
        dataset.activate_label_schemas(schema.PREDICTIONS)
    dataset.info[_INFO_KEY] = known | {"run": folder, "ontology": ontology, "complete": False}
    dataset.save()
    return dataset


def _finish(dataset: Any, run: Run) -> None:
    """Have MongoDB put everything on the disk, then mark the dataset as complete."""
    import fiftyone.core.odm as foo

    connection = foo.get_db_conn()
    connection.client.admin.command("fsync")
    dataset.info[_INFO_KEY] = {**dataset.info[_INFO_KEY], "complete": True, "fingerprint": run.fingerprint}
    dataset.save()
    connection.client.admin.command("fsync")


def _repair_counts(dataset: Any) -> None:
    """Mend the collection's own count, which is wrong after mongod was killed, and by which FiftyOne tells a length."""
    import fiftyone.core.odm as foo

    connection = foo.get_db_conn()
    collection = connection[dataset._sample_collection_name]
    if collection.estimated_document_count() != collection.count_documents({}):
        connection.command("validate", collection.name)


def _tag_gone(dataset: Any, seen: set[str]) -> int:
    """Tag the samples of images that the run does not have any more; returns how many there are."""
    columns = zip(*dataset.values(["id", "image_id"]), strict=True)
    ours = {sample_id: image_id for sample_id, image_id in columns if image_id is not None}
    gone = {sample_id for sample_id, image_id in ours.items() if image_id not in seen}
    set_tag(dataset, schema.GONE_TAG, gone, ours)
    return len(gone)
