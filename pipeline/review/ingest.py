"""Bring a run into a persistent FiftyOne dataset: an upsert that a person's work survives.

The dataset is a view of the shards and of the run's reviewed layer. What people changed in it goes into the layer first
(`sync`); then each sample whose row or reviewed state is not what was written into it is written anew. In images that
a person reviewed, the labels are the layer's, and what a later run finds there besides is kept apart as proposals.
"""

import contextlib
import fcntl
import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import UserError
from pipeline.image_features import read_vectors
from pipeline.queues import QueueColumns, score_images
from pipeline.records import AnnotatedImage, FailedImage
from pipeline.review import schema
from pipeline.review.database import REACH_SECONDS
from pipeline.review.likeness import write_likeness
from pipeline.review.missed import write_missed
from pipeline.review.mongod import cache_folder
from pipeline.review.present import PresentImages
from pipeline.review.schema import dataset_name
from pipeline.review.sync import sync_dataset
from pipeline.review.upsert import Upsert, set_tag
from pipeline.review.views import save_views, write_queues
from pipeline.reviewed.labels import reviewed_ontology
from pipeline.reviewed.layer import ReviewedLayer
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
        updated: Samples whose row or reviewed state had changed.
        kept: Samples whose row had changed, but which a person has reviewed: new labels are proposals there.
        gone: Samples whose image is not in the run any more; tagged `not_in_run`, not deleted.
        deleted: Images of the run that a person took out of the dataset.
        proposals: Objects that are proposed in reviewed images.
        changes: What people had changed since the last ingest or sync, by kind.
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
    deleted: int = 0
    proposals: int = 0
    changes: Mapping[str, int] = field(default_factory=dict)


def ingest(run: Run, progress: Callable[[int], None] | None = None, looks: int = 0) -> IngestResult:
    """Make a run's dataset equal to its shards and its reviewed layer, after a sync of what people changed there.

    May be killed at any time and run again. FiftyOne must be connected (`pipeline.review.connection`).

    Args:
        run: The run, opened.
        progress: Called with the number of rows done so far.
        looks: At how many images to look for the queues; the others are judged by their labels alone.

    Raises:
        UserError: The dataset of this name belongs to another run, or the reviewed layer cannot be read or written.
    """
    name = dataset_name(run.folder)
    with only_writer(name):
        layer = ReviewedLayer(run.folder)
        dataset = open_dataset(run, name)
        sync_dataset(run, dataset, layer)
        _offer_classes(run, dataset, layer)
        columns = QueueColumns()
        upsert = Upsert(dataset, run, layer.images, columns, looks)
        images = instances = failed = 0
        seen: set[str] = set()
        records = run.records()
        while chunk := list(itertools.islice(records, _CHUNK)):
            upsert.write(chunk)
            if not images:
                save_views(dataset)
            seen.update(record.image_id for record in chunk)
            images += len(chunk)
            failed += sum(isinstance(record, FailedImage) for record in chunk)
            instances += sum(len(record.instances) for record in chunk if isinstance(record, AnnotatedImage))
            if progress is not None:
                progress(images)
        gone = _tag_gone(dataset, seen)
        write_queues(dataset, score_images(columns))
        write_missed(dataset, run)
        write_likeness(dataset, read_vectors(run))
        _finish(dataset, run)
        deleted = sum(layer.images[image_id].deleted for image_id in seen & layer.images.keys())
        return IngestResult(
            *(name, dataset.slug, images, instances, failed),
            added=upsert.added,
            updated=upsert.updated,
            kept=upsert.kept,
            gone=gone,
            deleted=deleted,
            proposals=upsert.proposals,
            changes=dict(layer.counts),
        )


