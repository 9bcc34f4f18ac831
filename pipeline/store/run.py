"""One run, opened for reading."""

import heapq
import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq

from models.ontology import Ontology
from pipeline.errors import UserError
from pipeline.paths import stored_to_path
from pipeline.records import AnnotatedImage, FailedImage, Record, table_to_records
from pipeline.store.manifest import RunCounts, ShardEntry, count_entries, read_manifest

RUN_FILE = "run.json"
SHARDS_FOLDER = "shards"
TIMINGS_FOLDER = "timings"
REVIEWED_FOLDER = "reviewed"


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds a run."""
    return (folder / RUN_FILE).is_file() and (folder / SHARDS_FOLDER).is_dir()


class Run:
    """One run folder, opened for reading; it sees the shards that the manifest names when it is first asked for them.

    Attributes:
        folder: The run folder.
        images_root: Absolute folder that the stored paths start from.
        ontology: The classes and prompts of the run.
        fingerprint: Of everything that makes a row; the same in each of its rows.
        settings: `run.json` as it is: the fingerprint's parts, versions, the annotate options.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        self.images_root = Path(stored_to_path(settings["images_root"]))
        self.ontology = Ontology.from_dict(settings["ontology"])
        self.fingerprint: str = settings["fingerprint"]

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a run folder.

        Raises:
            UserError: There is no such folder, it is not a run, or its run.json is damaged.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such run folder; `groundlabel annotate … --output {folder}` makes one")
        if not is_run(folder):
            raise UserError(f"{folder}: not a run of groundlabel annotate ({RUN_FILE} or {SHARDS_FOLDER}/ is missing)")
        try:
            return cls(folder, json.loads((folder / RUN_FILE).read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / RUN_FILE}: damaged ({error!r}); annotate again into another folder") from error

    @cached_property
    def entries(self) -> tuple[ShardEntry, ...]:
        """The manifest's entries, in the order in which they were written."""
        return tuple(read_manifest(self.folder))

    def first_entries(self, count: int) -> list[ShardEntry]:
        """Return the first entries of the manifest, without holding the others."""
        return list(islice(read_manifest(self.folder), count))

    def counts(self) -> RunCounts:
        """Return how many images and objects the run has, from the manifest alone, which is read anew."""
        return count_entries(read_manifest(self.folder), (spec.name for spec in self.ontology.classes))

    def image_path(self, record: Record) -> Path:
        """Return the absolute path of a record's image."""
        return self.images_root / stored_to_path(record.path)

    def records(self) -> Iterator[Record]:
        """Yield all records in the order of their paths, each image id once.

        Only the shards whose ranges of paths overlap are in memory together.

        Raises:
            UserError: A shard is missing or cannot be read.
        """
        return self.merge((entry.first_path, entry.shard) for entry in self.entries)

    def annotated(self) -> Iterator[AnnotatedImage]:
        """Yield the records with status ok, in the order of their paths."""
        return (record for record in self.records() if isinstance(record, AnnotatedImage))

    def failed(self) -> Iterator[FailedImage]:
        """Yield the records with status failed, in the order of their paths; other shards are not read."""
        shards = ((entry.first_path, entry.shard) for entry in read_manifest(self.folder) if entry.failed)
        return (record for record in self.merge(shards) if isinstance(record, FailedImage))

    def merge(self, shards: Iterable[tuple[str, str]]) -> Iterator[Record]:
        """Yield the records of some shards in the order of their paths.

        Args:
            shards: (smallest path, name) of each.

        Raises:
            UserError: A shard is missing or cannot be read.
        """
        waiting = sorted(shards, reverse=True)
        opened: list[tuple[str, str, int, Record, Iterator[Record]]] = []
        last_path: str | None = None
        serial = 0
        while waiting or opened:
            while waiting and (not opened or waiting[-1][0] <= opened[0][0]):
                rows = self._sorted_rows(waiting.pop()[1])
                if (first := next(rows, None)) is not None:
                    serial += 1
                    heapq.heappush(opened, (first.path, first.image_id, serial, first, rows))
            if not opened:
                continue
            path, _, _, record, rows = heapq.heappop(opened)
            if path != last_path:
                last_path = path
                yield record
            if (following := next(rows, None)) is not None:
                serial += 1
                heapq.heappush(opened, (following.path, following.image_id, serial, following, rows))

    def _sorted_rows(self, shard: str) -> Iterator[Record]:
        path = self.folder / SHARDS_FOLDER / shard
        try:
            table = pq.read_table(path, memory_map=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: the manifest names this shard, but it cannot be read ({error}); "
                f"`groundlabel verify {self.folder} --repair` and annotate again to compute its images anew"
            ) from error
        return iter(sorted(table_to_records(table), key=lambda record: record.path))
