"""A run in FiftyOne: what arrives there, what a second ingest does, and that a person's work survives it."""

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jobs.review
from models.mask_crops import crop_mask
from models.masks import decode_mask, encode_mask, mask_boxes_xywh
from pipeline.errors import UserError
from pipeline.records import AnnotatedImage, FailedImage, Record
from pipeline.review import app, documents, ingest, schema, views
from pipeline.review.connection import connected_fiftyone
from pipeline.review.orders import ORDERS
from pipeline.review.schema import dataset_name
from pipeline.review.side_by_side import field_names, trial_dataset
from pipeline.reviewed.changes import ACCEPTED_TAG
from pipeline.store.run import Run
from pipeline.trial.agreement import compare_labels
from pipeline.trial.arms import Arm
from pipeline.trial.trial import Trial
from tests.review_runs import ONTOLOGY, disc, labelled, needs_mongod, odd_records, write_run

ROOT = Path(__file__).parents[1]
HW = (60, 80)


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def fiftyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """FiftyOne, connected to a database of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        with connected_fiftyone() as module:
            yield module


def bring_in(run_folder: Path) -> ingest.IngestResult:
    return ingest.ingest(Run.open(run_folder))


def one_disc(path: str, radius: float = 10, prompt: int = 0) -> AnnotatedImage:
    return labelled(path, HW, [(disc(HW, (30, 25), radius), (20, 15, 40, 35), prompt)])


def full_mask(detection: Any, image_hw: tuple[int, int]) -> np.ndarray:
    """Return a detection's mask in its image, as FiftyOne itself puts it there."""
    if detection.mask is None:
        return np.zeros(image_hw, bool)
    return np.asarray(detection.to_segmentation(frame_size=image_hw[::-1], target=255).mask) == 255


def assert_equals_record(sample: Any, record: Record) -> None:
    """Check that a sample says what a record says, to the pixel."""
    assert (sample["image_id"], sample["path"]) == (record.image_id, record.path)
    if isinstance(record, FailedImage):
        assert (sample[schema.PREDICTIONS], sample["reason"]) == (None, record.reason)
        assert schema.FAILED_TAG in sample.tags
        return
    assert schema.FAILED_TAG not in sample.tags
    assert (sample.metadata.height, sample.metadata.width) == record.image_hw
    found = record.instances.detections
    labels = sample[schema.PREDICTIONS].detections
    assert [label.label for label in labels] == list(record.class_names)
    assert [label["object_id"] for label in labels] == list(record.instance_ids)
    assert [label["prompt"] for label in labels] == list(record.prompts)
    assert [label["class_id"] for label in labels] == found.class_ids.tolist()
    np.testing.assert_array_equal([label.confidence for label in labels], found.scores)
    np.testing.assert_array_equal([label["mask_score"] for label in labels], record.instances.mask_scores)
    for label, rle, box in zip(labels, record.instances.masks, found.boxes_xyxy, strict=True):
        np.testing.assert_array_equal(label["detector_box"], box)
        left, top, width, height = label.bounding_box
        assert min(left, top) >= 0
        assert max(left + width, top + height) <= 1
        np.testing.assert_array_equal(full_mask(label, record.image_hw), decode_mask(rle))


@needs_mongod
def test_everything_odd_arrives_as_it_was(fiftyone: Any, tmp_path: Path) -> None:
    records = odd_records()
    run = write_run(tmp_path, records)
    progress: list[int] = []
    result = ingest.ingest(Run.open(run), progress.append)
    assert result == ingest.IngestResult(result.dataset, result.slug, 5, 6, 1, added=5, updated=0, kept=0, gone=0)
    assert progress == [5]
    dataset = fiftyone.load_dataset(result.dataset)
    assert dataset.persistent
    samples = {sample["path"]: sample for sample in dataset}
    assert len(samples) == len(records)
    for record in records:
        assert_equals_record(samples[record.path], record)
        assert samples[record.path].filepath == str(tmp_path / "photos" / record.path)
        assert samples[record.path]["fingerprint"] == "f" * 64
    assert len(samples["empty.png"][schema.PREDICTIONS].detections) == 0
    without_mask = samples["wide.png"][schema.PREDICTIONS].detections[2]
    assert without_mask.mask is None
    np.testing.assert_allclose(without_mask.bounding_box, [5.5 / 160, 6 / 90, 14.5 / 160, 24 / 90], atol=1e-5)
    opens = {order: views.opening_view(dataset, order) for order in ORDERS}
    assert (opens["gain"], opens["doubt"], opens["path"]) == ("review-order", "doubtful-objects", "")
    assert opens["proposals"] == "", "an empty queue shows nothing"
    assert {name for name in ORDERS.values() if name} <= views.DESCRIPTIONS.keys()


