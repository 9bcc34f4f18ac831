"""The files of `reviewed/`: one a session, complete or absent, in the order of their names."""

import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.reviewed.changes import Change, ReviewedImage, replay
from pipeline.reviewed.table import changes_to_table, table_to_changes
from pipeline.store.durable import write_file
from pipeline.store.run import REVIEWED_FOLDER

_NAME = re.compile(r"(\d{15})-[0-9a-f]{8}\.parquet")


def has_layer(run_folder: Path) -> bool:
    """Tell whether a run has been reviewed."""
    return bool(layer_files(run_folder))


def layer_files(run_folder: Path) -> list[Path]:
    """Return the files of a run's reviewed layer, oldest first."""
    folder = run_folder / REVIEWED_FOLDER
    return sorted(path for path in folder.glob("*.parquet") if _NAME.fullmatch(path.name))


def read_changes(run_folder: Path) -> list[Change]:
    """Return all changes of a run's reviewed layer, in the order in which they were written.

    Raises:
        UserError: A file cannot be read or is of another version.
    """
    changes: list[Change] = []
    for path in layer_files(run_folder):
        try:
            table = pq.read_table(pa.BufferReader(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: a file of a person's corrections cannot be read ({error}); put it back from a copy, or move "
                "it away to go on without what it holds"
            ) from error
        changes += table_to_changes(table, str(path))
    return changes


class ReviewedLayer:
    """The reviewed state of a run, which grows by the changes of one session.

    Each session has a file of its own, so that folders that two machines wrote to can be put together. It is written
    anew with every `add`, and is complete or as it was before.

    Args:
        run_folder: The run, which exists; `reviewed/` is made when there is something to write.

    Attributes:
        folder: `reviewed/` of the run.
        images: State by image id, of each image that a person touched.
        counts: Changes made through this object by kind.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / REVIEWED_FOLDER
        self._session: list[Change] = []
        self._file: Path | None = None
        self._run_folder = run_folder
        self._known = layer_files(run_folder)
        self.images: dict[str, ReviewedImage] = replay(read_changes(run_folder))
        self.counts: Counter[str] = Counter()

    def is_current(self) -> bool:
        """Tell whether nobody else has written to the layer since it was opened."""
        return layer_files(self._run_folder) == sorted([*self._known, *([self._file] if self._file else [])])

    def add(self, changes: Sequence[Change]) -> None:
        """Write changes and play them; when this returns, the disk has them.

        Raises:
            UserError: The folder cannot be written.
        """
        if not changes:
            return
        try:
            self.folder.mkdir(exist_ok=True)
            if self._file is None:
                self._file = self._new_file()
            sink = pa.BufferOutputStream()
            pq.write_table(changes_to_table([*self._session, *changes]), sink, compression="zstd")
            write_file(self._file, memoryview(sink.getvalue()))
        except OSError as error:
            raise UserError(
                f"{self.folder}: the corrections cannot be written ({error.strerror or error}); they are still in "
                "FiftyOne's database: make room and run `groundlabel sync`"
            ) from error
        self._session += changes
        self.counts.update(str(change.kind) for change in changes)
        self.images.update(replay(changes, self.images))

    def _new_file(self) -> Path:
        """Return a name behind all that are there, also where the clock was set back."""
        names = sorted(path.name for path in self.folder.glob("*.parquet"))
        last = int(match[1]) if names and (match := _NAME.fullmatch(names[-1])) else 0
        return self.folder / f"{max(time.time_ns() // 1_000_000, last + 1):015}-{os.urandom(4).hex()}.parquet"
