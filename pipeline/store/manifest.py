"""The manifest: an append-only list of what the run consists of, one JSON object a line.

- A line that names a shard makes it part of the run, in place of an earlier line of the same shard and of the shards
  in its `replaces`. So one line, complete or absent, exchanges shards for another.
- A line with `replaces` alone takes shards out.
- Each line starts with the CRC-32 of its rest. A torn last line (the writer died in the middle) or a damaged one
  counts as not written; its shard can be described again from the file itself.
"""

import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from pipeline.store.durable import write_parts

MANIFEST_NAME = "manifest.jsonl"
_ID_DIGITS = 16
_MARK_BYTES = 65536
_HEAD = re.compile(rb'\{"crc":"([0-9a-f]{8})",("replaces":\[([^\]]*)\],"shard":"([^"]*)".*)', re.DOTALL)
_IDS = re.compile(rb'"rows":(\d+),.*?,"ok":"([0-9a-f]*)","failed":"([0-9a-f]*)","stamps":"([0-9a-f]*)"', re.DOTALL)
"""Within a line that is whole. A quote inside of a text is escaped, so none of these can be part of one."""
_FIRST_FORMAT = b'{"shard":'


def _split_ids(text: str) -> tuple[str, ...]:
    return tuple(text[start : start + _ID_DIGITS] for start in range(0, len(text), _ID_DIGITS))


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """What the manifest knows of one shard.

    Attributes:
        shard: File name in `shards/` (and in `timings/`).
        sha256: Of the label file, hexadecimal.
        size_bytes: Of the label file.
        rows: In the label file.
        first_path: Smallest stored path of its rows.
        ok: Image ids with status ok, 16 digits each, one after the other.
        failed: Image ids with status failed, likewise.
        stamps: Size and time of each image file (`FileState.stamp`), in the order of ok and failed, 16 digits each.
        instances: Objects in all rows.
        per_class: Objects by class name; classes without any are left out.
        drops: Boxes that the filters took away, by reason.
        seconds: Sum over the rows by stage: decode, detect, segment, encode.
        slowest: Seconds of the slowest row.
        failures: (stored path, reason) of each failed row, in the order of failed.
        replaces: Shards that are no longer part of the run once this one is.
    """

    shard: str
    sha256: str
    size_bytes: int
    rows: int
    first_path: str
    ok: str
    failed: str
    stamps: str
    instances: int
    per_class: Mapping[str, int]
    drops: Mapping[str, int]
    seconds: Mapping[str, float]
    slowest: float
    failures: tuple[tuple[str, str], ...]
    replaces: tuple[str, ...] = field(default=(), compare=False)

    @property
    def ok_ids(self) -> tuple[str, ...]:
        """Image ids with status ok."""
        return _split_ids(self.ok)

    @property
    def failed_ids(self) -> tuple[str, ...]:
        """Image ids with status failed."""
        return _split_ids(self.failed)

    @property
    def ids(self) -> tuple[str, ...]:
        """All image ids of the shard, in the order of the stamps."""
        return _split_ids(self.ok + self.failed)

    @property
    def ok_count(self) -> int:
        """Images with status ok."""
        return len(self.ok) // _ID_DIGITS

    @property
    def failed_count(self) -> int:
        """Images with status failed."""
        return len(self.failed) // _ID_DIGITS

    def restamped(self, stamps: Mapping[int, int]) -> "ShardEntry":
        """Return the entry with some stamps replaced, by image id as a number."""
        own = _split_ids(self.stamps) or ("0" * _ID_DIGITS,) * self.rows
        new = (stamps.get(int(image_id, 16)) for image_id in self.ids)
        text = "".join(old if stamp is None else f"{stamp:016x}" for old, stamp in zip(own, new, strict=True))
        return replace(self, stamps=text, replaces=())

    def to_line(self) -> bytes:
        """Return the entry as one line with its newline."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return _to_line({"replaces": values.pop("replaces"), "shard": values.pop("shard"), **values})

    @classmethod
    def from_line(cls, line: bytes) -> Self | None:
        """Return the entry of a line, or None when the line is damaged or names no shard."""
        line = _modern(line)
        head = _head(line)
        return cls._from_whole(line) if head is not None and head[4] else None

    @classmethod
    def _from_whole(cls, line: bytes) -> Self | None:
        """Return the entry of a line that is known to be whole and to name a shard."""
        values = json.loads(line)
        try:
            values = {name: values[name] for name in _FIELDS}
        except KeyError:
            return None
        values["failures"] = tuple((path, reason) for path, reason in values["failures"])
        values["replaces"] = tuple(values["replaces"])
        return cls(**values)


class EntryIds(NamedTuple):
    """What an index needs of a line; the names are those of `ShardEntry`. A line that only replaces has no shard."""

    shard: str
    rows: int
    ok: str
    failed: str
    stamps: str
    replaces: tuple[str, ...]


_FIELDS = tuple(entry.name for entry in fields(ShardEntry))


def _to_line(values: Mapping[str, Any]) -> bytes:
    rest = json.dumps(values, separators=(",", ":"), allow_nan=False).encode()[1:] + b"\n"
    return b'{"crc":"%08x",' % zlib.crc32(rest) + rest


def removal_line(shards: Iterable[str]) -> bytes:
    """Return the line that takes shards out of the run."""
    return _to_line({"replaces": list(shards), "shard": ""})


def _head(line: bytes) -> re.Match[bytes] | None:
    """Return the match of a line that is whole (its groups 3 and 4: what it replaces, its shard), else None."""
    head = _HEAD.match(line)
    return head if head is not None and int(head[1], 16) == zlib.crc32(head[2]) else None


def line_head(line: bytes) -> tuple[tuple[str, ...], str] | None:
    """Return the shards that a line replaces, and its shard or nothing; None where the line is damaged."""
    return _read_head(_modern(line))


def _read_head(line: bytes) -> tuple[tuple[str, ...], str] | None:
    """Return the same of a line in the form of today."""
    head = _head(line)
    if head is None:
        return None
    return tuple(head[3].replace(b'"', b"").decode().split(",")) if head[3] else (), head[4].decode()


def _modern(line: bytes) -> bytes:
    """Return a line of groundlabel 0.1's first manifests in the form of today, and any other line as it is."""
    if not line.startswith(_FIRST_FORMAT) or not line.endswith(b"\n"):
        return line
    try:
        values = json.loads(line)
        ok, failed = values.pop("ok_ids"), values.pop("failed_ids")
    except (ValueError, KeyError):
        return line
    values |= {"ok": "".join(ok), "failed": "".join(failed), "rows": len(ok) + len(failed), "stamps": ""}
    values |= {"slowest": 0.0, "failures": [("", "unknown")] * len(failed)}
    return _to_line({"replaces": [], "shard": values.pop("shard"), **values})


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
        ok, failed, instances = ok + entry.ok_count, failed + entry.failed_count, instances + entry.instances
        per_class.update(entry.per_class)
    return RunCounts(ok + failed, ok, failed, instances, {name: per_class[name] for name in class_names})