@needs_mongod
def test_the_mask_is_not_cut_by_the_detectors_box(fiftyone: Any, tmp_path: Path) -> None:
    mask = disc(HW, (40, 30), 25)
    result = bring_in(write_run(tmp_path, [labelled("a.png", HW, [(mask, (35, 25, 45, 35), 0)])]))
    label = fiftyone.load_dataset(result.dataset).first()[schema.PREDICTIONS].detections[0]
    np.testing.assert_array_equal(full_mask(label, HW), mask)
    tight = mask_boxes_xywh([encode_mask(mask)])[0]
    np.testing.assert_allclose(np.multiply(label.bounding_box, [80, 60, 80, 60]), tight, atol=3e-4)
    assert list(label["detector_box"]) == [35, 25, 45, 35]


@needs_mongod
def test_fields_are_declared_and_a_file_cannot_come_twice(fiftyone: Any, tmp_path: Path) -> None:
    result = bring_in(write_run(tmp_path, [labelled("a.png", HW, [])]))
    dataset = fiftyone.load_dataset(result.dataset)
    fields = dataset.get_field_schema(flat=True)
    for name, (kind, _) in schema.SAMPLE_FIELDS.items():
        assert isinstance(fields[name], getattr(fiftyone, kind))
    for name, (kind, _) in schema.DETECTION_FIELDS.items():
        assert isinstance(fields[f"{schema.PREDICTIONS}.detections.{name}"], getattr(fiftyone, kind))
    colors = dataset.app_config.color_scheme.fields[0]["valueColors"]
    assert colors == [{"value": "round thing", "color": "#ff00ff"}, {"value": "square", "color": "#00ff00"}]
    assert set(dataset.active_label_schemas) == {schema.PREDICTIONS, schema.POLYGONS}
    assert dataset.label_schemas[schema.PREDICTIONS]["classes"] == ["round thing", "square"]
    with pytest.raises(Exception, match="duplicate key"):
        dataset.add_sample(fiftyone.Sample(dataset.first().filepath))


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
def test_runs_of_the_same_name_have_datasets_of_their_own(fiftyone: Any, tmp_path: Path) -> None:
    results = [bring_in(write_run(tmp_path / place, [one_disc(f"{place}.png")])) for place in ("here", "there")]
    assert results[0].dataset != results[1].dataset
    assert [fiftyone.load_dataset(result.dataset).values("path") for result in results] == [["here.png"], ["there.png"]]


