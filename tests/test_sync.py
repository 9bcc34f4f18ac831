"""Edits in the App: out of FiftyOne into the run's folder, through a dead database and new labels, and back."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs.cli
from models.masks import decode_mask
from pipeline.export.labels import open_labels
from pipeline.review import ingest, schema
from pipeline.review.connection import connected_fiftyone
from pipeline.review.mongod import database_home
from pipeline.reviewed.changes import ACCEPTED_TAG, REJECTED_TAG, ReviewedImage
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import Run
from tests.corrected_labels import coco_of, exported, write_coco
from tests.review_runs import HW, a_photo, disc, needs_mongod, write_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give this module a folder for databases of its own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        yield folder


def state_of(run: Path, path: str) -> ReviewedImage:
    (found,) = [state for state in ReviewedLayer(run).images.values() if state.image.path == path]
    return found


NAMES = ("drawn", "deleted", "relabelled", "brushed", "moved", "polygon", "gone", "accepted", "rejected", "untouched")


def edit_everything(fo: Any, dataset: Any) -> None:
    """Do to a dataset what a person does in the App, each image another thing."""
    samples = {Path(sample.filepath).stem: sample for sample in dataset}
    drawn = fo.Detection(label="beetle", bounding_box=[0.1003, 0.2, 0.25, 0.3007])
    samples["drawn"][schema.PREDICTIONS].detections.append(drawn)
    del samples["deleted"][schema.PREDICTIONS].detections[0]
    samples["relabelled"][schema.PREDICTIONS].detections[1].label = "round thing"
    brushed = samples["brushed"][schema.PREDICTIONS].detections[0]
    odd = np.zeros((37, 53), np.uint8)
    odd[:, 26:] = 255
    brushed.mask = odd
    moved = samples["moved"][schema.PREDICTIONS].detections[0]
    moved.bounding_box = [0.5, 0.5, 0.25, 0.25]
    corners = [(0.25, 0.5), (0.5, 0.5), (0.5, 0.75), (0.25, 0.75)]
    samples["polygon"][schema.POLYGONS] = fo.Polylines(
        polylines=[fo.Polyline(label="square", points=[corners], closed=True, filled=True)]
    )
    samples["accepted"].tags.append(ACCEPTED_TAG)
    samples["rejected"][schema.PREDICTIONS].detections[1].tags.append(REJECTED_TAG)
    for sample in samples.values():
        sample.save()
    dataset.delete_samples([samples["gone"].id])


def assert_everything_is_there(run: Path) -> None:
    """Check that the corrected labels are what the person left, read without FiftyOne."""
    found = exported(run)
    assert "gone.png" not in {record.path for record in open_labels(run).records()}
    assert set(found) == {f"{name}.png" for name in NAMES if name not in ("gone", "untouched")}
    *_, drawn = found["drawn.png"]
    assert (drawn.class_name, drawn.provenance, drawn.score, drawn.mask) == ("beetle", "human", None, None)
    np.testing.assert_allclose(drawn.box_xyxy, [8.024, 12, 28.024, 30.042], atol=1e-6)
    assert [item.class_name for item in found["deleted.png"]] == ["square", "round thing"]
    assert [item.class_name for item in found["relabelled.png"]] == ["round thing"] * 3
    assert found["relabelled.png"][1].provenance == "model+human"
    half = disc(HW, (20, 20), 10) * 0
    half[10:31, 20:31] = 1
    brushed = found["brushed.png"][0].mask
    assert brushed is not None
    mask = decode_mask(brushed)
    assert (mask & half.astype(bool)).sum() / (mask | half.astype(bool)).sum() > 0.95
    moved = found["moved.png"][0]
    assert moved.mask is not None
    np.testing.assert_allclose(moved.box_xyxy, [40, 30, 60, 45], atol=1.01)
    polygon = found["polygon.png"][-1]
    assert polygon.mask is not None
    square = np.zeros(HW, bool)
    square[30:45, 20:40] = True
    mask = decode_mask(polygon.mask)
    assert (mask & square).sum() / (mask | square).sum() > 0.9
    assert [item.class_name for item in found["rejected.png"]] == ["round thing", "round thing"]
    assert len(found["accepted.png"]) == 3
    assert state_of(run, "accepted.png").is_accepted


def labels_shown(dataset: Any) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Return label and box of all that the App shows as labels, by path; polygons count as their mask's box."""
    shown = {}
    for sample in dataset:
        labels = [
            (label.label, tuple(np.round(label.bounding_box, 3))) for label in sample[schema.PREDICTIONS].detections
        ]
        shown[sample["path"]] = sorted(labels)
    return shown