@dataclass
class ManifestState:
    """What reading a manifest once shows.

    Attributes:
        lines: Number of the line that counts, by shard.
        count: Lines, damaged ones included.
        damaged: Lines that don't count because they are damaged.
        torn: The last line has no end: it is being written, or its writer died.
    """

    lines: dict[bytes, int] = field(default_factory=dict)
    count: int = 0
    damaged: int = 0
    torn: bool = False


def scan_manifest(stream: BinaryIO) -> ManifestState:
    """Find out which lines of a manifest count.

    Args:
        stream: At the first line.
    """
    state = ManifestState()
    for line in stream:
        head = _head(_modern(line))
        if not line.endswith(b"\n"):
            state.torn = True
        elif head is None:
            state.damaged += 1
        else:
            for replaced in head[3].replace(b'"', b"").split(b","):
                state.lines.pop(replaced, None)
            if head[4]:
                state.lines[head[4]] = state.count
        state.count += 1
    return state


def read_manifest(folder: Path) -> Iterator[ShardEntry]:
    """Yield the entries of the shards that make up a run, in the order in which they were written.

    The file is read twice, so that its entries need not be in memory together.

    Args:
        folder: The run; a run without a manifest has no entries.
    """
    for line in _counting_lines(folder):
        if (entry := ShardEntry._from_whole(line)) is not None:
            yield entry


