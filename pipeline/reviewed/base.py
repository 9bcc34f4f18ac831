"""The run's own rows of a few images, without reading the other shards."""

from collections.abc import Collection
from dataclasses import dataclass

from pipeline.records import Record, table_to_records
from pipeline.reviewed.changes import ImageRef, ReviewedObject, record_ref
from pipeline.reviewed.convert import record_to_objects, row_digest
from pipeline.store.run import Run
from pipeline.store.shards import read_shard


@dataclass(frozen=True)
class BaseLabels:
    """What the run itself says of an image."""

    image: ImageRef
    objects: tuple[ReviewedObject, ...]
    digest: str


def base_labels(record: Record, fingerprint: str) -> BaseLabels:
    """Return a row as the labels that a review starts from."""
    return BaseLabels(record_ref(record), record_to_objects(record), row_digest(record, fingerprint))


def read_base(run: Run, image_ids: Collection[str]) -> dict[str, BaseLabels]:
    """Return the run's labels of some images, by image id; an image that the run does not have is not in it.

    Raises:
        UserError: A shard cannot be read.
    """
    wanted = set(image_ids)
    found: dict[str, BaseLabels] = {}
    for entry in run.entries if wanted else ():
        if wanted.isdisjoint(entry.ids):
            continue
        for record in table_to_records(read_shard(run.folder, entry.shard)):
            if record.image_id in wanted and record.image_id not in found:
                found[record.image_id] = base_labels(record, run.fingerprint)
    return found
