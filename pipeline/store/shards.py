"""Shards: files of rows that are complete or absent.

A file is written under a temporary name in its own folder, flushed and synced, renamed onto its final name, and the
folder is synced. The final name is the hash of the rows' ids, so that the same images always make the same name.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.file_state import UNKNOWN_STAMP, size_and_time_to_stamp
from pipeline.records import (
    SCHEMA,
    TIMINGS_SCHEMA,
    ImageTiming,
    Record,
    check_schema,
    records_to_table,
    timings_to_table,
)
from pipeline.store.durable import sync_folder, write_file
from pipeline.store.manifest import ShardEntry
from pipeline.store.run import SHARDS_FOLDER, TIMINGS_FOLDER

_DROPS_KEY = b"groundlabel_drops"
_STAGES = ("decode", "detect", "segment", "encode")


def shard_name(image_ids: Iterable[str]) -> str:
    """Return the file name of the shard that holds exactly these images, in whatever order they are given."""
    return hashlib.sha256("\n".join(sorted(image_ids)).encode()).hexdigest()[:32] + ".parquet"


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
    order = {record.image_id: row for row, record in enumerate(records)}
    times = timings_to_table(sorted(timings, key=lambda timing: order[timing.image_id]))
    return commit_tables(run_folder, records_to_table(records, fingerprint), times, drops)


def commit_tables(
    run_folder: Path, table: pa.Table, times: pa.Table, drops: Mapping[str, int], replaces: Sequence[str] = ()
) -> ShardEntry:
    """Commit label and timing rows as one shard.

    Args:
        run_folder: With its `shards/` and `timings/`.
        table: Label rows in the order of their paths, at least one.
        times: Timing rows in the same order.
        drops: Boxes that the filters took away, by reason.
        replaces: Shards that the entry takes the place of; their files are left to the caller.

    Returns:
        The entry for the manifest.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    name = shard_name(table.column("image_id").to_pylist())
    drops_text = json.dumps({reason: drops[reason] for reason in sorted(drops) if drops[reason]})
    table = table.replace_schema_metadata({**(SCHEMA.metadata or {}), _DROPS_KEY: drops_text.encode()})
    content = _table_bytes(table)
    write_file(run_folder / TIMINGS_FOLDER / name, _table_bytes(times))
    write_file(run_folder / SHARDS_FOLDER / name, content)
    return _describe(name, table, times, content, replaces)


def _describe(
    name: str,
    table: pa.Table,
    times: pa.Table | None,
    content: bytes | memoryview,
    replaces: Sequence[str] = (),
) -> ShardEntry:
    failed = pc.equal(table.column("status"), "failed")
    bad, good = table.filter(failed), table.filter(pc.invert(failed))
    ok_ids, failed_ids = good.column("image_id").to_pylist(), bad.column("image_id").to_pylist()
    class_names = pc.struct_field(pc.list_flatten(table.column("objects")), "class_name").to_pylist()
    seconds, slowest, stamps = {}, 0.0, ""
    if times is not None:
        columns = {stage: times.column(f"seconds_{stage}").to_numpy().astype(np.float64) for stage in _STAGES}
        seconds = {stage: round(float(np.sum(column)), 4) for stage, column in columns.items()}
        slowest = round(float(np.max(sum(columns.values()))), 4)
        stamp_of = dict(zip(times.column("image_id").to_pylist(), _stamps(times), strict=True))
        stamps = "".join(f"{stamp_of.get(image_id, UNKNOWN_STAMP):016x}" for image_id in ok_ids + failed_ids)
    return ShardEntry(
        shard=name,
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        rows=len(table),
        first_path=min(table.column("path").to_pylist()),
        ok="".join(ok_ids),
        failed="".join(failed_ids),
        stamps=stamps,
        instances=len(class_names),
        per_class=dict(sorted(Counter(class_names).items())),
        drops=read_drops(table),
        seconds=seconds,
        slowest=slowest,
        failures=tuple(zip(bad.column("path").to_pylist(), bad.column("reason").to_pylist(), strict=True)),
        replaces=tuple(replaces),
    )


def _stamps(times: pa.Table) -> list[int]:
    """Return the stamp of each image file; `UNKNOWN_STAMP` where its size and time were not noted."""
    sizes, mtimes = times.column("file_bytes").to_pylist(), times.column("file_mtime_ns").to_pylist()
    return [
        UNKNOWN_STAMP if size == mtime == 0 else size_and_time_to_stamp(size, mtime)
        for size, mtime in zip(sizes, mtimes, strict=True)
    ]


def read_drops(table: pa.Table) -> dict[str, int]:
    """Return what filters dropped in the rows of a shard, by reason."""
    drops: dict[str, int] = json.loads((table.schema.metadata or {}).get(_DROPS_KEY, b"{}"))
    return drops


def read_shard(run_folder: Path, name: str) -> pa.Table:
    """Return the label rows of a shard.

    Raises:
        UserError: It is missing, cannot be read or is of another version.
    """
    path = run_folder / SHARDS_FOLDER / name
    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); `groundlabel verify --repair` mends the run") from error
    check_schema(table.schema, str(path))
    return table


def read_timings(run_folder: Path, name: str) -> pa.Table | None:
    """Return the timing rows of a shard; None where they are missing or damaged.

    Columns that an earlier version did not write are 0 or empty.
    """
    try:
        table = pq.read_table(pa.BufferReader((run_folder / TIMINGS_FOLDER / name).read_bytes()))
        for column in TIMINGS_SCHEMA:
            if column.name not in table.column_names:
                empty = None if column.nullable else "" if pa.types.is_string(column.type) else 0
                table = table.append_column(column, pa.array([empty] * len(table), column.type))
        return table.select(TIMINGS_SCHEMA.names).cast(TIMINGS_SCHEMA)
    except (OSError, ValueError):
        return None


def remove_shards(run_folder: Path, names: Iterable[str]) -> None:
    """Remove the files of shards, and wait until the disk has it; those that are gone are passed over."""
    for name in names:
        for folder in (SHARDS_FOLDER, TIMINGS_FOLDER):
            (run_folder / folder / name).unlink(missing_ok=True)
    sync_folder(run_folder / SHARDS_FOLDER)


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
    return _describe(name, table, read_timings(run_folder, name), content)
