"""The manifest: an append-only list of the shards that make up a run.

One JSON object a line. A line is written at once and synced to disk before the next; a torn last line (the writer
died in the middle) or a damaged one is ignored, because its shard can be described again from the file itself.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

MANIFEST_NAME = "manifest.jsonl"


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest knows of one shard.

    Attributes:
        shard: File name in `shards/` (and in `timings/`).
        sha256: Of the label file, hexadecimal.
        size_bytes: Of the label file.
        first_path: Smallest stored path of its rows.
        ok_ids: Image ids with status ok.
        failed_ids: Image ids with status failed.
        instances: Objects in all rows.
        per_class: Objects by class name; classes without any are left out.
        drops: Boxes that the filters took away, by reason.
        seconds: Sum over the rows by stage: decode, detect, segment, encode.
    """

    shard: str
    sha256: str
    size_bytes: int
    first_path: str
    ok_ids: tuple[str, ...]
    failed_ids: tuple[str, ...]
    instances: int
    per_class: Mapping[str, int]
    drops: Mapping[str, int]
    seconds: Mapping[str, float]

    @property
    def ids(self) -> tuple[str, ...]:
        """All image ids of the shard."""
        return self.ok_ids + self.failed_ids

    def to_line(self) -> bytes:
        """Return the entry as one line with its newline."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self | None:
        """Return the entry of a line, or None when the line is damaged."""
        try:
            values = json.loads(line)
        except ValueError:
            return None
        if not isinstance(values, dict) or not {field.name for field in fields(cls)} <= values.keys():
            return None
        values = {field.name: values[field.name] for field in fields(cls)}
        values["ok_ids"], values["failed_ids"] = tuple(values["ok_ids"]), tuple(values["failed_ids"])
        return cls(**values)


@dataclass(frozen=True)
class RunCounts:
    """How many images and objects a run has.

    Attributes:
        total: Images with a row.
        ok: Images that were labelled, with or without objects.
        failed: Images that could not be labelled.
        instances: Objects in all images.
        per_class: Objects by class name, in the ontology's order; 0 where none was found.
    """

    total: int
    ok: int
    failed: int
    instances: int
    per_class: dict[str, int]


def count_entries(entries: Iterable[ShardEntry], class_names: Iterable[str]) -> RunCounts:
    """Add up the entries of a run.

    Args:
        entries: May be empty.
        class_names: All classes of the ontology, in its order.
    """
    ok = failed = instances = 0
    per_class: Counter[str] = Counter()
    for entry in entries:
        ok, failed, instances = ok + len(entry.ok_ids), failed + len(entry.failed_ids), instances + entry.instances
        per_class.update(entry.per_class)
    return RunCounts(ok + failed, ok, failed, instances, {name: per_class[name] for name in class_names})


def read_manifest(folder: Path) -> Iterator[ShardEntry]:
    """Yield the entries of a run's manifest in the order in which they were written; a shard named twice comes once.

    Args:
        folder: The run; a run without a manifest has no entries.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        return
    seen: set[str] = set()
    with path.open("rb") as lines:
        for line in lines:
            entry = ShardEntry.from_line(line)
            if entry is not None and entry.shard not in seen:
                seen.add(entry.shard)
                yield entry


class ManifestWriter:
    """Appends entries; the caller holds the run's lock.

    Args:
        folder: The run, which exists. A torn last line is cut off, so that the next one starts on its own.
    """

    def __init__(self, folder: Path) -> None:
        self._file = open(folder / MANIFEST_NAME, "a+b")  # noqa: SIM115 - closed by close()
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:
            start = max(keep - 65536, 0)
            self._file.seek(start)
            newline = self._file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep != end:
            self._file.truncate(keep)

    def append(self, entry: ShardEntry) -> None:
        """Write one entry and sync it to disk.

        Raises:
            OSError: The disk is full or gone.
        """
        self._file.write(entry.to_line())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; appending afterwards is an error."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
