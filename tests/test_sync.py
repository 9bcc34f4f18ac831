"""People's corrections: out of FiftyOne into the run's folder, through a dead database and new labels, and back."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import jobs.cli
from models.masks import decode_mask
from pipeline.export.coco_labels import OBJECT_ID
from pipeline.export.labels import open_labels
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.records import AnnotatedImage
from pipeline.review import documents, ingest, schema
from pipeline.review.connection import connected_fiftyone
from pipeline.review.mongod import database_home
from pipeline.review.written import Written, note_line
from pipeline.reviewed.changes import ACCEPTED_TAG, REJECTED_TAG, ReviewedImage
from pipeline.reviewed.layer import ReviewedLayer, read_changes
from pipeline.store.run import Run
from tests.review_runs import disc, labelled, needs_mongod, odd_records, write_run

HW = (60, 80)


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give this module a folder for databases of its own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        yield folder


def a_photo(path: str, radius: float = 10, threshold: str = "low") -> AnnotatedImage:
    """Return an image with two discs; a low threshold gives a third object."""
    objects = [
        (disc(HW, (20, 20), radius), (20 - radius, 20 - radius, 21 + radius, 21 + radius), 0),
        (disc(HW, (55, 35), radius), (55 - radius, 35 - radius, 56 + radius, 36 + radius), 2),
    ]
    if threshold == "low":
        objects.append((disc(HW, (8, 52), 5), (3, 47, 14, 58), 1))
    return labelled(path, HW, objects)


def state_of(run: Path, path: str) -> ReviewedImage:
    (found,) = [state for state in ReviewedLayer(run).images.values() if state.image.path == path]
    return found


def exported(run: Path) -> dict[str, list[ExportObject]]:
    return {
        record.path: list(record.objects) for record in open_labels(run).records() if isinstance(record, ExportImage)
    }


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


def coco_of(run: Path, folder: Path) -> dict[str, Any]:
    from pipeline.export import export_run

    export_run(run, folder / "coco")
    content: dict[str, Any] = json.loads((folder / "coco" / "annotations.json").read_text())
    return content


def write_coco(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def kinds(run: Path) -> list[str]:
    return [str(change.kind) for change in read_changes(run) if not str(change.kind).endswith("taken")]


@pytest.mark.parametrize("keeps_ids", [True, False])
def test_a_file_that_a_person_edited_is_compared_object_by_object(tmp_path: Path, keeps_ids: bool) -> None:
    run = write_run(tmp_path, [a_photo("sub/a.png"), a_photo("sub/b.png"), a_photo("c.png")])
    content = coco_of(run, tmp_path)
    images = {image["file_name"]: image for image in content["images"]}
    a, b = (
        [row for row in content["annotations"] if row["image_id"] == images[name]["id"]]
        for name in ("sub/a.png", "sub/b.png")
    )
    a[0]["category_id"] = 2
    a.pop(1)
    b[1] |= {"segmentation": [[60, 30, 75, 30, 75, 45, 60, 45]], "bbox": [60, 30, 15, 15], "area": 225}
    b.append(
        {
            "id": 99,
            "image_id": images["sub/b.png"]["id"],
            "category_id": 1,
            "bbox": [1.5, 1, 5, 6],
            "area": 30,
            "iscrowd": 0,
        }
    )
    if not keeps_ids:
        for row in (*a, *b):
            row.pop(OBJECT_ID, None)
        for image in images.values():
            image.pop("groundlabel_id")
            image["file_name"] = f"upload/{image['file_name']}"
        b[1]["segmentation"] = [[45, 25, 70, 25, 70, 45, 45, 45]]
        b[1]["bbox"] = [45, 25, 25, 20]
    edited = {**content, "images": [images["sub/a.png"], images["sub/b.png"]], "annotations": [*a, *b]}
    file = write_coco(tmp_path / "edited.json", edited)
    assert jobs.cli.main(["sync", str(run), "--from", str(file)]) == 0
    assert sorted(kinds(run)) == ["added", "box", "deleted", "mask", "relabelled"]
    found = exported(run)
    assert sorted(found) == ["sub/a.png", "sub/b.png"]
    assert [item.class_name for item in found["sub/a.png"]] == ["square", "round thing"]
    assert found["sub/b.png"][-1].box_xyxy == (1.5, 1.0, 6.5, 7.0)
    assert found["sub/b.png"][-1].provenance == "human"
    count = len(read_changes(run))
    assert jobs.cli.main(["sync", str(run), "--from", str(file)]) == 0
    assert len(read_changes(run)) == count


def submitted(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return Label Studio's tasks as they are after a person looked at each prediction and submitted it."""
    for task in tasks:
        regions = [region for one in task.pop("predictions", ()) for region in one["result"]]
        task["annotations"] = [
            {"was_cancelled": False, "updated_at": "2026-01-02", "result": regions},
            {"was_cancelled": False, "updated_at": "2026-01-01", "result": []},
            {"was_cancelled": True, "updated_at": "2026-01-03", "result": []},
        ]
    return tasks