@needs_mongod
@pytest.mark.timeout(600)
def test_edits_outlive_mongod_new_thresholds_and_the_machine(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path, [a_photo(f"{name}.png") for name in NAMES])
    with connected_fiftyone() as fo:
        first = ingest.ingest(Run.open(run))
        dataset = fo.load_dataset(first.dataset)
        edit_everything(fo, dataset)
        time.sleep(0.5)  # a person's hand is never quicker than the journal
        os.kill(json.loads((database_home() / "state.json").read_text())["mongod"], signal.SIGKILL)

    write_run(tmp_path, [a_photo(f"{name}.png", 11, "high") for name in NAMES], "e" * 64)
    with connected_fiftyone() as fo:
        second = ingest.ingest(Run.open(run))
        assert (second.deleted, second.updated) == (1, 1)
        assert second.kept == len(NAMES) - 2
        kinds = {"added": 2, "deleted": 1, "relabelled": 1, "mask": 1, "box": 1, "tag": 1, "accepted": 1}
        assert {kind: second.changes[kind] for kind in kinds} == kinds
        assert second.changes["image deleted"] == 1
        assert_everything_is_there(run)
        dataset = fo.load_dataset(first.dataset)
        assert "gone.png" not in dataset.values("path")
        assert dataset.match({"path": "untouched.png"}).count("predictions.detections") == 2
        # No sync had seen the deletion before its row was replaced, and the new row has the object again.
        (gone,) = state_of(run, "deleted.png").removed
        assert (gone.class_name, gone.box_xyxy, gone.mask) == ("round thing", (10, 10, 31, 31), None)
        assert gone.score == pytest.approx(0.9)
        assert dataset.match({"path": "deleted.png"}).count("proposals.detections") == 0
        before = labels_shown(dataset)
        again = ingest.ingest(Run.open(run))
        assert (again.added, again.updated, again.kept, dict(again.changes)) == (0, 0, 0, {})
        assert labels_shown(dataset) == before
        assert_everything_is_there(run)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))
    with connected_fiftyone() as fo:
        third = ingest.ingest(Run.open(run))
        assert (third.added, third.deleted, dict(third.changes)) == (len(NAMES) - 1, 1, {})
        dataset = fo.load_dataset(third.dataset)
        assert dataset.match_tags(ACCEPTED_TAG).values("path") == ["accepted.png"]
        restored = labels_shown(dataset)
        assert {path: labels for path, labels in restored.items() if path != "polygon.png"} == {
            path: labels for path, labels in before.items() if path != "polygon.png"
        }
        assert len(restored["polygon.png"]) == len(before["polygon.png"]) + 1
        sync = ingest.Syncing(Run.open(run))
        assert (sync(everything=True), sync()) == (0, 0)
        assert_everything_is_there(run)
        assert "beetle" in dataset.label_schemas[schema.PREDICTIONS]["classes"]


@pytest.fixture
def fiftyone(cache: Path) -> Iterator[Any]:
    with connected_fiftyone() as module:
        yield module


@needs_mongod
def test_proposals_undo_and_what_else_a_person_does_between_two_syncs(fiftyone: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path, [a_photo(f"{name}.png", threshold="high") for name in "abcd"])
    name = ingest.ingest(Run.open(run)).dataset
    dataset = fiftyone.load_dataset(name)
    sync = ingest.Syncing(Run.open(run))
    assert sync() == 0
    samples = {sample["path"][0]: sample for sample in dataset}
    for key in "abc":
        samples[key].tags.append(ACCEPTED_TAG)
        samples[key].save()
    dataset.reload()
    modified = dataset.values("last_modified_at")
    assert (sync(), sync.changes) == (3, {"labels taken": 3, "object taken": 6, "accepted": 3})
    assert sync() == 0
    assert dataset.values("last_modified_at") == modified  # or the App would refuse to save what is open in it

    samples["a"][schema.PREDICTIONS].detections[0].label = "square"
    samples["a"].save()
    assert sync() == 1
    assert [found.class_name for found in state_of(run, "a.png").objects or ()] == ["square", "square"]
    samples["a"][schema.PREDICTIONS].detections[0].label = "round thing"
    samples["a"].save()
    assert sync() == 1
    assert [found.class_name for found in state_of(run, "a.png").objects or ()] == ["round thing", "square"]

    write_run(tmp_path, [a_photo(f"{name}.png") for name in "abcd"], "e" * 64)
    result = ingest.ingest(Run.open(run))
    assert (result.proposals, result.updated, result.kept) == (3, 1, 3)
    assert len(dataset.load_saved_view("Proposals")) == 3
    samples = {sample["path"][0]: sample for sample in dataset}
    samples["a"][schema.PROPOSALS].detections[0].tags.append(ACCEPTED_TAG)
    samples["b"][schema.PROPOSALS].detections[0].tags.append(REJECTED_TAG)
    samples["c"][schema.PROPOSALS].detections = []
    for key in "abc":
        samples[key].save()
    result = ingest.ingest(Run.open(run))
    assert result.proposals == 0
    assert [len(state_of(run, f"{key}.png").objects or ()) for key in "abc"] == [3, 2, 2]
    dataset.reload()
    assert dataset.match({"path": "a.png"}).count("predictions.detections") == 3

    dataset.delete_samples(dataset.match({"path": "d.png"}))
    assert (sync(), state_of(run, "d.png").deleted) == (1, True)
    photo = fiftyone.Sample(str(tmp_path / "photos" / "d.png"), image_id=Run.open(run).entries[0].ids[3], path="d.png")
    dataset.add_sample(photo)
    assert (sync(everything=True), state_of(run, "d.png").deleted) == (1, False)


@needs_mongod
def test_corrections_that_came_with_the_folder_reach_the_dataset(fiftyone: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path, [a_photo("a.png"), a_photo("b.png")])
    dataset = fiftyone.load_dataset(ingest.ingest(Run.open(run)).dataset)
    content = coco_of(run, tmp_path)
    first = content["images"][0]["id"]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] == first][:2]
    content["annotations"][0]["category_id"] = 2
    write_coco(tmp_path / "edited.json", content)
    sample = dataset.one({"path": "a.png"})
    sample[schema.PREDICTIONS].detections[1].label = "own class"
    sample.save()
    assert jobs.cli.main(["sync", str(run), "--from", str(tmp_path / "edited.json")]) == 0
    result = ingest.ingest(Run.open(run))
    assert result.changes == {"relabelled": 1}
    dataset.reload()
    shown = {path: [label for label, _ in labels] for path, labels in labels_shown(dataset).items()}
    assert shown == {"a.png": ["own class", "square"], "b.png": []}
