"""A run in FiftyOne: what arrives there of its rows, fields and files, and under which names."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.masks import decode_mask, encode_mask, mask_boxes_xywh
from pipeline.errors import UserError
from pipeline.records import AnnotatedImage
from pipeline.review import ingest, schema, views
from pipeline.review.orders import ORDERS
from pipeline.review.schema import dataset_name
from pipeline.review.side_by_side import field_names, trial_dataset
from pipeline.store.run import Run
from pipeline.trial.agreement import compare_labels
from pipeline.trial.arms import Arm
from pipeline.trial.trial import Trial
from tests.ingested_samples import assert_equals_record, bring_in, full_mask
from tests.review_runs import HW, ONTOLOGY, disc, labelled, needs_mongod, odd_records, one_disc, write_run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


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


@pytest.mark.parametrize(
    ("folder", "start"), [("run", "run-"), ("my run ü (2)", "my-run-2-"), ("…", "run-"), ("a" * 200, "a" * 60 + "-")]
)
def test_dataset_names_are_plain(tmp_path: Path, folder: str, start: str) -> None:
    name = dataset_name(tmp_path / folder)
    assert name.startswith(start)
    assert name.isascii()
    assert name != dataset_name(tmp_path / "elsewhere" / folder)


def test_the_ontology_of_the_tests_has_what_they_need() -> None:
    assert [prompt.class_id for prompt in ONTOLOGY.prompts] == [1, 1, 2]
