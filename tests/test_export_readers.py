"""What annotation tools and trainers make of the formats that have no reader among our dependencies.

supervision reads boxes and polygons; datumaro, with which CVAT imports, and Label Studio's SDK read the
rest. The two are in tests/readers.txt.
"""

import gc
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.export import ExportOptions, Written, export_labels
from pipeline.export.objects import ExportImage
from tests.export_labels import HW, ONTOLOGY, Labels, boxed, image, make_labels, masked, ring, same_mask, two_parts

HEIGHT, WIDTH = HW
NAMES = [spec.name for spec in ONTOLOGY.classes]


def reader(name: str) -> Any:
    """Import a module that tests/readers.txt brings; a test must not pass without it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        pytest.fail(f"{error}; pip install --no-deps -r tests/readers.txt")


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    """Make labels with every kind of object, and no two images of one stem, which some readers refuse."""
    rows = [
        image("a.jpg", masked("a0", 1, ring()), masked("a1", 2, two_parts())),
        image("b.jpg"),
        image("c ü.jpg", boxed("c0", 3, (10.5, 20.25, 40.75, 50.0)), masked("c1", 2, two_parts())),
    ]
    return make_labels(tmp_path / "photos", rows)


def export(labels: Labels, output: Path, name: str, **more: Any) -> Written:
    return export_labels(labels, output, name, ExportOptions("copy"), **more)


def boxes_of(record: ExportImage) -> np.ndarray:
    return np.array([found.box_xyxy for found in record.objects]).reshape(-1, 4)


def names_of(record: ExportImage) -> list[str]:
    return [found.class_name for found in record.objects]


def check_supervision(dataset: Any, labels: Labels, atol: float) -> dict[str, Any]:
    """Compare names, boxes and classes; return the detections of each image."""
    detections = {Path(path).name: found for path, _, found in dataset}
    assert set(detections) == set(labels.images())
    for path, found in detections.items():
        record = labels.images()[path]
        np.testing.assert_allclose(found.xyxy.reshape(-1, 4), boxes_of(record), atol=atol)
        assert [dataset.classes[number] for number in found.class_id] == names_of(record)
    return detections


def test_supervision_reads_createml(labels: Labels, tmp_path: Path) -> None:
    import supervision

    export(labels, tmp_path / "out", "createml")
    data = tmp_path / "out" / "data"
    dataset = supervision.DetectionDataset.from_createml(str(data), str(data / "annotations.json"))
    check_supervision(dataset, labels, 1e-3)


def test_supervision_reads_createml_in_folders_of_one_basename(tmp_path: Path) -> None:
    import supervision

    labels = make_labels(tmp_path / "photos")
    export(labels, tmp_path / "out", "createml")
    data = tmp_path / "out" / "data"
    dataset = supervision.DetectionDataset.from_createml(str(data), str(data / "annotations.json"))
    found = {str(Path(path).relative_to(data)): each for path, _, each in dataset}
    assert set(found) == set(labels.images())
    assert len(found["other/001.jpg"]) == 1  # the crowd beside it has no place
    np.testing.assert_allclose(found["other/001.png"].xyxy, [[79, 59, 80, 60]])


def test_supervision_reads_labelme(labels: Labels, tmp_path: Path) -> None:
    import supervision

    export(labels, tmp_path / "out", "labelme")
    folder = str(tmp_path / "out" / "images")
    dataset = supervision.DetectionDataset.from_labelme(folder, folder, force_masks=True)
    for path, found in check_supervision(dataset, labels, 1e-2).items():
        for row, each in enumerate(labels.images()[path].objects):
            if each.mask is not None:
                # It draws with OpenCV, which paints the last column and row, too.
                mask = ring() if each.class_id == 1 else two_parts()
                assert found.mask[row][mask].all()
                assert (found.mask[row] & ~mask).sum() < 0.25 * mask.sum()


def test_supervision_reads_turned_boxes_of_yolo(labels: Labels, tmp_path: Path) -> None:
    import supervision

    out = tmp_path / "out"
    export(labels, out, "yolo-obb")
    dataset = supervision.DetectionDataset.from_yolo(
        str(out / "images"), str(out / "labels"), str(out / "data.yaml"), is_obb=True
    )
    assert dataset.classes == NAMES
    found = check_supervision(dataset, labels, 1e-3)
    upright = found["c ü.jpg"].data["xyxyxyxy"][0]
    np.testing.assert_allclose(upright, [[10.5, 20.25], [40.75, 20.25], [40.75, 50], [10.5, 50]], atol=1e-3)


@pytest.fixture
def datumaro() -> Iterator[Any]:
    """Give its Dataset. It leaves CVAT's XML open, and the collector's warning would be some later test's."""
    yield reader("datumaro.components.dataset").Dataset
    gc.collect()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_datumaro_reads_cvat(labels: Labels, tmp_path: Path, datumaro: Any) -> None:
    export(labels, tmp_path / "out", "cvat")
    dataset = datumaro.import_from(str(tmp_path / "out"), "cvat")
    (categories,) = dataset.categories().values()
    assert [category.name for category in categories] == NAMES
    items = {Path(item.media.path).name: item.annotations for item in dataset}
    assert set(items) == set(labels.images())
    for path, record in labels.images().items():
        assert [NAMES[found.label] for found in items[path]] == names_of(record)
        for found, each in zip(items[path], record.objects, strict=True):
            assert found.attributes["instance_id"] == each.instance_id
            if each.mask is None:
                np.testing.assert_allclose(found.points, each.box_xyxy, atol=0.005)
            else:
                assert same_mask(each.mask, found.image)
                assert float(found.attributes["score"]) == each.score