@pytest.mark.parametrize("name", ["coco", "cvat", "label-studio"])
def test_an_export_that_nobody_edited_changes_nothing(tmp_path: Path, name: str) -> None:
    from pipeline.export import export_run

    run = write_run(tmp_path, odd_records())
    export_run(run, tmp_path / "out", name)
    assert jobs.cli.main(["sync", str(run), "--from", str(tmp_path / "out")]) == 0
    if name == "label-studio":
        tasks = tmp_path / "out" / "tasks.json"
        tasks.write_text(json.dumps(submitted(json.loads(tasks.read_text()))))
        assert jobs.cli.main(["sync", str(run), "--from", str(tasks)]) == 0
    assert read_changes(run) == []


def edit_in_cvat(out: Path) -> Path:
    """Relabel, delete, draw a polygon, a turned box and a plain one, as CVAT writes them."""
    file = out / "annotations.xml"
    document = ElementTree.parse(file)
    a, b = (document.find(f"image[@name='{name}']") for name in ("sub/a.png", "b.png"))
    assert a is not None
    assert b is not None
    a[0].set("label", "square")
    a.remove(a[1])
    for tag, values in (
        ("polygon", {"label": "beetle", "points": "60,2;76,2;76,10;60,10"}),
        ("box", {"label": "beetle", "xtl": "1.5", "ytl": "1", "xbr": "6.5", "ybr": "7"}),
        ("box", {"label": "square", "xtl": "30", "ytl": "40", "xbr": "50", "ybr": "50", "rotation": "90"}),
        ("polyline", {"label": "square", "points": "0,0;5,5"}),
    ):
        ElementTree.SubElement(b, tag, values)
    document.write(file)
    return file


def edit_in_label_studio(out: Path) -> Path:
    """Do the same in Label Studio, which keeps neither our id of a region nor the image's path."""
    file = out / "tasks.json"
    tasks = {task["data"]["path"]: task for task in submitted(json.loads(file.read_text()))}
    a, b = (tasks[name]["annotations"][0]["result"] for name in ("sub/a.png", "b.png"))
    a[0]["value"]["brushlabels"] = ["square"]
    del a[1]
    for row, region in enumerate((*a, *b)):
        region["id"] = f"region{row}"
    size = {"original_width": HW[1], "original_height": HW[0]}
    corners = [[75, 100 / 30], [95, 100 / 30], [95, 100 / 6], [75, 100 / 6]]
    plain = {"x": 1.875, "y": 100 / 60, "width": 6.25, "height": 10, "rotation": 0, "rectanglelabels": ["beetle"]}
    turned = {"x": 56.25, "y": 100 * 35 / 60, "width": 25, "height": 100 / 6, "rotation": 90}
    b += [
        {"id": "p", "type": "polygonlabels", "value": {"points": corners, "polygonlabels": ["beetle"]}, **size},
        {"id": "r", "type": "rectanglelabels", "value": plain, **size},
        {"id": "t", "type": "rectanglelabels", "value": turned | {"rectanglelabels": ["square"]}, **size},
        {"id": "c", "type": "choices", "value": {"choices": ["good"]}},
    ]
    tasks["sub/a.png"]["data"] = {"image": "/data/upload/3/0a1b2c3d-a.png"}
    tasks["b.png"]["data"] = {"image": "/data/local-files/?d=images%2Fb.png"}
    tasks["c.png"].pop("annotations")
    file.write_text("\ufeff" + json.dumps([*tasks.values()]), encoding="utf-8")
    return file