@needs_mongod
def test_ontologies_that_were_tried_are_fields_side_by_side(fiftyone: Any, tmp_path: Path) -> None:
    records = odd_records()
    write_run(tmp_path, [*records, one_disc("agreed.png")])
    fewer = [
        labelled(record.path, record.image_hw, []) if isinstance(record, AnnotatedImage) else record
        for record in records
    ]
    arms = tuple(
        Arm(name, ONTOLOGY, tmp_path / "photos", [*rows, one_disc("agreed.png")])
        for name, rows in (("sub/A b.yaml", records), ("circle, square", fewer))
    )
    agreements = {(0, 1): compare_labels(arms[0].images(), arms[1].images())}
    trial = Trial(arms, 6, 6, agreements, {}, ((), ()), None)
    with trial_dataset(trial, tmp_path / "try") as dataset:
        first, second = field_names(trial)
        assert (first, second) == ("ontology_1_a_b", "ontology_2_circle_square")
        assert dataset.values("path")[0] == "wide.png"
        assert dataset.values("disputed") == sorted(dataset.values("disputed"), reverse=True)
        shown = {sample["path"]: sample for sample in dataset}
        assert set(shown) == {record.path for record in arms[0].rows}
        assert (shown["sub/broken.jpg"][first], shown["sub/broken.jpg"][second]) == (None, None)
        for record in (record for record in records if isinstance(record, AnnotatedImage)):
            labels = shown[record.path][first].detections
            assert [label.label for label in labels] == list(record.class_names)
            assert shown[record.path][second].detections == []
            for label, rle in zip(labels, record.instances.masks, strict=True):
                if label.mask is not None:
                    np.testing.assert_array_equal(full_mask(label, record.image_hw), decode_mask(rle))
        assert dataset.get_field(second).description == "circle, square"
    assert not fiftyone.dataset_exists(dataset.name)
    left_behind = fiftyone.Dataset(dataset.name)
    with pytest.raises(UserError, match="of no trial"), trial_dataset(trial, tmp_path / "try"):
        pass
    left_behind.info = {"groundlabel": {"trial": "try"}}
    left_behind.save()
    with trial_dataset(trial, tmp_path / "try") as dataset:
        assert len(dataset) == 6


def test_a_name_that_is_not_utf8_is_shown_through_a_link(fiftyone: Any, tmp_path: Path) -> None:
    raw = os.fsdecode(b"na\xefve.png")
    record = one_disc(raw)
    result = bring_in(write_run(tmp_path, [replace(record)]))
    filepath = Path(fiftyone.load_dataset(result.dataset).first().filepath)
    assert filepath.is_symlink()
    assert os.readlink(filepath) == str(tmp_path / "photos" / raw)
    assert bring_in(tmp_path / "run").updated == 0


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


@given(data=st.data(), height=st.integers(1, 40), width=st.integers(1, 40))
def test_a_crop_is_what_decoding_gives(data: st.DataObject, height: int, width: int) -> None:
    rows = data.draw(st.lists(st.integers(0, 2**width - 1), min_size=height, max_size=height))
    mask = np.array([[value >> column & 1 for column in range(width)] for value in rows], bool)
    cropped = crop_mask(encode_mask(mask))
    if not mask.any():
        assert cropped is None
        return
    assert cropped is not None
    (x, y, w, h), crop = cropped[0].astype(int), cropped[1]
    again = np.zeros_like(mask)
    again[y : y + h, x : x + w] = crop
    np.testing.assert_array_equal(again, mask)


def test_a_mask_stays_where_it_is_when_its_box_moves_by_part_of_a_pixel() -> None:
    mask = disc((21, 21), (10, 10), 10)
    placed = decode_mask(documents.place_mask(mask, (45.05, 24.94, 65.97, 45.91), HW))
    np.testing.assert_array_equal(placed, disc(HW, (55, 35), 10))
    corner = documents.place_mask(np.ones((3, 5), bool), (79.8, 59.9, 80.0, 60.0), HW)
    np.testing.assert_array_equal(np.argwhere(decode_mask(corner)), [[59, 79]])
    tiny = decode_mask(documents.place_mask(np.ones((1, 1), bool), (3.1, 4.2, 3.3, 4.4), HW))
    np.testing.assert_array_equal(np.argwhere(tiny), [[4, 3]])


def test_a_crop_of_a_large_image_is_what_decoding_gives() -> None:
    mask = disc((3000, 2500), (1400.3, 1700.8), 900) & ~disc((3000, 2500), (1300, 1500), 200)
    rle = encode_mask(mask)
    cropped = crop_mask(rle)
    assert cropped is not None
    x, y, w, h = cropped[0].astype(int)
    np.testing.assert_array_equal(cropped[1], mask[y : y + h, x : x + w])


