"""Shards: files of rows that are complete or absent.

A file is written under a temporary name in its own folder, flushed and synced, renamed onto its final name, and the
folder is synced. The final name is the hash of the rows' ids, so that the same images always make the same name.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.records import (
    TIMINGS_SCHEMA,
    ImageTiming,
    Record,
    check_schema,
    records_to_table,
    timings_to_table,
)
from pipeline.store.manifest import ShardEntry
from pipeline.store.run import SHARDS_FOLDER, TIMINGS_FOLDER

TEMPORARY = ".groundlabel-"
"""How the names of half-written files start."""
_DROPS_KEY = b"groundlabel_drops"
_STAGES = ("decode", "detect", "segment", "encode")


def shard_name(image_ids: Iterable[str]) -> str:
    """Return the file name of the shard that holds exactly these images, in whatever order they are given."""
    return hashlib.sha256("\n".join(sorted(image_ids)).encode()).hexdigest()[:32] + ".parquet"


def write_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is complete or absent, whatever dies.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing is left under the final name.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _table_bytes(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return memoryview(sink.getvalue())


def write_shard(
    run_folder: Path,
    records: Sequence[Record],
    timings: Sequence[ImageTiming],
    fingerprint: str,
    drops: Mapping[str, int],
) -> ShardEntry:
    """Commit rows as one shard; the timings go first, so that a label shard is never without them.

    Args:
        run_folder: With its `shards/` and `timings/`.
        records: At least one; stored in the order of their paths.
        timings: One a record.
        fingerprint: Of the run.
        drops: Boxes that the filters took away, by reason.

    Returns:
        The entry for the manifest.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    records = sorted(records, key=lambda record: record.path)
    name = shard_name(record.image_id for record in records)
    order = {record.image_id: row for row, record in enumerate(records)}
    times = timings_to_table(sorted(timings, key=lambda timing: order[timing.image_id]))
    table = records_to_table(records, fingerprint)
    drops_text = json.dumps({reason: drops[reason] for reason in sorted(drops) if drops[reason]})
    table = table.replace_schema_metadata({**table.schema.metadata, _DROPS_KEY: drops_text.encode()})
    content = _table_bytes(table)
    write_file(run_folder / TIMINGS_FOLDER / name, _table_bytes(times))
    write_file(run_folder / SHARDS_FOLDER / name, content)
    return _describe(name, table, times, content)


def _describe(name: str, table: pa.Table, times: pa.Table | None, content: bytes | memoryview) -> ShardEntry:
    failed = pc.equal(table.column("status"), "failed")
    class_names = pc.struct_field(pc.list_flatten(table.column("objects")), "class_name").to_pylist()
    seconds = {}
    if times is not None:
        for stage in _STAGES:
            column = times.column(f"seconds_{stage}").to_numpy()
            seconds[stage] = round(float(np.sum(column, dtype=np.float64)), 4)
    return ShardEntry(
        shard=name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        first_path=min(table.column("path").to_pylist()),
        ok_ids=tuple(table.filter(pc.invert(failed)).column("image_id").to_pylist()),
        failed_ids=tuple(table.filter(failed).column("image_id").to_pylist()),
        instances=len(class_names),
        per_class=dict(sorted(Counter(class_names).items())),
        drops=json.loads(table.schema.metadata.get(_DROPS_KEY, b"{}")),
        seconds=seconds,
    )


def describe_shard(run_folder: Path, name: str, fingerprint: str) -> ShardEntry | None:
    """Return the manifest entry of a shard on disk, from the file itself.

    Args:
        run_folder: The run.
        name: File name in `shards/`.
        fingerprint: Of the run.

    Returns:
        None where there is no such file, it cannot be read, or its rows are of another fingerprint.
    """
    path = run_folder / SHARDS_FOLDER / name
    try:
        content = path.read_bytes()
        table = pq.read_table(pa.BufferReader(content))
        check_schema(table.schema, str(path))
    except (OSError, ValueError):
        return None
    if not len(table) or set(table.column("fingerprint").to_pylist()) != {fingerprint}:
        return None
    try:
        times = pq.read_table(run_folder / TIMINGS_FOLDER / name, schema=TIMINGS_SCHEMA)
    except (OSError, ValueError):
        times = None
    return _describe(name, table, times, content)


def clear_leftovers(run_folder: Path) -> int:
    """Remove temporary files of a writer that died; the caller holds the lock. Returns how many."""
    count = 0
    for folder in (run_folder, run_folder / SHARDS_FOLDER, run_folder / TIMINGS_FOLDER):
        for path in folder.glob(f"{TEMPORARY}*"):
            path.unlink()
            count += 1
    return count


def adopt_orphans(run_folder: Path, entries: Sequence[ShardEntry], fingerprint: str) -> Iterator[ShardEntry]:
    """Yield entries for complete shards that the manifest does not name; the caller holds the lock and appends them.

    A worker commits a shard before the driver notes it, so a driver that died leaves such shards. One that cannot be
    read, or holds an image that already has a row, is removed: its images are computed again or are there already.

    Args:
        run_folder: The run.
        entries: What the manifest names.
        fingerprint: Of the run.
    """
    named = {entry.shard for entry in entries}
    done = {image_id for entry in entries for image_id in entry.ids}
    for path in sorted((run_folder / SHARDS_FOLDER).glob("*.parquet")):
        if path.name in named:
            continue
        entry = describe_shard(run_folder, path.name, fingerprint)
        if entry is None or not done.isdisjoint(entry.ids):
            path.unlink()
            (run_folder / TIMINGS_FOLDER / path.name).unlink(missing_ok=True)
            continue
        done.update(entry.ids)
        yield entry