class Syncing:
    """Writes what people change in a run's dataset into the run's reviewed layer, as often as it is called.

    FiftyOne must be connected, and the run must have been ingested. The first call looks at all samples, later ones
    only at those that were saved since.

    Args:
        run: The run, opened.

    Attributes:
        changes: What was found so far, by kind.

    Raises:
        UserError: The run has no dataset in this database.
    """

    def __init__(self, run: Run) -> None:
        import fiftyone as fo

        self._run, self._name = run, dataset_name(run.folder)
        if not fo.dataset_exists(self._name):
            raise UserError(
                f"{run.folder}: FiftyOne's database here has no dataset of this run; `groundlabel review` makes it"
            )
        self._since: datetime | None = None
        self._layer: ReviewedLayer | None = None
        self.changes: Counter[str] = Counter()

    def __call__(self, everything: bool = False) -> int:
        """Sync; returns how many images had changes.

        Args:
            everything: Look at all samples, also where the App says that they were not saved.

        Raises:
            UserError: The layer cannot be read or written, or the database does not answer.
        """
        import fiftyone as fo
        from pymongo.errors import PyMongoError

        with only_writer(self._name):
            layer = self._layer if self._layer and self._layer.is_current() else ReviewedLayer(self._run.folder)
            before, started = layer.counts.copy(), datetime.now(UTC)
            try:
                dataset = fo.load_dataset(self._name)
                _check_owner(self._run, dataset)
                count = sync_dataset(self._run, dataset, layer, None if everything else self._since)
            except PyMongoError as error:
                raise UserError(
                    f"FiftyOne's database does not answer any more ({type(error).__name__}); corrections up to the "
                    f"last minute are in {layer.folder}, later ones are found by the next `groundlabel review`"
                ) from error
            self._since, self._layer = started, layer
        self.changes.update(layer.counts - before)
        return count

    def can_reach_database(self) -> bool:
        """Say whether the database answers; waits a few seconds where it does not."""
        import fiftyone as fo
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError

        milliseconds = int(1000 * REACH_SECONDS)
        client: MongoClient[Any] = MongoClient(fo.config.database_uri, serverSelectionTimeoutMS=milliseconds)
        try:
            with client:
                client.admin.command("ping")
        except PyMongoError:
            return False
        return True


@contextlib.contextmanager
def only_writer(name: str) -> Iterator[None]:
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


def open_dataset(run: Run, name: str) -> Any:
    """Load or make the dataset, with its fields, marked as incomplete."""
    import fiftyone as fo

    dataset = fo.load_dataset(name) if fo.dataset_exists(name) else fo.Dataset(name, persistent=True)
    _check_owner(run, dataset)
    dataset.persistent = True
    _repair_counts(dataset)
    schema.declare_fields(dataset)
    dataset.reload()  # or the default attributes of new label fields are not known yet
    known = dataset.info.get(_INFO_KEY, {})
    dataset.info[_INFO_KEY] = known | {"run": _folder_name(run), "complete": False}
    dataset.save()
    return dataset


def _folder_name(run: Run) -> str:
    return os.fsencode(run.folder.resolve()).decode(errors="backslashreplace")


def _check_owner(run: Run, dataset: Any) -> None:
    owner = dataset.info.get(_INFO_KEY, {}).get("run", _folder_name(run))
    if owner != _folder_name(run):
        raise UserError(
            f"the dataset {dataset.name} belongs to the run {owner}, not to {_folder_name(run)}; rename a folder"
        )


def _offer_classes(run: Run, dataset: Any, layer: ReviewedLayer) -> None:
    """Give the App the colours and the choice of classes; while the classes stay the same, both are the user's."""
    ontology = reviewed_ontology(run.ontology, layer.images.values())
    if dataset.info[_INFO_KEY].get("ontology") == ontology.to_dict():
        return
    dataset.app_config.color_scheme = schema.color_scheme(ontology)
    choices = schema.label_schemas(ontology)
    dataset.set_label_schemas(dataset.label_schemas | choices)
    dataset.activate_label_schemas(list(choices))
    dataset.info[_INFO_KEY] = {**dataset.info[_INFO_KEY], "ontology": ontology.to_dict()}
    dataset.save()


def _finish(dataset: Any, run: Run) -> None:
    """Have MongoDB put everything on the disk, then mark the dataset as complete."""
    import fiftyone.core.odm as foo

    connection = foo.get_db_conn()
    connection.client.admin.command("fsync")
    present = PresentImages(dataset)
    present.record(present.now())
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
