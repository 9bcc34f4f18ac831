"""A second ingest of a run: it writes what changed only, keeps a person's work, and completes what broke off."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.masks import decode_mask
from pipeline.records import FailedImage
from pipeline.review import ingest, schema
from pipeline.review.schema import dataset_name
from pipeline.reviewed.changes import ACCEPTED_TAG
from tests.ingested_samples import assert_equals_record, bring_in, full_mask
from tests.review_runs import HW, needs_mongod, odd_records, one_disc, write_run

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@needs_mongod
def test_a_second_ingest_writes_only_what_changed(fiftyone: Any, tmp_path: Path) -> None:
    first = [one_disc("a.png"), one_disc("b.png"), FailedImage(one_disc("c.png").image_id, "c.png", "no luck")]
    name = bring_in(write_run(tmp_path, first)).dataset
    dataset = fiftyone.load_dataset(name)
    dataset.tag_samples("mine")
    written = {
        path: (str(key), when)
        for path, key, when in zip(*dataset.values(["path", "id", "last_modified_at"]), strict=True)
    }

    again = bring_in(write_run(tmp_path, first))
    assert (again.added, again.updated, again.kept, again.gone) == (0, 0, 0, 0)

    second = [one_disc("a.png"), one_disc("b.png", radius=12, prompt=2), one_disc("c.png"), one_disc("d.png")]
    result = bring_in(write_run(tmp_path, second))
    assert (result.added, result.updated, result.kept, result.failed) == (1, 2, 0, 0)
    dataset.reload()
    samples = {sample["path"]: sample for sample in dataset}
    for record in second:
        assert_equals_record(samples[record.path], record)
    assert samples["a.png"].last_modified_at == written["a.png"][1]
    assert {path: sample.id for path, sample in samples.items() if path in written} == {
        path: key for path, (key, _) in written.items()
    }
    assert all(("mine" in sample.tags) == (path != "d.png") for path, sample in samples.items())


def shown(sample: Any) -> list[Any]:
    """Return what a person sees of a sample's labels."""
    return [
        (
            label.label,
            tuple(np.round(label.bounding_box, 5)),
            tuple(label.tags),
            label.get_attribute_value("occluded", 0),
        )
        for label in sample[schema.PREDICTIONS].detections
    ]


def all_masks(sample: Any) -> np.ndarray:
    return np.array([full_mask(label, HW) for label in sample[schema.PREDICTIONS].detections])


@needs_mongod
def test_a_persons_changes_survive_new_labels(fiftyone: Any, tmp_path: Path) -> None:
    names = ["box", "label", "deleted", "mask", "drawn", "tagged", "attribute", "reviewed", "untouched"]
    name = bring_in(write_run(tmp_path, [one_disc(f"{name}.png") for name in names])).dataset
    dataset = fiftyone.load_dataset(name)
    for sample in dataset.iter_samples(autosave=True):
        what = Path(sample.filepath).stem
        labels = sample[schema.PREDICTIONS].detections
        if what == "box":
            labels[0].bounding_box = [0.1, 0.1, 0.5, 0.5]
        elif what == "label":
            labels[0].label = "square"
        elif what == "deleted":
            sample[schema.PREDICTIONS].detections = []
        elif what == "mask":
            changed = labels[0].mask.copy()
            changed[10, 10] = not changed[10, 10]
            labels[0].mask = changed
        elif what == "drawn":
            labels.append(fiftyone.Detection(label="square", bounding_box=[0, 0, 0.2, 0.2]))
        elif what == "tagged":
            labels[0].tags.append("wrong")
        elif what == "attribute":
            labels[0]["occluded"] = True
        elif what == "reviewed":
            sample.tags.append(ACCEPTED_TAG)

    before = {sample["path"]: shown(sample) for sample in dataset}
    masks = {sample["path"]: all_masks(sample) for sample in dataset}
    result = bring_in(write_run(tmp_path, [one_disc(f"{name}.png", radius=14) for name in names], "e" * 64))
    dataset.reload()
    after = {sample["path"]: shown(sample) for sample in dataset}
    assert {path for path in before if before[path] != after[path]} == {"untouched.png"}
    for sample in dataset.match({"path": {"$ne": "untouched.png"}}):
        now, then = all_masks(sample), masks[sample["path"]]
        if sample["path"] == "box.png":  # FiftyOne smooths a stretched mask
            assert (now & then).sum() / (now | then).sum() > 0.93
        else:
            np.testing.assert_array_equal(now, then)
    assert (result.updated, result.kept) == (1, len(names) - 1)
    assert_equals_record(dataset.one({"path": "untouched.png"}), one_disc("untouched.png", radius=14))


