"""The reviewed layer without FiftyOne: what is written comes back, replays to the same state, and reaches exports."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.masks import decode_mask, encode_mask
from pipeline.errors import UserError
from pipeline.export import export_run
from pipeline.export.labels import open_labels
from pipeline.export.objects import ExportImage
from pipeline.records import AnnotatedImage, FailedImage
from pipeline.reviewed.base import read_base
from pipeline.reviewed.changes import (
    ACCEPTED_TAG,
    REJECTED_TAG,
    Change,
    ImageRef,
    Kind,
    ReviewedImage,
    ReviewedObject,
    replay,
    take_labels,
)
from pipeline.reviewed.diff import object_changes, tag_changes
from pipeline.reviewed.labels import ReviewedLabels, reviewed_records
from pipeline.reviewed.layer import ReviewedLayer, layer_files, read_changes
from pipeline.reviewed.proposals import find_proposals
from pipeline.reviewed.table import changes_to_table, table_to_changes
from pipeline.store.run import Run
from tests.review_runs import disc, odd_records, write_run

HW = (60, 80)
IMAGE = ImageRef("0123456789abcdef", "sub/a.png", HW)


def an_object(object_id: str = "one", **values: object) -> ReviewedObject:
    mask = encode_mask(disc(HW, (30, 25), 10))
    known = ReviewedObject(
        object_id, "square", (20.0, 15.0, 41.0, 36.0), mask, 0.5, 0.75, "square", (1.0, 2.0, 3.5, 4.0)
    )
    return dataclasses.replace(known, **{"origin": "model", **values})  # type: ignore[arg-type]


def one_of_each() -> list[Change]:
    first, second = (
        an_object(),
        an_object("two", mask=None, score=None, mask_score=None, prompt=None, detector_box=None),
    )
    drawn = ReviewedObject("drawn", "käfer", (0.25, 1.5, 7.125, 9.0), tags=("a", "b"), attributes='{"occluded": true}')
    return [
        *take_labels(IMAGE, [first, second], "row"),
        *object_changes(
            IMAGE, first, dataclasses.replace(first, class_name="round thing", box_xyxy=(1.0, 2.0, 3.0, 4.0))
        ),
        Change(IMAGE, Kind.DELETED, "two", before=second),
        Change(IMAGE, Kind.ADDED, "drawn", after=drawn),
        *tag_changes(IMAGE, (), ("accepted", "night")),
    ]


def test_changes_come_back_from_parquet_as_they_were() -> None:
    changes = one_of_each()
    again = table_to_changes(changes_to_table(changes), "here")
    assert again == changes
    assert [change.time for change in again] == [
        change.time.replace(microsecond=change.time.microsecond // 1000 * 1000) for change in changes
    ]
    assert table_to_changes(changes_to_table([]), "here") == []


def test_replaying_gives_the_state_and_twice_is_no_harm() -> None:
    changes = one_of_each()
    state = replay(changes)[IMAGE.image_id]
    assert [found.object_id for found in state.objects or ()] == ["one", "drawn"]
    first = (state.objects or ())[0]
    assert (first.class_name, first.box_xyxy, first.origin) == ("round thing", (1.0, 2.0, 3.0, 4.0), "model+human")
    assert [found.object_id for found in state.removed] == ["two"]
    assert (state.tags, state.base, state.deleted, state.is_accepted) == (("accepted", "night"), "row", False, True)
    assert replay([*changes, *changes]) == {IMAGE.image_id: state}
    assert replay(changes[6:], replay(changes[:6])) == {IMAGE.image_id: state}


def test_tags_alone_leave_the_labels_to_the_run() -> None:
    state = replay(tag_changes(IMAGE, (), ("night",)))[IMAGE.image_id]
    assert (state.objects, state.tags) == (None, ("night",))
    reopened = tag_changes(IMAGE, (ACCEPTED_TAG, "night"), ())
    assert [change.kind for change in reopened] == [Kind.REOPENED, Kind.IMAGE_TAG]
    assert replay(reopened)[IMAGE.image_id].tags == ()


def test_each_kind_of_change_is_told_apart() -> None:
    before = an_object()
    other = encode_mask(disc(HW, (40, 30), 8))
    kinds = {
        "class_name": (Kind.RELABELLED, "round thing"),
        "box_xyxy": (Kind.BOX, (0.0, 0.0, 1.5, 2.0)),
        "mask": (Kind.MASK, other),
        "tags": (Kind.TAG, ("wrong",)),
        "attributes": (Kind.ATTRIBUTE, '{"a": 1}'),
    }
    assert object_changes(IMAGE, before, before) == []
    for name, (kind, value) in kinds.items():
        (change,) = object_changes(IMAGE, before, dataclasses.replace(before, **{name: value}))  # type: ignore[arg-type]
        assert (change.kind, change.before) == (kind, before)
        assert change.after is not None
        assert change.after.origin == ("model" if kind in (Kind.TAG, Kind.ATTRIBUTE) else "model+human")
    everything = dataclasses.replace(before, **{name: value for name, (_, value) in kinds.items()})  # type: ignore[arg-type]
    changes = object_changes(IMAGE, before, everything)
    assert [change.kind for change in changes] == [kind for kind, _ in kinds.values()]
    assert all(first.after == second.before for first, second in itertools.pairwise(changes))
    moved = dataclasses.replace(before, box_xyxy=(0.0, 0.0, 1.5, 2.0), mask=other)
    assert [change.kind for change in object_changes(IMAGE, before, moved, brushed=False)] == [Kind.BOX]


@given(steps=st.lists(st.tuples(st.sampled_from(["add", "delete", "relabel"]), st.sampled_from("abc")), max_size=12))
def test_any_series_of_changes_replays_in_parts_as_in_one(steps: list[tuple[str, str]]) -> None:
    changes = [Change(IMAGE, Kind.LABELS_TAKEN, base="row")]
    for number, (what, key) in enumerate(steps):
        known = an_object(key, class_name=f"class {number}")
        if what == "delete":
            changes.append(Change(IMAGE, Kind.DELETED, key, before=known))
        else:
            kind = Kind.ADDED if what == "add" else Kind.RELABELLED
            changes.append(Change(IMAGE, kind, key, after=known))
    whole = replay(table_to_changes(changes_to_table(changes), "here"))
    parts: dict[str, ReviewedImage] = {}
    for change in changes:
        parts |= replay([change], parts)
    assert parts == whole


def test_a_layer_keeps_one_file_a_session_and_all_of_it(tmp_path: Path) -> None:
    changes = one_of_each()
    layer = ReviewedLayer(tmp_path)
    layer.add([])
    assert layer_files(tmp_path) == []
    layer.add(changes[:3])
    layer.add(changes[3:])
    assert len(layer_files(tmp_path)) == 1
    assert layer.counts["added"] == 1
    second = ReviewedLayer(tmp_path)
    assert second.images == layer.images == replay(changes)
    second.add(tag_changes(IMAGE, ("accepted", "night"), ("night",)))
    assert len(layer_files(tmp_path)) == 2
    assert read_changes(tmp_path)[:-1] == changes
    assert not ReviewedLayer(tmp_path).images[IMAGE.image_id].is_accepted
    assert {path.suffix for path in (tmp_path / "reviewed").iterdir()} == {".parquet"}


def test_a_session_after_the_clock_was_set_back_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ReviewedLayer(tmp_path).add(tag_changes(IMAGE, (), ("first",)))
    monkeypatch.setattr("pipeline.reviewed.layer.time.time_ns", lambda: 1_000_000_000)
    ReviewedLayer(tmp_path).add(tag_changes(IMAGE, ("first",), ("second",)))
    assert ReviewedLayer(tmp_path).images[IMAGE.image_id].tags == ("second",)


def test_a_damaged_file_is_named_and_a_full_disk_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = ReviewedLayer(tmp_path)
    layer.add(tag_changes(IMAGE, (), ("first",)))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.reviewed.layer.write_file", full)
        with pytest.raises(UserError, match="No space left"):
            layer.add(tag_changes(IMAGE, ("first",), ("second",)))
    assert layer.images[IMAGE.image_id].tags == ("first",)
    assert ReviewedLayer(tmp_path).images == layer.images
    (path,) = layer_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=path.name):
        ReviewedLayer(tmp_path)


def corrected_run(tmp_path: Path) -> tuple[Path, dict[str, AnnotatedImage]]:
    """Write a run of odd records and a layer over it: one of each kind of change."""
    records = odd_records()
    folder = write_run(tmp_path, records)
    run = Run.open(folder)
    rows = {record.path: record for record in records if isinstance(record, AnnotatedImage)}
    base = read_base(run, [record.image_id for record in rows.values()])
    wide, tall, whole = (base[rows[path].image_id] for path in ("wide.png", "sub/tall.png", "whole.png"))
    drawn = ReviewedObject("drawn", "Beetle", (3.25, 4.5, 20.75, 30.0))
    relabelled = dataclasses.replace(wide.objects[0], class_name="SQUARE ")
    rejected = dataclasses.replace(wide.objects[1], tags=(REJECTED_TAG,))
    ReviewedLayer(folder).add(
        [
            *take_labels(wide.image, wide.objects, wide.digest),
            *object_changes(wide.image, wide.objects[0], relabelled),
            *object_changes(wide.image, wide.objects[1], rejected),
            Change(wide.image, Kind.ADDED, "drawn", after=drawn),
            *take_labels(tall.image, tall.objects, tall.digest),
            Change(tall.image, Kind.DELETED, tall.objects[0].object_id, before=tall.objects[0]),
            *tag_changes(tall.image, (), (ACCEPTED_TAG,)),
            Change(whole.image, Kind.IMAGE_DELETED),
        ]
    )
    return folder, rows


def test_exports_read_the_corrected_labels(tmp_path: Path) -> None:
    folder, rows = corrected_run(tmp_path)
    labels = open_labels(folder)
    assert isinstance(labels, ReviewedLabels)
    assert [spec.name for spec in labels.ontology.classes] == ["round thing", "square", "Beetle"]
    found = {record.path: record for record in labels.records()}
    assert list(found) == ["empty.png", "sub/broken.jpg", "sub/tall.png", "wide.png"]
    assert isinstance(found["empty.png"], AnnotatedImage)
    assert isinstance(found["sub/broken.jpg"], FailedImage)
    wide, tall = found["wide.png"], found["sub/tall.png"]
    assert isinstance(wide, ExportImage)
    assert isinstance(tall, ExportImage)
    first, drawn = wide.objects
    assert (first.class_name, first.class_id, first.provenance) == ("square", 2, "model+human")
    assert first.mask is not None
    np.testing.assert_array_equal(decode_mask(first.mask), decode_mask(rows["wide.png"].instances.masks[0]))
    assert (drawn.class_name, drawn.class_id, drawn.box_xyxy) == ("Beetle", 3, (3.25, 4.5, 20.75, 30.0))
    assert (drawn.mask, drawn.score, drawn.prompt, drawn.provenance) == (None, None, None, "human")
    assert wide.empty_masks == (rows["wide.png"].instance_ids[2],)
    assert [item.instance_id for item in tall.objects] == [rows["sub/tall.png"].instance_ids[1]]
    assert [record.path for record in reviewed_records(folder, "accepted")] == ["sub/tall.png"]
    with pytest.raises(UserError, match="must be one of all, accepted"):
        reviewed_records(folder, "some")


def test_a_run_without_a_review_is_read_as_before(tmp_path: Path) -> None:
    folder = write_run(tmp_path, odd_records())
    assert isinstance(open_labels(folder), Run)
    assert [record.image_id for record in reviewed_records(folder)] == [
        record.image_id for record in Run.open(folder).records()
    ]


def test_exporting_a_reviewed_run_gives_the_corrections(tmp_path: Path) -> None:
    folder, _ = corrected_run(tmp_path)
    export_run(folder, tmp_path / "coco")
    content = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert sorted(names[annotation["category_id"]] for annotation in content["annotations"]) == [
        "Beetle",
        "square",
        "square",
    ]


def test_proposals_are_what_the_review_neither_has_nor_refused() -> None:
    kept, refused = an_object("kept"), an_object("refused", box_xyxy=(60.0, 40.0, 70.0, 50.0))
    state = ReviewedImage(IMAGE, (kept,), (refused,))
    same = an_object("new 1", box_xyxy=(21.0, 15.0, 41.0, 36.0))
    other_class = an_object("new 2", class_name="round thing")
    again = an_object("new 3", box_xyxy=(60.0, 40.0, 70.0, 51.0))
    elsewhere = an_object("new 4", box_xyxy=(0.0, 0.0, 9.0, 9.0))
    assert find_proposals(state, (same, other_class, again, elsewhere)) == (other_class, elsewhere)
    assert find_proposals(ReviewedImage(IMAGE, ()), ()) == ()
