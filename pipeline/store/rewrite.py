"""Shards made from shards: without some rows, or several joined into one. The caller swaps them.

The new shard is committed first, then one line of the manifest exchanges it for the old ones, then their files go.
Whatever dies in between leaves either the old shards or the new one in the run, and the next start clears the rest.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records import TIMINGS_SCHEMA, ImageTiming, timings_to_table
from pipeline.store.manifest import ShardEntry
from pipeline.store.shards import commit_tables, read_drops, read_shard, read_timings

MOST_BYTES = 256 * 1024**2
"""Size of the files that are joined into one; what is larger stays as it is."""


def shard_without(
    run_folder: Path, name: str, image_ids: Container[str], target: Path | None = None
) -> ShardEntry | None:
    """Commit the rows of a shard except for some; None when no row would be left, and nothing is written.

    Its counts of dropped boxes stay those of the whole shard, as they are not known by image.

    Args:
        run_folder: Where the shard is.
        name: Of the shard.
        image_ids: What to leave out.
        target: The run to write to; None means the same one, in which the new shard then replaces the old one.

    Raises:
        UserError: The shard cannot be read.
        OSError: The disk is full or the folder cannot be written.
    """
    table = read_shard(run_folder, name)
    keep = [row for row, image_id in enumerate(table.column("image_id").to_pylist()) if image_id not in image_ids]
    if not keep:
        return None
    times = _times_of(run_folder, name, table)
    replaces = [name] if target is None else []
    return commit_tables(target or run_folder, table.take(keep), times.take(keep), read_drops(table), replaces)


def join_shards(run_folder: Path, names: Sequence[str]) -> ShardEntry:
    """Commit the rows of several shards as one, in the order of their paths.

    Args:
        run_folder: The run.
        names: At least one shard; no image is in two of them.

    Raises:
        UserError: A shard cannot be read.
        OSError: The disk is full or the folder cannot be written.
    """
    tables = [read_shard(run_folder, name) for name in names]
    times = [_times_of(run_folder, name, table) for name, table in zip(names, tables, strict=True)]
    drops: Counter[str] = Counter()
    for table in tables:
        drops.update(read_drops(table))
    joined = pa.concat_tables([table.replace_schema_metadata(None) for table in tables]).combine_chunks()
    order = pc.sort_indices(joined, sort_keys=[("path", "ascending")])
    joined_times = pa.concat_tables(times).combine_chunks().take(order)
    return commit_tables(run_folder, joined.take(order), joined_times, drops, replaces=names)


def group_small(entries: Iterable[ShardEntry], rows: int) -> Iterator[list[str]]:
    """Yield groups of at least two shards that fit together, neighbours in the order of their paths.

    Args:
        entries: Of the run; may be empty.
        rows: Most rows of a joined shard.
    """
    listed = sorted((entry.first_path, entry.shard, entry.rows, entry.size_bytes) for entry in entries)
    group: list[str] = []
    group_rows = group_bytes = 0
    for _, name, count, size in listed:
        if group and (group_rows + count > rows or group_bytes + size > MOST_BYTES):
            if len(group) > 1:
                yield group
            group, group_rows, group_bytes = [], 0, 0
        group.append(name)
        group_rows += count
        group_bytes += size
    if len(group) > 1:
        yield group


def _times_of(run_folder: Path, name: str, table: pa.Table) -> pa.Table:
    """Return the timing rows of a shard in the order of its label rows; rows of nothing where they are lost."""
    ids = table.column("image_id").to_pylist()
    times = read_timings(run_folder, name)
    if times is None or sorted(times.column("image_id").to_pylist()) != sorted(ids):
        return timings_to_table([ImageTiming(image_id, 0, 0, 0, 0, "", "") for image_id in ids])
    places = {image_id: row for row, image_id in enumerate(times.column("image_id").to_pylist())}
    return times.take([places[image_id] for image_id in ids]).cast(TIMINGS_SCHEMA)