@needs_mongod
def test_images_that_left_the_run_are_tagged_and_not_deleted(fiftyone: Any, tmp_path: Path) -> None:
    both = [one_disc("a.png"), one_disc("b.png")]
    name = bring_in(write_run(tmp_path, both)).dataset
    assert bring_in(write_run(tmp_path, both[:1])).gone == 1
    dataset = fiftyone.load_dataset(name)
    assert dataset.match_tags(schema.GONE_TAG).values("path") == ["b.png"]
    assert bring_in(write_run(tmp_path, both)).gone == 0
    dataset.reload()
    assert dataset.count_sample_tags() == {}
    assert len(dataset) == 2


@needs_mongod
def test_moved_images_are_the_same_samples(fiftyone: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path, odd_records())
    dataset = fiftyone.load_dataset(bring_in(run).dataset)
    before = dict(zip(*dataset.values(["image_id", "id"]), strict=True))
    settings = json.loads((run / "run.json").read_text())
    (tmp_path / "photos").rename(tmp_path / "moved")
    (run / "run.json").write_text(json.dumps(settings | {"images_root": str(tmp_path / "moved")}))
    result = bring_in(run)
    assert (result.added, result.updated, result.gone) == (0, 0, 0)
    dataset.reload()
    assert dict(zip(*dataset.values(["image_id", "id"]), strict=True)) == before
    assert all(Path(path).is_file() for path in dataset.values("filepath"))


@needs_mongod
def test_an_ingest_that_broke_off_is_completed(fiftyone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [one_disc(f"{index}.png") for index in range(6)]
    new = [one_disc(f"{index}.png", radius=13) for index in range(6)]
    name = bring_in(write_run(tmp_path, old[:4])).dataset
    run = write_run(tmp_path, new, "e" * 64)
    monkeypatch.setattr(ingest, "_CHUNK", 2)
    written = fiftyone.Dataset._bulk_write

    def fails_after_labels(self: Any, operations: list[Any], **options: Any) -> None:
        written(self, operations[:1], **options)
        raise ConnectionError("the power is gone")

    monkeypatch.setattr(fiftyone.Dataset, "_bulk_write", fails_after_labels)
    with pytest.raises(ConnectionError):
        bring_in(run)
    monkeypatch.undo()
    dataset = fiftyone.load_dataset(name)
    assert dataset.info["groundlabel"]["complete"] is False
    result = bring_in(run)
    assert result.kept == 0
    dataset.reload()
    assert dataset.info["groundlabel"]["complete"] is True
    for sample, record in zip(dataset.sort_by("path"), new, strict=True):
        assert_equals_record(sample, record)


@needs_mongod
def test_one_writer_at_a_time(fiftyone: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path, [one_disc("a.png")])
    with caplog.at_level(logging.WARNING), ingest.only_writer(dataset_name(run)):
        second = threading.Thread(target=bring_in, args=(run,))
        second.start()
        second.join(0.5)
        assert second.is_alive()
    second.join()
    assert "waiting for it" in caplog.text


KILLED = """
import json, os, signal, sys
from pathlib import Path
from pipeline.review import ingest
from pipeline.review.connection import connected_fiftyone
from pipeline.review.mongod import database_home
from pipeline.store.run import Run
ingest._CHUNK = 20
def kill(done):
    if done >= 60 and sys.argv[2] == "die":
        os.kill(json.loads((database_home() / "state.json").read_text())["mongod"], signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
with connected_fiftyone() as fo:
    result = ingest.ingest(Run.open(sys.argv[1]), kill)
    dataset = fo.load_dataset(result.dataset)
    rows = [[s["path"], s["predictions"].detections[0].label, int(s["predictions"].detections[0].mask.sum())]
            for s in dataset.sort_by("path")]
    print(json.dumps({"rows": rows, "len": len(dataset), "count": dataset.count()}))
"""


@needs_mongod
def test_killed_with_its_database_and_run_again_it_equals_the_shards(tmp_path: Path) -> None:
    records = [one_disc(f"{index:03}.png", radius=8 + index % 7, prompt=index % 3) for index in range(100)]
    run = write_run(tmp_path, records)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("FIFTYONE_DATABASE_URI", None)
    command = [sys.executable, "-c", KILLED, str(run)]
    killed = subprocess.run([*command, "die"], cwd=ROOT, env=environment, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    again = subprocess.run([*command, "live"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout.splitlines()[-1])
    expected = [
        [record.path, record.class_names[0], int(decode_mask(record.instances.masks[0]).sum())] for record in records
    ]
    assert found == {"rows": expected, "len": 100, "count": 100}