@pytest.mark.parametrize(("name", "edit"), [("cvat", edit_in_cvat), ("label-studio", edit_in_label_studio)])
def test_corrections_come_back_from_cvat_and_label_studio(
    tmp_path: Path, name: str, edit: Callable[[Path], Path]
) -> None:
    from pipeline.export import export_run

    run = write_run(tmp_path, [a_photo("sub/a.png"), a_photo("b.png"), a_photo("c.png")])
    export_run(run, tmp_path / "out", name)
    file = edit(tmp_path / "out")
    assert jobs.cli.main(["sync", str(run), "--from", str(file)]) == 0
    assert sorted(kinds(run)) == ["added", "added", "added", "deleted", "relabelled"]
    found = exported(run)
    assert sorted(found) == ["b.png", "sub/a.png"]
    assert [item.class_name for item in found["sub/a.png"]] == ["square", "round thing"]
    assert found["sub/a.png"][0].provenance == "model+human"
    polygon, plain, turned = found["b.png"][3:]
    assert (polygon.class_name, polygon.provenance, polygon.box_xyxy) == ("beetle", "human", (60, 2, 76, 10))
    assert (plain.class_name, plain.mask) == ("beetle", None)
    np.testing.assert_allclose(plain.box_xyxy, (1.5, 1, 6.5, 7), atol=1e-6)
    np.testing.assert_allclose(turned.box_xyxy, (35, 35, 45, 55), atol=1)
    count = len(read_changes(run))
    assert jobs.cli.main(["sync", str(run), "--from", str(file)]) == 0
    assert len(read_changes(run)) == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><track id='0'/></annotations>", "CVAT for images 1.1"),
        ("<annotations><image name='a.png' width='80' height='wide'/></annotations>", "height='wide'"),
        ("<annotations><image name='a.png' width='80' height='60'><cuboid/></image></annotations>", "<cuboid>"),
        (
            "<annotations><image name='a.png' width='80' height='60'>"
            "<mask rle='3, 2' left='0' top='0' width='3' height='3'/></image></annotations>",
            "5 in its rle",
        ),
        ("<annotations>", "cannot be read"),
        ("[1, 2]", "Label Studio"),
        (
            '[{"data": {"image": "a.png"}, "annotations": [{"result": [{"type": "brushlabels", "value": '
            '{"brushlabels": ["x"], "rle": [1]}, "id": "1", "original_width": 80, "original_height": 60}]}]}]',
            "a.png",
        ),
    ],
)
def test_a_file_that_is_damaged_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    run = write_run(tmp_path, [a_photo("a.png")])
    file = tmp_path / "edited"
    file.write_text(text)
    assert jobs.cli.main(["sync", str(run), "--from", str(file)]) == 2
    assert message in capsys.readouterr().err
    assert read_changes(run) == []


def test_wrong_files_are_refused_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, [a_photo("a.png")])
    content = coco_of(run, tmp_path)
    image = content["images"][0]
    strange = {**content, "images": [{**image, "file_name": "z.png", "groundlabel_id": ""}]}
    larger = {**content, "images": [{**image, "width": 800}], "annotations": []}
    for wrong, message in ((strange, "none of its 1 images"), (larger, "800 × 60")):
        assert jobs.cli.main(["sync", str(run), "--from", str(write_coco(tmp_path / "wrong.json", wrong))]) == 2
        assert message in capsys.readouterr().err
    assert read_changes(run) == []


