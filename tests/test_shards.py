"""The store: shards, manifest, fingerprint, lock, writer and reader."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from models.ontology import Ontology
from pipeline.config import AnnotateConfig
from pipeline.errors import UserError
from pipeline.paths import path_to_image_id
from pipeline.records import FailedImage, ImageTiming, Record
from pipeline.store import durable
from pipeline.store.durable import write_file
from pipeline.store.fingerprint import describe_differences, fingerprint_parts, parts_to_fingerprint
from pipeline.store.lock import LOCK_NAME, RunLock
from pipeline.store.manifest import MANIFEST_NAME, ManifestWriter, ShardEntry, read_manifest
from pipeline.store.run import SHARDS_FOLDER, TIMINGS_FOLDER, Run
from pipeline.store.shards import describe_shard, shard_name, write_shard
from pipeline.store.writer import RunWriter

ONTOLOGY = Ontology.from_dict({"classes": {"cat": ["cat", "kitty"], "dog": {"prompts": ["dog"], "color": "#ff0000"}}})
CONFIG = AnnotateConfig(detector="tiny", segmenter="tiny-sam")
PARTS = fingerprint_parts(CONFIG, ONTOLOGY, "d" * 64, "s" * 64)
FINGERPRINT = parts_to_fingerprint(PARTS)


def failures(*names: str) -> list[Record]:
    return [FailedImage(path_to_image_id(name), name, "broken") for name in names]


def commit(folder: Path, *names: str) -> ShardEntry:
    records = failures(*names)
    timings = [ImageTiming(record.image_id, 1, 2, 3, 4, "host", "1") for record in records]
    return write_shard(folder, records, timings, FINGERPRINT, {"overlap": 2, "small": 0})


def opened(folder: Path, parts: Any = PARTS, root: Path = Path("/photos"), **options: Any) -> RunWriter:
    return RunWriter(folder, parts, ONTOLOGY, root, CONFIG.merged(options))


def paths(folder: Path) -> list[str]:
    return [record.path for record in Run.open(folder).records()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with opened(tmp_path / "run") as writer:
        writer.add(commit(writer.output, "a.png", "c.png"))
        writer.add(commit(writer.output, "b.png", "d.png"))
    return tmp_path / "run"


def test_write_and_read(run: Path) -> None:
    opened_run = Run.open(run)
    assert paths(run) == ["a.png", "b.png", "c.png", "d.png"]
    assert opened_run.counts().failed == opened_run.counts().total == 4
    assert opened_run.counts().per_class == {"cat": 0, "dog": 0}
    assert opened_run.images_root == Path("/photos")
    assert opened_run.ontology == ONTOLOGY
    assert opened_run.fingerprint == FINGERPRINT
    first = next(opened_run.records())
    assert opened_run.image_path(first) == Path("/photos/a.png")
    assert [record.path for record in opened_run.failed()] == paths(run)
    assert not list(opened_run.annotated())


def test_shard_names_come_from_ids() -> None:
    assert shard_name(["b", "a"]) == shard_name(["a", "b"]) != shard_name(["a"])


def test_same_rows_same_bytes_and_described_from_the_file(run: Path) -> None:
    entry = Run.open(run).entries[0]
    again = commit(run, "c.png", "a.png")
    assert again == entry == describe_shard(run, entry.shard, FINGERPRINT)
    assert entry.drops == {"overlap": 2}
    assert entry.seconds == {"decode": 2.0, "detect": 4.0, "segment": 6.0, "encode": 8.0}
    assert entry.first_path == "a.png"
    assert describe_shard(run, entry.shard, "other") is None
    assert describe_shard(run, "none.parquet", FINGERPRINT) is None


def test_torn_and_damaged_lines_are_ignored(run: Path) -> None:
    manifest = run / MANIFEST_NAME
    lines = manifest.read_bytes().splitlines(keepends=True)
    manifest.write_bytes(lines[0] + b'{"shard": 1}\n\xff\xff\n' + lines[1][:-20])
    assert [entry.shard for entry in read_manifest(run)] == [Run.open(run).entries[0].shard]
    with ManifestWriter(run) as writer:
        writer.append(lines[1])
    assert len(list(read_manifest(run))) == 2


def test_a_manifest_that_is_one_torn_line(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(b"x" * 200_000)
    ManifestWriter(tmp_path).close()
    assert (tmp_path / MANIFEST_NAME).read_bytes() == b""


def test_a_shard_that_the_manifest_missed_is_adopted(run: Path) -> None:
    entry = commit(run, "e.png")
    assert len(paths(run)) == 4
    with opened(run) as writer:
        assert writer.healed.adopted == 1
        assert int(entry.ids[0], 16) in writer.index.ids
    assert paths(run) == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert Run.open(run).entries[-1] == entry


def test_orphans_that_are_double_or_broken_are_removed(run: Path) -> None:
    double = commit(run, "a.png")
    (run / SHARDS_FOLDER / "broken.parquet").write_bytes(b"PAR1")
    leftover = run / SHARDS_FOLDER / ".groundlabel-1-x.parquet"
    leftover.touch()
    stranger = run / SHARDS_FOLDER / "notes.txt"
    stranger.touch()
    opened(run).close()
    names = {path.name for path in (run / SHARDS_FOLDER).iterdir()}
    assert double.shard not in names
    assert not (run / TIMINGS_FOLDER / double.shard).exists()
    assert names == {entry.shard for entry in Run.open(run).entries} | {"notes.txt"}
    assert paths(run) == ["a.png", "b.png", "c.png", "d.png"]


def test_a_missing_shard_is_named(run: Path) -> None:
    shard = run / SHARDS_FOLDER / Run.open(run).entries[0].shard
    shard.unlink()
    with pytest.raises(UserError, match=shard.name):
        paths(run)


def test_files_are_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_no_space_left_is_explained(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(run) as writer:

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(durable.os, "fsync", full)
        with pytest.raises(UserError, match="no space left on the device; everything written so far is kept"):
            writer.commit_failure(FailedImage("0" * 16, "x.png", "y"), "/photos")
    monkeypatch.undo()
    assert len(paths(run)) == 4


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"config": {"box_threshold": 0.5}}, ["box threshold: 0.35 → 0.5"]),
        ({"config": {"size": 320}}, ["size: default → 320"]),
        ({"detector": "x" * 64}, ["detector: tiny (weights dddddddd) → tiny (weights xxxxxxxx)"]),
        ({"ontology": "cat, bird"}, ["classes: cat, dog → cat, bird"]),
        ({"ontology": "dog, cat"}, ["classes: cat, dog → dog, cat"]),
        ({"ontology": {"cat": "cat", "dog": "dog"}}, ["class 'cat', prompts: cat, kitty → cat"]),
        (
            {"ontology": {"cat": ["cat", "kitty"], "dog": {"prompts": ["dog"], "box_threshold": 0.4}}},
            ["class 'dog', box threshold: default → 0.4"],
        ),
        (
            {"ontology": {"classes": {"cat": ["cat", "kitty"], "dog": "dog"}, "negatives": ["sky"]}},
            ["negatives: none → sky"],
        ),
    ],
)
def test_differences_are_named(run: Path, changes: dict[str, Any], lines: list[str]) -> None:
    ontology = changes.get("ontology", ONTOLOGY)
    if isinstance(ontology, str):
        ontology = Ontology.from_names(ontology)
    if isinstance(ontology, dict):
        ontology = Ontology.from_dict(ontology)
    config = CONFIG.merged(changes.get("config", {}))
    parts = fingerprint_parts(config, ontology, changes.get("detector", "d" * 64), "s" * 64)
    assert describe_differences(PARTS, parts) == lines
    assert parts_to_fingerprint(parts) != FINGERPRINT
    with pytest.raises(
        UserError, match="--continue-with-old to go on with the settings that it was made with, --overwrite"
    ) as caught:
        opened(run, parts)
    assert lines[0] in str(caught.value)
    assert len(paths(run)) == 4


def test_what_does_not_make_rows_does_not_count() -> None:
    plain = Ontology.from_dict({"cat": ["cat", "kitty"], "dog": "dog"})  # another colour
    config = replace(CONFIG, detector="/models/tiny", workers=4, batch_size=2, limit=5, device="cpu", output="x")
    parts = fingerprint_parts(config, plain, "d" * 64, "s" * 64)
    assert parts_to_fingerprint(parts) == FINGERPRINT
    assert describe_differences(PARTS, parts) == []


def test_overwrite_removes_only_our_files(run: Path) -> None:
    (run / "reviewed").mkdir()
    (run / "reviewed/edits.json").touch()
    parts = fingerprint_parts(CONFIG, ONTOLOGY, "e" * 64, "s" * 64)
    with opened(run, parts, overwrite=True) as writer:
        assert not len(writer.index)
    assert not paths(run)
    assert not list((run / SHARDS_FOLDER).iterdir())
    assert (run / "reviewed/edits.json").exists()


def test_moved_images_are_recognised(run: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    with pytest.raises(UserError, match="belongs to the images in /photos"):
        opened(run, root=tmp_path / "moved")
    (tmp_path / "moved/a.png").touch()
    opened(run, root=tmp_path / "moved").close()
    assert Run.open(run).images_root == tmp_path / "moved"


def a_file(folder: Path) -> None:
    folder.write_text("x")


def a_strange_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.doc").touch()


def a_run_without_its_head(folder: Path) -> None:
    with opened(folder) as writer:
        writer.add(commit(folder, "a.png"))
    (folder / "run.json").unlink()


def a_damaged_run(folder: Path) -> None:
    opened(folder).close()
    (folder / "run.json").write_text("{")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (a_file, "is a file; --output needs a folder"),
        (a_strange_folder, "is not empty and not a run .it has thesis.doc"),
        (a_run_without_its_head, "its run.json is gone"),
        (a_damaged_run, "damaged"),
    ],
)
def test_other_outputs_are_refused(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "run")
    before = sorted(path for path in (tmp_path / "run").rglob("*") if path.name != LOCK_NAME)
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "run")
    after = sorted(path for path in (tmp_path / "run").rglob("*") if path.name != LOCK_NAME)
    assert before == after


def test_unwritable_output() -> None:
    with pytest.raises(UserError, match=r"cannot be written .*another --output"):
        opened(Path("/proc/run"))


@pytest.mark.parametrize("name", ["nothing", "."])
def test_open_needs_a_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"no such run folder|not a run"):
        Run.open(tmp_path / name)


def test_one_writer(run: Path) -> None:
    held = opened(run)
    with pytest.raises(UserError, match=f"another groundlabel writes to this run .process {os.getpid()} on"):
        opened(run)
    held.close()
    opened(run).close()


def test_lock_of_a_killed_process_is_stale(run: Path) -> None:
    code = f"from pathlib import Path; from pipeline.store.lock import RunLock; RunLock(Path({str(run)!r})); "
    child = subprocess.Popen(
        [sys.executable, "-c", code + "print(1, flush=True); import time; time.sleep(60)"],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(UserError, match=f"process {child.pid} on"):
            opened(run)
        child.kill()
    opened(run).close()


def test_lock_of_another_host_is_stale_after_a_while(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    with pytest.raises(UserError, match="process 7 on elsewhere"):
        RunLock(tmp_path)
    past = time.time() - 600
    os.utime(tmp_path / LOCK_NAME, (past, past))
    RunLock(tmp_path).release()


def test_summary(run: Path) -> None:
    with opened(run) as writer:
        failed = writer.finish(12.5, 4).failed
    assert [record.path for record in failed] == ["a.png", "b.png", "c.png", "d.png"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["images"] == summary["failed"] == len(summary["failures"]) == 4
    assert summary["drops"] == {"overlap": 4}
    assert summary["per_class"] == {"cat": 0, "dog": 0}
    assert summary["seconds_by_stage"]["decode"] == 4
    assert (run / "failed.csv").read_text().splitlines()[1].endswith(",a.png,broken")


def test_timings_are_apart_from_labels(run: Path) -> None:
    shard = Run.open(run).entries[0].shard
    assert "seconds_decode" not in pq.read_schema(run / SHARDS_FOLDER / shard).names
    assert pq.read_table(run / TIMINGS_FOLDER / shard).num_rows == 2
