"""What of a run is mirrored, and how what a mirror has comes into a run folder."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.store.durable import write_file, write_parts
from pipeline.store.index import IdIndex, ids_to_numbers
from pipeline.store.lock import RunLock
from pipeline.store.log import LOG_FILE
from pipeline.store.manifest import MANIFEST_NAME, ShardEntry, line_head, read_manifest
from pipeline.store.output import FAILED_FILE, PREFILTER_FILE, SUMMARY_FILE, SUMMARY_TEXT
from pipeline.store.remote import RemoteError, RemoteFolder, run_together
from pipeline.store.run import REVIEWED_FOLDER, RUN_FILE, SHARDS_FOLDER, TIMINGS_FOLDER

SETTINGS = (PREFILTER_FILE, RUN_FILE)
"""They are there before any row is."""
NOTES = (SUMMARY_FILE, SUMMARY_TEXT, FAILED_FILE, LOG_FILE)
"""They come at the end of a call."""
_SHARD = re.compile(r"[0-9a-f]{32}\.parquet")
_REVIEWED = re.compile(r"\d{15}-[0-9a-f]{8}\.parquet")
_CHUNK_BYTES = 1024**2


class NamedShards:
    """The shards that a manifest names, of its whole lines.

    Args:
        path: Of the manifest; it may not be there yet, and may grow.

    Attributes:
        shards: SHA-256 and size of each, by name.
        offset: Bytes of the lines that were read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.shards: dict[str, tuple[str, int]] = {}
        self.offset = 0

    def advance(self) -> None:
        """Read the lines that have come since.

        Raises:
            OSError: The manifest cannot be read.
        """
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self.offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # it is being written
                self.offset += len(line)
                if (head := line_head(line)) is None:
                    continue
                for name in head[0]:
                    self.shards.pop(name, None)
                if (entry := ShardEntry.from_line(line)) is not None:
                    self.shards[entry.shard] = (entry.sha256, entry.size_bytes)


def is_shard(name: str) -> bool:
    """Tell whether a file name is one that shards have."""
    return _SHARD.fullmatch(name) is not None


def reviewed_files(run_folder: Path) -> list[Path]:
    """Return the files of people's corrections, oldest first."""
    return sorted(path for path in (run_folder / REVIEWED_FOLDER).glob("*.parquet") if _REVIEWED.fullmatch(path.name))


def copy_start(source: Path, size: int, target: Path) -> None:
    """Copy the first bytes of a file, which may grow meanwhile, into a new one."""
    with source.open("rb") as stream, target.open("wb") as file:
        while size > 0 and (part := stream.read(min(size, _CHUNK_BYTES))):
            file.write(part)
            size -= len(part)


def fetch_missing(remote: RemoteFolder, glance: Path, output: Path) -> int:
    """Copy what a mirror has of a run and the folder lacks; safe to break off, the next call goes on.

    Into a folder without a run everything comes, `run.json` and the manifest last. A run that is there gets the shards
    none of whose images it has, for its next writer to adopt: rows that another machine made, or that a repair took
    out. Rows of failed images alone don't come, as a retry may just have taken them out.

    Args:
        remote: The mirror.
        glance: A folder with the mirror's manifest and settings.
        output: The run folder; it is made where it is missing.

    Returns:
        How many shards were copied; what the mirror lost or damaged is passed over, and computed again.

    Raises:
        UserError: The mirror cannot be read, or somebody writes to the folder.
        OSError: The folder cannot be written.
    """
    if wrong := [entry.shard for entry in read_manifest(glance) if not is_shard(entry.shard)]:
        raise RemoteError(f"{remote.address}/{MANIFEST_NAME}: names {wrong[0]!r}, which is no shard of a run")
    is_new = not (output / RUN_FILE).exists()
    for folder in (SHARDS_FOLDER, TIMINGS_FOLDER, REVIEWED_FOLDER) if is_new else ():
        (output / folder).mkdir(parents=True, exist_ok=True)
    fetched: list[str] = []

    def fetch(entry: ShardEntry) -> None:
        path = output / SHARDS_FOLDER / entry.shard
        if path.exists() and sha256(path.read_bytes()) == entry.sha256:
            return
        content = remote.read(f"{SHARDS_FOLDER}/{entry.shard}", entry.size_bytes)
        if content is None or sha256(content) != entry.sha256:
            return
        if (times := remote.read(f"{TIMINGS_FOLDER}/{entry.shard}")) is not None:
            write_file(output / TIMINGS_FOLDER / entry.shard, times)
        write_file(path, content)
        fetched.append(entry.shard)

    with RunLock(output):
        run_together(read_manifest(glance) if is_new else _lacking(glance, output), fetch)
        _fetch_reviewed(remote, output)
        if is_new:
            for name in (*NOTES, PREFILTER_FILE):
                if (content := remote.read(name)) is not None:
                    write_file(output / name, content)
            write_file(output / RUN_FILE, (glance / RUN_FILE).read_bytes())
            if (glance / MANIFEST_NAME).exists():  # without it, the next writer adopts the shards one by one
                with (glance / MANIFEST_NAME).open("rb") as stream:
                    write_parts(output / MANIFEST_NAME, iter(lambda: stream.read(_CHUNK_BYTES), b""))
    return len(fetched)


def _lacking(glance: Path, output: Path) -> Iterator[ShardEntry]:
    """Yield the entries of a mirror that have labelled images, none of which the run has."""
    index = IdIndex.read(output)
    known = set(index.names)
    for entry in read_manifest(glance):
        if entry.ok and entry.shard not in known and not (index.find(ids_to_numbers(entry.ids)) >= 0).any():
            yield entry


def _fetch_reviewed(remote: RemoteFolder, output: Path) -> None:
    """Copy people's corrections; a session's file only grows, so the larger one of two is the newer one."""
    folder = output / REVIEWED_FOLDER
    for name, size in sorted(remote.sizes(REVIEWED_FOLDER).items()):
        path = folder / name
        if not _REVIEWED.fullmatch(name) or (path.exists() and path.stat().st_size >= size):
            continue
        if (content := remote.read(f"{REVIEWED_FOLDER}/{name}", size)) is not None:
            folder.mkdir(exist_ok=True)
            write_file(path, content)


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(content).hexdigest()
