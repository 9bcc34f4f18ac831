"""Whether a run keeps its promises: every checksum, every id once, every mask inside its image, manifest = shards."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.paths import path_to_image_id, stored_to_path
from pipeline.records import SCHEMA
from pipeline.store.heal import shard_files
from pipeline.store.index import IdSet, ids_to_numbers
from pipeline.store.manifest import MANIFEST_NAME, ShardEntry, read_manifest, scan_manifest
from pipeline.store.rle import check_mask
from pipeline.store.run import SHARDS_FOLDER, TIMINGS_FOLDER, Run
from pipeline.store.shards import shard_name
from pipeline.store.writer import RunWriter

_STATUSES = {"ok", "failed"}
_BOX_SLACK = 1e-2
"""Pixels by which a box may lie outside its image: rounding of float32."""


@dataclass(frozen=True)
class Problem:
    """Something that does not hold.

    Attributes:
        shard: The shard that it is about; empty for the manifest.
        what: What is wrong.
    """

    shard: str
    what: str


@dataclass
class Verified:
    """What a check of a run found.

    Attributes:
        shards: Checked.
        images: With a row.
        masks: Checked.
        problems: What does not hold.
        notes: What a call that was cut off, or is at work, left: the next one puts it right, and no row is wrong.
        repaired: Shards that were taken out, so that the next annotate computes their images again.
    """

    shards: int = 0
    images: int = 0
    masks: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    repaired: int = 0


def verify_run(folder: str | Path, repair: bool = False) -> Verified:
    """Check a run; somebody may write to it meanwhile.

    Args:
        folder: The run.
        repair: Take out every shard that does not hold, and put manifest and files in order. The images of what was
            taken out have no row until the next annotate computes them again.

    Returns:
        What was found, before the repair.

    Raises:
        UserError: There is no run; or it is to be repaired and somebody writes to it, or it cannot be written.
    """
    run = Run.open(folder)
    found = Verified()
    damaged = _check_manifest(run, found)
    named, ids = set(), IdSet()
    for entry in read_manifest(run.folder):
        named.add(entry.shard)
        found.shards += 1
        found.images += entry.rows
        problem = next(_shard_problems(run, entry, ids, found), None)
        if problem is not None:
            found.problems.append(Problem(entry.shard, problem))
    _check_files(run, named, found)
    if repair and (found.problems or found.notes):
        _repair(run, found, damaged)
    return found


def _check_manifest(run: Run, found: Verified) -> bool:
    """Look for lines that don't count; returns whether there is a damaged one."""
    path = run.folder / MANIFEST_NAME
    if not path.exists():
        return False
    with path.open("rb") as stream:
        state = scan_manifest(stream)
    if state.torn:
        found.notes.append(f"{MANIFEST_NAME}: its last line is torn; it counts as not written")
    if state.damaged:
        found.problems.append(Problem("", f"{MANIFEST_NAME}: {state.damaged} damaged line(s)"))
    return state.damaged > 0


def _check_files(run: Run, named: set[str], found: Verified) -> None:
    extra = [name for name in shard_files(run.folder / SHARDS_FOLDER) if name not in named]
    if extra:
        found.notes.append(
            f"{SHARDS_FOLDER}/: {len(extra)} file(s) that the manifest does not name, such as {extra[0]}"
        )
    timings = run.folder / TIMINGS_FOLDER
    times = set(shard_files(timings)) if timings.is_dir() else set()
    if lost := [name for name in named if name not in times]:
        found.notes.append(
            f"{TIMINGS_FOLDER}/: no times of {len(lost)} shard(s), such as {min(lost)}; no label is lost"
        )


def _repair(run: Run, found: Verified, damaged: bool) -> None:
    with RunWriter.reopen(run.folder) as writer:  # this puts manifest and files in order
        broken = {problem.shard for problem in found.problems if problem.shard}
        writer.remove(sorted(broken & set(writer.index.names)))
        if damaged:
            writer.rewrite_manifest()
        found.repaired = len(broken)
        writer.record("repaired", shards=len(broken), problems=len(found.problems))


def _shard_problems(run: Run, entry: ShardEntry, ids: IdSet, found: Verified) -> Iterator[str]:
    """Yield what is wrong with a shard; what comes after the first problem may make no sense."""
    path = run.folder / SHARDS_FOLDER / entry.shard
    try:
        content = path.read_bytes()
    except OSError as error:
        yield f"cannot be read ({error.strerror})"
        return
    if len(content) != entry.size_bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
        yield "its content is not what was written (SHA-256)"
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (OSError, ValueError) as error:
        yield f"is not readable as Parquet ({error})"
        return
    if not table.schema.remove_metadata().equals(SCHEMA.remove_metadata()):
        yield "has other columns than a label table"
        return
    yield from _table_problems(run, entry, table)
    numbers = ids_to_numbers(table.column("image_id").to_pylist())
    if not ids.add(numbers).all():
        yield "has an image that another shard has too"
    yield from _object_problems(run, table, found)


def _table_problems(run: Run, entry: ShardEntry, table: pa.Table) -> Iterator[str]:
    columns = {name: table.column(name).to_pylist() for name in ("image_id", "path", "status", "fingerprint")}
    image_ids, statuses = columns["image_id"], columns["status"]
    if sorted(image_ids) != sorted(entry.ids) or len(table) != entry.rows:
        yield "has other images than the manifest says"
    if shard_name(image_ids) != entry.shard:
        yield "has other images than its name says"
    if set(statuses) - _STATUSES or {i for i, s in zip(image_ids, statuses, strict=True) if s == "failed"} != set(
        entry.failed_ids
    ):
        yield "has other failed images than the manifest says"
    if set(columns["fingerprint"]) - {run.fingerprint}:
        yield "has rows of another fingerprint"
    if any(path_to_image_id(stored_to_path(p)) != i for p, i in zip(columns["path"], image_ids, strict=True)):
        yield "has an image id that does not belong to its path"


def _object_problems(run: Run, table: pa.Table, found: Verified) -> Iterator[str]:
    names = {number: spec.name for number, spec in enumerate(run.ontology.classes, start=1)}
    rows = table.select(["path", "status", "width", "height", "objects"]).to_pylist()
    for row in rows:
        if row["status"] == "failed" and row["objects"]:
            yield f"{row['path']}: failed and has objects"
        for number, item in enumerate(row["objects"]):
            found.masks += bool(item["mask_counts"])
            if what := _object_problem(item, (row["height"] or 0, row["width"] or 0), names):
                yield f"{row['path']}, object {number}: {what}"


def _object_problem(item: dict[str, Any], image_hw: tuple[int, int], names: dict[int, str]) -> str:
    """Return what is wrong with an object; empty when nothing is."""
    height, width = image_hw
    box = np.array(item["box_xyxy"], np.float64)
    if (
        not np.isfinite(box).all()
        or box.min() < -_BOX_SLACK
        or (box > np.array([width, height] * 2) + _BOX_SLACK).any()
    ):
        return f"its box {box.tolist()} is not inside of the {width} × {height} image"
    if names.get(item["class_id"]) != item["class_name"]:
        return f"its class {item['class_id']} {item['class_name']!r} is none of the run's"
    if not (0 <= item["score"] <= 1 and 0 <= item["mask_score"] <= 1):
        return "a score of it is not in [0, 1]"
    return check_mask(item["mask_counts"], image_hw, item["area"])