def test_a_stored_document_is_what_fiftyone_makes_of_a_detection() -> None:
    import fiftyone as fo
    from bson import ObjectId

    from pipeline.reviewed.convert import record_to_objects

    (first, *_) = record_to_objects(a_photo("a.png"))
    document = documents.object_to_document(first, HW, 1, ObjectId())
    detection = fo.Detection.from_dict(document)
    assert detection.label == first.class_name
    left, top, width, height = np.round(np.multiply(detection.bounding_box, [80, 60, 80, 60])).astype(int)
    full = np.zeros(HW, bool)
    full[top : top + height, left : left + width] = detection.mask
    np.testing.assert_array_equal(full, disc(HW, (20, 20), 10))
    values = {name: detection[name] for name in ("object_id", "class_id", "prompt", "mask_score", "detector_box")}
    made = fo.Detection(
        label=detection.label,
        bounding_box=list(detection.bounding_box),
        mask=detection.mask,
        confidence=detection.confidence,
        tags=[],
        **values,
    ).to_dict()
    assert made.keys() == document.keys()
    assert {key for key in made if key not in ("_id", "mask") and made[key] != document[key]} == set()
    np.testing.assert_array_equal(documents.unpack_mask(made["mask"]), documents.unpack_mask(document["mask"]))


def test_the_note_of_what_was_written_knows_where_each_label_was() -> None:
    box = [0.125, 0.25, 0.5, 0.125]
    label = {"_id": 7, "object_id": "an\tid [1]", "label": 'a "b"\tc', "bounding_box": box, "confidence": 0.5}
    drawn = {"_id": 8, "label": "beetle", "bounding_box": box}
    line = {"_id": 9, "label": "way", "points": [[(0, 0), (1, 1)]]}
    lines = [note_line(document) for document in (label, drawn, line)]
    earlier = f"{documents.signature(drawn)} of an earlier note"
    stored = {"row": "r", "state": "s", "tags": ["t"], schema.PREDICTIONS: [*lines, earlier]}
    note = Written.from_document(stored)
    assert note is not None
    keys = ("an\tid [1]", "8", "9", "of an earlier note")
    assert tuple(note.labels[schema.PREDICTIONS]) == keys
    assert note.labels[schema.PREDICTIONS]["8"] == documents.signature(drawn)
    places = note.places[schema.PREDICTIONS]
    assert places.keys() == {"an\tid [1]", "8"}
    known = places[keys[0]].to_object(keys[0], (80, 160))
    assert (known.class_name, known.box_xyxy, known.score) == ('a "b"\tc', (20, 20, 100, 30), 0.5)
    assert (known.origin, places["8"].to_object("8", HW).origin) == ("model", "human")
    assert Written.from_document(note.to_document()) == note


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (61, 20, 4)])
def test_masks_of_any_size_fill_their_box(shape: tuple[int, ...]) -> None:
    import fiftyone.core.utils as fou

    packed = fou.serialize_numpy_array(np.full(shape, 7, np.float32))
    found = documents.document_to_object(
        {"_id": 1, "label": None, "bounding_box": [0.5004, -0.2, 0.9, 0.5], "mask": packed}, "key", HW, None, False
    )
    assert found is not None
    assert (found.class_name, found.box_xyxy) == ("unlabelled", (40.032, 0.0, 80.0, 18.0))
    assert found.mask is not None
    expected = np.zeros(HW, bool)
    expected[:18, 40:] = True
    np.testing.assert_array_equal(decode_mask(found.mask), expected)


def test_lines_and_boxes_without_area_are_no_objects() -> None:
    for document in (
        {"_id": 1, "bounding_box": [0.5, 0.5, 0.0, 0.2]},
        {"_id": 1, "bounding_box": [0.5, 0.5]},
        {"_id": 1, "bounding_box": [0.5, 0.5, float("nan"), 0.1]},
        {"_id": 1, "points": [[(0.1, 0.1), (0.5, 0.5)]]},
        {"_id": 1, "points": []},
    ):
        assert documents.document_to_object(document, "key", HW, None, False) is None
