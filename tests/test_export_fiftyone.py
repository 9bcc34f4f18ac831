"""FiftyOne reads what is written for it, and COCO, VOC, YOLO and semantic masks; in one go, for it starts slowly."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.export import ExportOptions, export_labels
from pipeline.export.fiftyone_dataset import FIELD
from pipeline.review.coco_export import time_coco_export
from pipeline.review.connection import connected_fiftyone
from pipeline.review.mongod import find_mongod
from tests.export_labels import HW, Labels, image, make_labels, masked, pixel, ring, same_mask, two_parts

HEIGHT, WIDTH = HW


def mongod_problem() -> str:
    try:
        find_mongod()
    except UserError as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(mongod_problem()), reason=mongod_problem() or "there is a server")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    yield
    assert "FIFTYONE_DATABASE_URI" not in os.environ


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("cache")
def test_fiftyone_reads_its_own_form_and_five_others(tmp_path: Path) -> None:
    labels = make_labels(tmp_path / "photos")
    export_labels(
        labels, tmp_path / "own", "fiftyone", assign=lambda record: "val" if record.path == "zzz.jpg" else "train"
    )
    flat = make_labels(
        tmp_path / "flat", [image("a.jpg", masked("a", 1, ring()), masked("b", 2, two_parts())), image("b.jpg")]
    )
    for name in ("coco", "voc", "yolo", "yolo-seg", "mask-png"):
        export_labels(flat, tmp_path / name, name, ExportOptions("copy"))
    with connected_fiftyone() as fo:
        own = fo.Dataset.from_dir(dataset_dir=str(tmp_path / "own"), dataset_type=fo.types.FiftyOneDataset)
        check_own(own, labels)
        own.delete()
        check_others(fo, tmp_path, flat)
        check_masks(fo, tmp_path / "mask-png")
        assert time_coco_export(fo, tmp_path / "own", tmp_path / "theirs.json") > 0
    assert len(json.loads((tmp_path / "theirs.json").read_text())["annotations"]) == 5


def check_own(dataset: Any, labels: Labels) -> None:
    samples = {sample["path"]: sample for sample in dataset}
    assert list(samples) == list(labels.images())
    assert dataset.default_classes == [spec.name for spec in labels.ontology.classes]
    assert dataset.count_sample_tags() == {"train": 4, "val": 1}
    for path, record in labels.images().items():
        sample = samples[path]
        assert Path(sample.filepath).is_file()
        assert (sample["image_id"], sample.metadata.width, sample.metadata.height) == (record.image_id, WIDTH, HEIGHT)
        found = sample[FIELD].detections
        assert [(each.label, each["object_id"]) for each in found] == [
            (each.class_name, each.instance_id) for each in record.objects
        ]
        for detection, each in zip(found, record.objects, strict=True):
            assert (detection.confidence, detection["iscrowd"]) == (each.score, each.crowd)
            box = np.multiply(detection.bounding_box, [WIDTH, HEIGHT, WIDTH, HEIGHT])
            np.testing.assert_allclose(box, each.box_xywh, atol=3e-4)
            if each.mask is None:
                assert detection.mask is None
            else:
                full = detection.to_segmentation(frame_size=(WIDTH, HEIGHT), target=255).mask == 255
                assert same_mask(each.mask, full)
    assert same_mask(labels.images()["other/001.png"].objects[0].mask, pixel())


def check_others(fo: Any, folder: Path, flat: Labels) -> None:
    types = fo.types
    readers: dict[str, dict[str, Any]] = {
        "coco": {
            "dataset_type": types.COCODetectionDataset,
            "data_path": str(folder / "coco" / "images"),
            "labels_path": str(folder / "coco" / "annotations.json"),
        },
        "voc": {
            "dataset_type": types.VOCDetectionDataset,
            "data_path": str(folder / "voc" / "JPEGImages"),
            "labels_path": str(folder / "voc" / "Annotations"),
        },
        "yolo": {
            "dataset_type": types.YOLOv5Dataset,
            "dataset_dir": str(folder / "yolo"),
            "yaml_path": str(folder / "yolo" / "data.yaml"),
            "split": "train",
        },
        "yolo-seg": {
            "dataset_type": types.YOLOv5Dataset,
            "dataset_dir": str(folder / "yolo-seg"),
            "yaml_path": str(folder / "yolo-seg" / "data.yaml"),
            "split": "train",
            "label_type": "polylines",
        },
    }
    record = flat.images()["a.jpg"]
    for name, reader in readers.items():
        dataset = fo.Dataset.from_dir(**reader, include_all_data=True)
        samples = {Path(sample.filepath).name: sample for sample in dataset}
        assert set(samples) == {"a.jpg", "b.jpg"}, name
        fields = [field for field in ("detections", "ground_truth", "segmentations") if dataset.has_field(field)]
        labels = samples["a.jpg"][fields[-1]]
        found = labels.polylines if name == "yolo-seg" else labels.detections
        assert [each.label for each in found] == [each.class_name for each in record.objects], name
        for each, there in zip(found, record.objects, strict=True):
            if name != "yolo-seg":
                box = np.multiply(each.bounding_box, [WIDTH, HEIGHT, WIDTH, HEIGHT])
                np.testing.assert_allclose(box, there.box_xywh, atol=1.01 if name == "voc" else 1e-3)
            if name == "coco":
                full = each.to_segmentation(frame_size=(WIDTH, HEIGHT), target=255).mask == 255
                assert same_mask(there.mask, full)
        dataset.delete()


def check_masks(fo: Any, folder: Path) -> None:
    dataset = fo.Dataset.from_dir(
        dataset_type=fo.types.ImageSegmentationDirectory,
        data_path=str(folder / "images"),
        labels_path=str(folder / "semantic"),
        label_field="semantic",
        load_masks=True,
    )
    masks = {Path(sample.filepath).name: sample["semantic"].mask for sample in dataset}
    assert set(masks) == {"a.jpg", "b.jpg"}
    colors = [row["color"] for row in json.loads((folder / "classes.json").read_text())["classes"]]
    for color, mask in zip(colors, (ring() & ~two_parts(), two_parts()), strict=False):  # it sees the palette's colours
        assert np.array_equal((masks["a.jpg"] == color).all(axis=2), mask)
    assert not masks["b.jpg"].any()
    dataset.delete()