def read_manifest_ids(folder: Path) -> Iterator[EntryIds]:
    """Yield the ids of each whole line, in one pass and a fraction of `read_manifest`'s time.

    Lines that later ones take the place of are among them: that shows only at the end.

    Args:
        folder: The run; a run without a manifest has no lines.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        return
    with path.open("rb") as stream:
        for line in map(_modern, stream):
            head = _read_head(line)
            if head is None:
                continue
            replaces, shard = head
            if not shard:
                yield EntryIds("", 0, "", "", "", replaces)
            elif found := _IDS.search(line):
                rows, ok, failed, stamps = found.groups()
                yield EntryIds(shard, int(rows), ok.decode(), failed.decode(), stamps.decode(), replaces)
            elif entry := ShardEntry._from_whole(line):  # of the first format, with its parts in another order
                yield EntryIds(entry.shard, entry.rows, entry.ok, entry.failed, entry.stamps, replaces)


def manifest_mark(folder: Path) -> str:
    """Return what tells one state of a run's manifest from another, without reading it whole."""
    path = folder / MANIFEST_NAME
    if not path.exists():
        return ""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - _MARK_BYTES, 0))
        return f"{size}-{zlib.crc32(stream.read()):08x}"


def _counting_lines(folder: Path) -> Iterator[bytes]:
    """Yield the lines that count, in the form of today."""
    path = folder / MANIFEST_NAME
    if not path.exists():
        return
    with path.open("rb") as stream:
        state = scan_manifest(stream)
        counts = bytearray(state.count)
        for number in state.lines.values():
            counts[number] = 1
        del state
        stream.seek(0)
        for counted, line in zip(counts, stream, strict=False):
            if counted:
                yield _modern(line)


class ManifestWriter:
    """Appends lines; the caller holds the run's lock.

    Args:
        folder: The run, which exists. A torn last line is cut off, so that the next one starts on its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = open(folder / MANIFEST_NAME, "a+b", buffering=0)  # noqa: SIM115 - closed by close()
        self._cut_torn_line()
        self._synced = True

    def _cut_torn_line(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        keep = end
        while keep > 0:
            start = max(keep - 65536, 0)
            self._file.seek(start)
            newline = self._file.read(keep - start).rfind(b"\n")  # a local file gives all that is asked for
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep != end:
            self._file.truncate(keep)

    def append(self, line: bytes) -> None:
        """Write one line, without waiting for the disk.

        Raises:
            OSError: The disk is full or gone; no part of the line stays.
        """
        start = self._file.seek(0, os.SEEK_END)
        self._synced = False
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(start)
            raise

    def sync(self) -> None:
        """Wait until all lines are on the disk; costs nothing when they are.

        Raises:
            OSError: The disk is full or gone.
        """
        if not self._synced:
            os.fsync(self._file.fileno())
            self._synced = True

    def rewrite(self) -> None:
        """Write the manifest anew with the lines that count, complete or not at all.

        Raises:
            OSError: The disk is full or the folder cannot be written.
        """
        lines = (replace(entry, replaces=()).to_line() for entry in read_manifest(self._folder))
        write_parts(self._folder / MANIFEST_NAME, lines)
        self._file.close()
        self._file = open(self._folder / MANIFEST_NAME, "a+b", buffering=0)  # noqa: SIM115 - closed by close()

    def close(self) -> None:
        """Close the file; appending afterwards is an error."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