@given(data=st.data(), side=st.integers(1, 5000), other=st.integers(1, 5000))
def test_boxes_land_on_their_pixels_for_readers_that_truncate_or_round(
    data: st.DataObject, side: int, other: int
) -> None:
    start = data.draw(st.integers(0, side - 1))
    length = data.draw(st.integers(1, side - start))
    for vertical in (False, True):
        box = [0, start, other, length] if vertical else [start, 0, length, other]
        hw = (side, other) if vertical else (other, side)
        relative = documents.box_to_rel(np.array(box, float), hw)
        low, extent = relative[vertical], relative[2 + vertical]
        assert 0 <= low <= low + extent <= 1
        assert int(low * side) == start == round(low * side)
        assert int((low + extent) * side) == start + length == round((low + extent) * side)


@pytest.mark.parametrize(
    ("folder", "start"), [("run", "run-"), ("my run ü (2)", "my-run-2-"), ("…", "run-"), ("a" * 200, "a" * 60 + "-")]
)
def test_dataset_names_are_plain(tmp_path: Path, folder: str, start: str) -> None:
    name = dataset_name(tmp_path / folder)
    assert name.startswith(start)
    assert name.isascii()
    assert name != dataset_name(tmp_path / "elsewhere" / folder)


@pytest.mark.parametrize(
    ("address", "expected"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_loopback_is_known(address: str, expected: bool) -> None:
    assert app.is_loopback(address) is expected


def test_a_port_is_taken_at_once_and_errors_are_clear() -> None:
    with app.open_listener(None, "127.0.0.1") as first, app.open_listener(None, "127.0.0.1") as second:
        ports = [listener.getsockname()[1] for listener in (first, second)]
        assert ports[0] != ports[1]
        with pytest.raises(UserError, match=f"--port {ports[1]} is taken"):
            app.open_listener(ports[1], "127.0.0.1")
    with app.open_listener(ports[1], "127.0.0.1") as again:
        assert again.getsockname()[1] == ports[1]
    for port, address in ((0, "192.0.2.1"), (99999, "127.0.0.1"), (None, "no such host")):
        with pytest.raises(UserError, match=f"--address {address}"):
            app.open_listener(port, address)


def test_a_wide_address_is_warned_about_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.review.connection.connected_fiftyone", lambda: (_ for _ in ()).throw(UserError("x")))
    monkeypatch.setattr(jobs.review, "end_on_signals", lambda: None)
    parser = argparse.ArgumentParser()
    jobs.review.add_arguments(parser)
    run = write_run(tmp_path, [one_disc("a.png")])
    with pytest.raises(UserError):
        jobs.review.run(parser.parse_args([str(run), "--address", "0.0.0.0", "--port", "0"]))
    assert "no password" in capsys.readouterr().err


def test_the_ontology_of_the_tests_has_what_they_need() -> None:
    assert [prompt.class_id for prompt in ONTOLOGY.prompts] == [1, 1, 2]


def test_the_command_imports_no_fiftyone() -> None:
    code = "import sys, jobs.review, pipeline.review\n"
    code += "print([name for name in ('fiftyone', 'torch', 'ray', 'pyarrow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class _Sync:
    """Stands in for what finds corrections: counts its calls."""

    def __init__(self, reachable: bool = True) -> None:
        self.calls: list[bool] = []
        self.changes = {"added": 2, "object taken": 7}
        self.can_reach_database = lambda: reachable

    def __call__(self, everything: bool = False) -> int:
        self.calls.append(everything)
        return 0


class _Server:
    """Stands in for the App: after some waits it ends as it was told to."""

    def __init__(self, waits: int, end: BaseException) -> None:
        self._waits, self._end = waits, end

    def wait(self, seconds: float) -> None:
        self._waits -= 1
        if self._waits < 0:
            raise self._end


def test_corrections_are_written_while_the_app_is_open_and_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    sync = _Sync()
    jobs.review._sync_until_closed(_Server(2, KeyboardInterrupt()), sync)  # type: ignore[arg-type]
    assert sync.calls == [False, False, True]
    assert capsys.readouterr().out == "corrections written to the run: 2 added\n"
    for reachable, end in ((True, SystemExit(143)), (False, UserError("the server ended"))):
        sync = _Sync(reachable)
        with pytest.raises(type(end)):
            jobs.review._sync_until_closed(_Server(0, end), sync)  # type: ignore[arg-type]
        assert sync.calls == ([True] if reachable else [])
