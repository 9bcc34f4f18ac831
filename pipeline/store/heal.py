"""What a writer puts right when it opens a run: the files and the manifest agree afterwards."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.store.durable import TEMPORARY, leftovers
from pipeline.store.index import IdIndex, IdSet, ids_to_numbers
from pipeline.store.manifest import MANIFEST_NAME, ManifestWriter, removal_line, scan_manifest
from pipeline.store.run import SHARDS_FOLDER, TIMINGS_FOLDER
from pipeline.store.shards import describe_shard, remove_shards

_NAMES_A_LINE = 1000


@dataclass(frozen=True)
class Healed:
    """What was put right.

    Attributes:
        leftovers: Half-written files of a writer that died, removed.
        missing: Shards that the manifest named and that are gone; their images are computed again.
        adopted: Complete shards that the manifest did not name yet.
        surplus: Shards removed because they cannot be read or their images have rows elsewhere.
    """

    leftovers: int = 0
    missing: int = 0
    adopted: int = 0
    surplus: int = 0


def heal(run_folder: Path, manifest: ManifestWriter, fingerprint: str) -> tuple[Healed, IdIndex]:
    """Clear leftovers, take shards without a file out of the manifest, adopt or remove files that it does not name.

    A worker commits a shard before the driver notes it, so a driver that died leaves complete shards that nobody
    knows. Only files of ours are touched.

    Args:
        run_folder: The run; the caller holds its lock.
        manifest: Open for appending; synced afterwards.
        fingerprint: Of the run.

    Returns:
        What was put right, and the images that the run has now.

    Raises:
        OSError: The folder cannot be read or written.
    """
    cleared = clear_leftovers(run_folder)
    index = IdIndex.read(run_folder)
    named, present = set(index.names), set(shard_files(run_folder / SHARDS_FOLDER))
    missing = sorted(named - present)
    for start in range(0, len(missing), _NAMES_A_LINE):
        manifest.append(removal_line(missing[start : start + _NAMES_A_LINE]))
    orphans = sorted(present - named)
    if missing:
        index = IdIndex.read(run_folder)
    adopted = _adopt(run_folder, manifest, fingerprint, orphans, index)
    manifest.sync()
    remove_shards(run_folder, missing)
    for name in shard_files(run_folder / TIMINGS_FOLDER):
        if name not in present:
            (run_folder / TIMINGS_FOLDER / name).unlink()
    healed = Healed(cleared, len(missing), adopted, len(orphans) - adopted)
    return healed, IdIndex.read(run_folder) if adopted else index


def clear_leftovers(run_folder: Path) -> int:
    """Remove temporary files of a writer that died; the caller holds the lock. Returns how many."""
    count = 0
    for folder in (run_folder, run_folder / SHARDS_FOLDER, run_folder / TIMINGS_FOLDER):
        for path in leftovers(folder):
            path.unlink()
            count += 1
    return count


def remove_surplus(run_folder: Path) -> int:
    """Remove shards that the manifest does not name; for the end of a call, when no worker writes any more.

    Returns:
        How many there were: late commits of workers whose driver had died.
    """
    with (run_folder / MANIFEST_NAME).open("rb") as stream:
        named = scan_manifest(stream).lines
        surplus = [name for name in shard_files(run_folder / SHARDS_FOLDER) if os.fsencode(name) not in named]
    if surplus:
        remove_shards(run_folder, surplus)
    return len(surplus)


def _adopt(run_folder: Path, manifest: ManifestWriter, fingerprint: str, orphans: list[str], index: IdIndex) -> int:
    taken, adopted = IdSet(), 0
    for name in orphans:
        entry = describe_shard(run_folder, name, fingerprint)
        numbers = ids_to_numbers(entry.ids if entry else ())
        if entry is None or (index.find(numbers) >= 0).any() or not taken.add(numbers).all():
            remove_shards(run_folder, [name])
            continue
        manifest.append(entry.to_line())
        adopted += 1
    return adopted


def shard_files(folder: Path) -> Iterator[str]:
    """Yield the names of the Parquet files in a folder."""
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.name.endswith(".parquet") and not entry.name.startswith(TEMPORARY):
                yield entry.name
