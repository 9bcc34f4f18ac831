"""`verify`: what is broken is found and named, and a repair lets the next call compute it again."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from jobs.cli import main
from models.mask_crops import run_lengths
from pipeline.errors import UserError
from pipeline.store.manifest import MANIFEST_NAME
from pipeline.store.rle import check_mask
from pipeline.store.run import SHARDS_FOLDER, TIMINGS_FOLDER, Run
from pipeline.store.shards import commit_tables, read_drops, read_shard, read_timings
from pipeline.store.verify import verify_run
from tests.store_runs import label, open_writer, rows, save_images


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return label(save_images(tmp_path / "images", 10, bad=[3]), tmp_path / "run")


def shard_path(run: Run, number: int = 0) -> Path:
    return run.folder / SHARDS_FOLDER / run.entries[number].shard


def test_a_run_that_holds(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify_run(run.folder)
    assert (found.images, found.shards, found.problems, found.notes) == (10, 3, [], [])
    assert found.masks == sum(entry.instances for entry in run.entries) == 12
    assert main(["verify", str(run.folder)]) == 0
    assert "10 images in 3 shards, 12 masks: 0 problem(s)" in capsys.readouterr().out


def flip_a_bit(run: Run) -> None:
    content = bytearray(shard_path(run).read_bytes())
    content[len(content) // 2] ^= 4
    shard_path(run).write_bytes(content)


def cut(run: Run) -> None:
    shard_path(run).write_bytes(shard_path(run).read_bytes()[:-50])


def remove(run: Run) -> None:
    shard_path(run).unlink()


def other_content(run: Run) -> None:
    shard_path(run).write_bytes(shard_path(run, 1).read_bytes())


def exchange(run: Run, change: Callable[[dict[str, object]], None]) -> None:
    """Put a shard with changed rows in the place of the first, with the right checksum."""
    name = run.entries[0].shard
    table, times = read_shard(run.folder, name), read_timings(run.folder, name)
    listed = table.to_pylist()
    for row in listed:
        change(row)
    assert times is not None
    changed = pa.Table.from_pylist(listed, schema=table.schema)
    with open_writer(run.images_root, run.folder) as writer:
        writer.add(commit_tables(run.folder, changed, times, read_drops(table), replaces=[name]))


def set_in_objects(key: str, value: object) -> Callable[[Run], None]:
    def change(row: dict[str, object]) -> None:
        for item in row["objects"]:  # type: ignore[attr-defined]
            item[key] = value

    return lambda run: exchange(run, change)


def another_fingerprint(run: Run) -> None:
    exchange(run, lambda row: row.update(fingerprint="0" * 16))


def another_path(run: Run) -> None:
    exchange(run, lambda row: row.update(path="z" + str(row["path"])))


def another_status(run: Run) -> None:
    exchange(run, lambda row: row.update(status="odd"))


def twice(run: Run) -> None:
    tables = [read_shard(run.folder, run.entries[number].shard).slice(0, 2) for number in (0, 1)]
    times = [read_timings(run.folder, run.entries[number].shard).slice(0, 2) for number in (0, 1)]  # type: ignore[union-attr]
    with open_writer(run.images_root, run.folder) as writer:
        writer.add(commit_tables(run.folder, pa.concat_tables(tables), pa.concat_tables(times), {}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "SHA-256"),
        (cut, "SHA-256"),
        (remove, "cannot be read"),
        (other_content, "SHA-256"),
        (another_fingerprint, "another fingerprint"),
        (another_path, "does not belong to its path"),
        (another_status, "other failed images"),
        (twice, "another shard has too"),
        (set_in_objects("area", 1), "its area says 1"),
        (set_in_objects("mask_counts", b"0"), "fills 0 pixels"),
        (set_in_objects("mask_counts", b"~"), "cannot be read"),
        (set_in_objects("box_xyxy", [0.0, 0.0, 99.0, 5.0]), "not inside of the 16 × 12 image"),
        (set_in_objects("class_id", 2), "none of the run's"),
        (set_in_objects("score", 1.5), "not in"),
    ],
)
def test_what_is_broken_is_found_and_computed_again(
    run: Run, damage: Callable[[Run], None], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(run)
    damage(run)
    assert main(["verify", str(run.folder)]) == 1
    assert message in capsys.readouterr().err
    assert main(["verify", str(run.folder), "--repair"]) == 0
    repaired = verify_run(run.folder)
    assert repaired.problems == repaired.notes == []
    assert (repaired.images < 10) == (damage is not twice)
    again = label(run.images_root, run.folder)
    assert rows(again) == before
    assert verify_run(run.folder).problems == []


def test_a_damaged_line_of_the_manifest(run: Run) -> None:
    manifest = run.folder / MANIFEST_NAME
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(lines[0].replace(b'"rows":4', b'"rows":5') + lines[1] + lines[2] + lines[0][:30])
    found = verify_run(run.folder)
    assert [problem.what for problem in found.problems] == ["manifest.jsonl: 1 damaged line(s)"]
    assert found.images == 6
    assert any("torn" in note for note in found.notes)
    assert any("does not name" in note for note in found.notes)
    verify_run(run.folder, repair=True)
    found = verify_run(run.folder)
    assert (found.problems, found.notes, found.images) == ([], [], 10)


def test_what_a_killed_call_leaves_is_a_note(run: Run) -> None:
    shard = shard_path(run, 2)
    lines = (run.folder / MANIFEST_NAME).read_bytes().splitlines(keepends=True)
    (run.folder / MANIFEST_NAME).write_bytes(b"".join(lines[:2]))
    (run.folder / SHARDS_FOLDER / ".groundlabel-1-x.parquet").touch()
    (run.folder / TIMINGS_FOLDER / run.entries[0].shard).unlink()
    found = verify_run(run.folder)
    assert (found.problems, found.images) == ([], 8)
    assert any(shard.name in note for note in found.notes)
    assert any("no times of 1 shard" in note for note in found.notes)
    assert len(rows(label(run.images_root, run.folder))) == 10


def test_a_repair_needs_the_lock(run: Run) -> None:
    cut(run)
    with open_writer(run.images_root, run.folder), pytest.raises(UserError, match="another groundlabel writes"):
        verify_run(run.folder, repair=True)


def test_lines_of_the_first_version_are_read(run: Run) -> None:
    manifest = run.folder / MANIFEST_NAME
    old = []
    for entry in run.entries:
        kept = {name: getattr(entry, name) for name in ("shard", "sha256", "size_bytes", "first_path", "instances")}
        kept |= {"ok_ids": entry.ok_ids, "failed_ids": entry.failed_ids, "per_class": dict(entry.per_class)}
        old.append(json.dumps(kept | {"drops": {}, "seconds": {}}, separators=(",", ":")))
    manifest.write_text("\n".join(old) + "\n")
    found = verify_run(run.folder)
    assert (found.problems, found.images) == ([], 10)
    assert len(rows(label(run.images_root, run.folder))) == 10


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_runs_are_read_as_pycocotools_writes_them(runs: list[int]) -> None:
    height, width = 1, sum(runs) or 1
    if not sum(runs):
        runs = [1]
    packed = coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]
    assert run_lengths(packed).tolist() == runs
    assert check_mask(packed, (height, width), sum(runs[1::2])) == ""


def test_large_masks_are_read() -> None:
    mask = np.zeros((3000, 4000), np.uint8, order="F")
    mask[100:2900, 17:3999] = 1
    counts = coco_mask.encode(mask)["counts"]
    assert check_mask(counts, (3000, 4000), int(mask.sum())) == ""


@pytest.mark.parametrize(
    ("counts", "area", "message"),
    [
        (b"", 0, ""),
        (b"", 3, "no mask and an area"),
        (b"\x01", 0, "stands for nothing"),
        (b"P", 0, "in the middle of a number"),
        (b"P" * 20 + b"0", 0, "too large"),
        (b"@", 0, "negative length"),
    ],
)
def test_counts_that_are_wrong(counts: bytes, area: int, message: str) -> None:
    found = check_mask(counts, (2, 2), area)
    assert message in found
    assert bool(message) == bool(found)