def test_datumaro_reads_dota(labels: Labels, tmp_path: Path, datumaro: Any) -> None:
    export(labels, tmp_path / "out", "dota", assign=lambda record: "train")  # it looks for a folder a side
    dataset = datumaro.import_from(str(tmp_path / "out"), "dota")
    (categories,) = dataset.categories().values()
    items = {Path(item.media.path).name: item for item in dataset}
    assert {path: item.subset for path, item in items.items()} == dict.fromkeys(labels.images(), "train")
    for path, record in labels.images().items():
        found = items[path].annotations
        assert [categories[each.label].name for each in found] == [name.replace(" ", "-") for name in names_of(record)]
        assert all(each.attributes["difficulty"] == 0 for each in found)
    (upright, turned) = items["c ü.jpg"].annotations
    assert sorted((round(upright.w, 2), round(upright.h, 2))) == [29.75, 30.25]
    assert (round(upright.cx, 2), round(upright.cy, 2)) == (25.62, 35.12)
    mask = np.argwhere(two_parts())[:, ::-1] + 0.5
    across = np.abs((mask - [turned.cx, turned.cy]) @ rotation(turned.r)) * 2
    assert (across <= [turned.w + 0.1, turned.h + 0.1]).all()


def rotation(degrees: float) -> np.ndarray:
    """Return the columns that turn image points into a rectangle's own frame."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_label_studio_reads_its_interface_and_its_brushes(labels: Labels, tmp_path: Path) -> None:
    parse = reader("label_studio_sdk._extensions.label_studio_tools.core.label_config").parse_config
    decode_rle = reader("label_studio_sdk.converter.brush").decode_rle
    export(labels, tmp_path / "out", "label-studio")
    controls = parse((tmp_path / "out" / "label_config.xml").read_text())
    assert {name: (control["type"], control["labels"]) for name, control in controls.items()} == {
        "brush": ("BrushLabels", NAMES),
        "box": ("RectangleLabels", NAMES),
    }
    tasks = {task["data"]["path"]: task for task in json.loads((tmp_path / "out" / "tasks.json").read_text())}
    for path, record in labels.images().items():
        parts = [*tasks[path].get("predictions", []), *tasks[path].get("annotations", [])]
        results = {result["id"]: result for part in parts for result in part["result"]}
        assert set(results) == {found.instance_id for found in record.objects}
        for found in record.objects:
            result = results[found.instance_id]
            control = controls[result["from_name"]]
            assert result["to_name"] in control["to_name"]
            assert result["type"] == control["type"].lower()
            assert result["value"][result["type"]] == [found.class_name]
            if found.mask is not None:
                pixels = decode_rle(result["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
                assert same_mask(found.mask, pixels[:, :, 3] > 0)
