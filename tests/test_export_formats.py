"""Every format, read by clients that people use, or by the documented schema where no such client is light enough."""

import base64
import io
import json
import tarfile
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from models.masks import Rle
from pipeline.export import ExportOptions, Written, export_labels
from pipeline.export.label_studio import pack_brush
from pipeline.export.labels import open_labels
from pipeline.export.objects import ExportImage
from pipeline.export.raster import voc_palette
from pipeline.reviewed.label_studio_file import unpack_brush
from tests.export_labels import (
    HW,
    ONTOLOGY,
    Labels,
    image,
    make_labels,
    masked,
    ring,
    same_mask,
    two_parts,
)

HEIGHT, WIDTH = HW
SECOND = "other/001-{}.png"


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    return make_labels(tmp_path / "photos")


@pytest.fixture
def flat(tmp_path: Path) -> Labels:
    """Make labels in one folder of JPEGs, for readers that look into no sub-folders."""
    rows = [
        image("a.jpg", masked("a0", 1, ring()), masked("a1", 2, two_parts())),
        image("b.jpg"),
        image("c.jpg", masked("c0", 2, two_parts())),
    ]
    return make_labels(tmp_path / "photos", rows)


def export(labels: Labels, output: Path, name: str, **options: Any) -> Written:
    return export_labels(labels, output, name, ExportOptions(**options))


def boxes_of(record: ExportImage) -> np.ndarray:
    return np.array([found.box_xyxy for found in record.objects]).reshape(-1, 4)


def drawn(polygons: list[Any]) -> np.ndarray:
    """Draw pixel polygons as pycocotools does."""
    flat = [np.asarray(polygon, dtype=float).ravel().tolist() for polygon in polygons]
    return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, *HW))), dtype=bool)


def opened(path: Path) -> Image.Image:
    """Return a picture, read and closed."""
    with Image.open(path) as picture:
        picture.load()
        return picture


def second_name(labels: Labels) -> str:
    """Return the name that the second image of its stem gets."""
    return SECOND.format(labels.images()["other/001.png"].image_id)


@pytest.mark.parametrize("name", ["coco", "coco-polygons"])
def test_coco_is_read_by_torchvision_and_by_ourselves(labels: Labels, tmp_path: Path, name: str) -> None:
    from torchvision.datasets import CocoDetection

    written = export(labels, tmp_path / "out", name)
    assert (written.images, written.annotations, len(written.failed)) == (5, 5, 1)
    dataset = CocoDetection(tmp_path / "out" / "images", tmp_path / "out" / "annotations.json")
    assert len(dataset) == 5
    paths = [dataset.coco.loadImgs(number)[0]["file_name"] for number in dataset.ids]
    picture, objects = dataset[paths.index("straße/001 ß.jpg")]
    assert (picture.size, len(objects)) == ((80, 60), 2)
    assert np.array_equal(dataset.coco.annToMask(objects[0]).astype(bool), ring())
    back = {
        record.path: record for record in open_labels(tmp_path / "out").records() if isinstance(record, ExportImage)
    }
    assert back == labels.images()


def test_supervision_reads_coco(flat: Labels, tmp_path: Path) -> None:
    import supervision

    export(flat, tmp_path / "out", "coco", images="copy")  # it follows no link out of its folder
    dataset = supervision.DetectionDataset.from_coco(
        str(tmp_path / "out" / "images"), str(tmp_path / "out" / "annotations.json"), force_masks=True
    )
    assert len(dataset) == 3
    for path, _, found in dataset:
        record = flat.images()[Path(path).name]
        np.testing.assert_allclose(found.xyxy.reshape(-1, 4), boxes_of(record))
        for row, each in enumerate(record.objects):
            assert same_mask(each.mask, found.mask[row])


def test_coco_keeps_what_is_not_there_apart(labels: Labels, tmp_path: Path) -> None:
    export(labels, tmp_path / "out", "coco", images="none")
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    by_id = {annotation["object_id"]: annotation for annotation in content["annotations"]}
    assert not {"segmentation", "score", "mask_score", "prompt"} & set(by_id["b0"])
    assert (by_id["b0"]["bbox"], by_id["b0"]["area"], by_id["b0"]["provenance"]) == (
        [10.5, 20.25, 30.25, 29.75],
        899.9375,
        "human",
    )
    assert [by_id[key]["iscrowd"] for key in ("a0", "b1")] == [0, 1]
    assert "provenance" not in by_id["b1"]


def yolo_lines(folder: Path, path: str) -> list[tuple[int, np.ndarray]]:
    """Read the label file of an image where Ultralytics' loader looks for it, and give its numbers in pixels."""
    file = folder / "labels" / Path(path).with_suffix(".txt")
    rows = [line.split() for line in file.read_text().splitlines()]
    numbers = [(int(row[0]), np.array(row[1:], dtype=float).reshape(-1, 2)) for row in rows]
    assert all((values >= 0).all() and (values <= 1).all() for _, values in numbers)
    return [(class_number, values * [WIDTH, HEIGHT]) for class_number, values in numbers]


def test_yolo(labels: Labels, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = export(labels, out, "yolo")
    assert (written.images, written.annotations, written.not_expressible) == (5, 4, {"crowds": 1})
    data = yaml.safe_load((out / "data.yaml").read_text())
    assert data["names"] == dict(enumerate(spec.name for spec in ONTOLOGY.classes))
    assert (data["train"], data["val"], data["nc"], "path" in data) == ("images", "images", 3, False)
    assert yolo_lines(out, "leer.jpg") == yolo_lines(out, "zzz.jpg") == []
    ((number, box),) = yolo_lines(out, "other/001.jpg")
    np.testing.assert_allclose(
        np.concatenate([box[0] - box[1] / 2, box[0] + box[1] / 2]), [10.5, 20.25, 40.75, 50], atol=1e-4
    )
    assert number == 2
    ((number, box),) = yolo_lines(out, second_name(labels))
    np.testing.assert_allclose(box.ravel(), [79.5, 59.5, 1, 1], atol=1e-4)
    assert written.renamed == [("other/001.png", second_name(labels))]
    assert (out / "images" / second_name(labels)).is_file()


def test_yolo_seg_joins_parts_and_holes(labels: Labels, tmp_path: Path) -> None:
    out = tmp_path / "out"
    written = export(labels, out, "yolo-seg")
    assert written.not_expressible == {"crowds": 1, "boxes without a mask": 1}
    assert written.notes == ["polygons keep their masks with a mean IoU of 1.0000 (lowest 1.0000)"]
    lines = yolo_lines(out, "straße/001 ß.jpg")
    assert [number for number, _ in lines] == [0, 1]
    for (_, polygon), mask in zip(lines, (ring(), two_parts()), strict=True):
        assert np.array_equal(drawn([polygon]), mask)
    assert yolo_lines(out, "other/001.jpg") == []


def test_supervision_reads_both_kinds_of_yolo(flat: Labels, tmp_path: Path) -> None:
    import supervision

    for name, masks in (("yolo", False), ("yolo-seg", True)):
        out = tmp_path / name
        export(flat, out, name)
        dataset = supervision.DetectionDataset.from_yolo(
            str(out / "images"), str(out / "labels"), str(out / "data.yaml"), force_masks=masks
        )
        assert len(dataset) == 3
        assert dataset.classes == [spec.name for spec in ONTOLOGY.classes]
        for path, _, found in dataset:
            record = flat.images()[Path(path).name]
            np.testing.assert_allclose(found.xyxy.reshape(-1, 4), boxes_of(record), atol=1.01 if masks else 1e-3)
            assert found.class_id.tolist() == [each.class_id - 1 for each in record.objects]


def test_yolo_obb_and_dota(labels: Labels, tmp_path: Path) -> None:
    export(labels, tmp_path / "obb", "yolo-obb")
    written = export(labels, tmp_path / "dota", "dota")
    assert written.annotations == 5
    assert (tmp_path / "dota" / "classes.txt").read_text().splitlines() == ["round-thing", "dot-&-<dash>", "Straße"]
    lines = (tmp_path / "dota" / "labelTxt" / "other" / "001.txt").read_text().splitlines()
    assert lines[0] == "10.50 20.25 40.75 20.25 40.75 50.00 10.50 50.00 Straße 0"
    assert lines[1].endswith("round-thing 1")
    dota = [line.split() for line in (tmp_path / "dota" / "labelTxt" / "straße" / "001 ß.txt").read_text().splitlines()]
    for (number, corners), row in zip(yolo_lines(tmp_path / "obb", "straße/001 ß.jpg"), dota, strict=True):
        there = np.array(row[:8], dtype=float).reshape(4, 2)
        np.testing.assert_allclose(corners, np.clip(there, 0, [WIDTH, HEIGHT]), atol=0.006)
        x, y = there.T
        assert (np.roll(x, -1) * y - x * np.roll(y, -1)).sum() < 0  # clockwise, where y goes down
        assert row[8:] == [["round-thing", "dot-&-<dash>"][number], "0"]


def test_voc_is_read_by_torchvision(flat: Labels, tmp_path: Path) -> None:
    from torchvision.datasets import VOCDetection, VOCSegmentation

    export(flat, tmp_path / "out", "voc")
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "VOCdevkit" / "VOC2012").symlink_to(tmp_path / "out")
    dataset = VOCDetection(tmp_path, year="2012", image_set="train")
    assert len(dataset) == 3
    picture, target = dataset[0]
    assert picture.size == (WIDTH, HEIGHT)
    first = target["annotation"]["object"][0]
    left, top, right, bottom = boxes_of(flat.images()["a.jpg"])[0]
    assert {key: float(value) for key, value in first["bndbox"].items()} == {
        "xmin": left + 1,
        "ymin": top + 1,
        "xmax": right,
        "ymax": bottom,
    }
    assert (first["name"], first["difficult"], first["truncated"]) == ("round thing", "0", "0")
    assert dataset[1][1]["annotation"].get("object", []) == []
    segmentation = VOCSegmentation(tmp_path, year="2012", image_set="train")
    assert len(segmentation) == 2
    semantic = np.asarray(segmentation[1][1])
    assert np.array_equal(semantic == 2, two_parts())


def test_voc_masks_and_odd_objects(labels: Labels, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(labels, out, "voc")
    tree = ElementTree.parse(out / "Annotations" / "other" / f"{Path(second_name(labels)).stem}.xml").getroot()
    box = tree.find("object/bndbox")
    assert box is not None
    assert [int(side.text or "") for side in box] == [80, 60, 80, 60]
    assert tree.findtext("object/name") == "dot & <dash>"
    odd = ElementTree.parse(out / "Annotations" / "other" / "001.xml").getroot()
    assert [node.text for node in odd.iter("difficult")] == ["0", "1"]
    assert next([int(side.text or "") for side in node] for node in odd.iter("bndbox")) == [11, 21, 41, 50]
    instances = opened(out / "SegmentationObject" / "straße" / "001 ß.png")
    values = np.asarray(instances)
    assert np.array_equal(values == 2, two_parts())
    assert np.array_equal(values == 1, ring() & ~two_parts())
    assert instances.getpalette() == voc_palette()
    assert voc_palette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert set(np.unique(np.asarray(opened(out / "SegmentationClass" / "other" / "001.png")))) == {0, 255}
    assert not (out / "SegmentationClass" / "leer.png").exists()
    assert len((out / "ImageSets" / "Main" / "train.txt").read_text().splitlines()) == 5
    rows = (out / "labelmap.txt").read_text().splitlines()
    assert (rows[2], rows[-1]) == ("round thing:128,0,0::", "ignored:224,224,192::")


def test_cvat(labels: Labels, tmp_path: Path) -> None:
    export(labels, tmp_path / "out", "cvat")
    tree = ElementTree.parse(tmp_path / "out" / "annotations.xml").getroot()
    assert tree.findtext("version") == "1.1"
    names = [node.text for node in tree.iterfind("meta/task/labels/label/name")]
    assert names == [spec.name for spec in ONTOLOGY.classes]
    pictures = {node.get("name"): node for node in tree.iterfind("image")}
    assert list(pictures) == list(labels.images())
    assert [node.get("id") for node in tree.iterfind("image")] == list("01234")
    assert all((tmp_path / "out" / "images" / str(name)).is_file() for name in pictures)
    (box,) = list(pictures["other/001.jpg"])
    assert [box.get(key) for key in ("xtl", "ytl", "xbr", "ybr", "source")] == [
        "10.50",
        "20.25",
        "40.75",
        "50.00",
        "manual",
    ]
    shapes = list(pictures["straße/001 ß.jpg"])
    assert [shape.get("label") for shape in shapes] == ["round thing", "dot & <dash>"]
    for shape, mask in zip(shapes, (ring(), two_parts()), strict=True):
        left, top, width, height = (int(shape.get(key) or "") for key in ("left", "top", "width", "height"))
        runs = [int(run) for run in (shape.get("rle") or "").split(",")]
        values = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        full = np.zeros(HW, bool)
        full[top : top + height, left : left + width] = values
        assert np.array_equal(full, mask)
    attributes = {node.get("name"): node.text for node in shapes[0]}
    assert attributes == {"instance_id": "a0", "score": "0.875", "mask_score": "0.75", "prompt": "a thing"}


def test_labelme(labels: Labels, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(labels, out, "labelme")
    for record in labels.images().values():
        path = second_name(labels) if record.path == "other/001.png" else record.path
        file = (out / "images" / path).with_suffix(".json")
        content = json.loads(file.read_text())
        assert (file.parent / content["imagePath"]).is_file()
        assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (*HW, None)
        shapes = content["shapes"]
        if record.path == "other/001.jpg":
            assert [(shape["shape_type"], shape["points"]) for shape in shapes] == [
                ("rectangle", [[10.5, 20.25], [40.75, 50.0]])
            ]
            continue
        groups: dict[Any, list[Any]] = {}
        for place, shape in enumerate(shapes):
            assert shape["shape_type"] == "polygon"
            groups.setdefault(shape["group_id"] or -place, []).append(shape["points"])
        assert len(groups) == len(record.objects)
        for polygons, found in zip(groups.values(), record.objects, strict=True):
            assert same_mask(found.mask, drawn(polygons))


def test_createml(labels: Labels, tmp_path: Path) -> None:
    export(labels, tmp_path / "out", "createml")
    entries = json.loads((tmp_path / "out" / "data" / "annotations.json").read_text())
    assert [entry["image"] for entry in entries] == list(labels.images())
    assert [path.name for path in (tmp_path / "out" / "data").glob("*.json")] == ["annotations.json"]
    assert entries[1]["annotations"] == [
        {"label": "Straße", "coordinates": {"x": 25.625, "y": 35.125, "width": 30.25, "height": 29.75}}
    ]
    assert all((tmp_path / "out" / "data" / entry["image"]).is_file() for entry in entries)


def test_a_brush_may_hold_single_values() -> None:
    bits = f"{8:032b}{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += f"000{3:03b}" + "".join(f"{value:08b}" for value in (9, 8, 7, 255)) + f"101{3:04b}{129:08b}"
    packed = [int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8)]
    assert unpack_brush(packed).tolist() == [9, 8, 7, 255, 129, 129, 129, 129]
    with pytest.raises(ValueError, match="invalid literal"):
        unpack_brush(packed[:8])


def test_label_studio(labels: Labels, tmp_path: Path) -> None:
    export(labels, tmp_path / "out", "label-studio")
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    config = ElementTree.parse(tmp_path / "out" / "label_config.xml").getroot()
    names = {control.get("name"): [label.get("value") for label in control] for control in config if len(control)}
    assert names == {kind: [spec.name for spec in ONTOLOGY.classes] for kind in ("brush", "box")}
    by_path = {task["data"]["path"]: task for task in tasks}
    assert by_path["straße/001 ß.jpg"]["data"]["image"] == "/data/local-files/?d=images/stra%C3%9Fe/001%20%C3%9F.jpg"
    (box,) = by_path["other/001.jpg"]["annotations"][0]["result"]
    assert (box["type"], box["from_name"], box["value"]["rectanglelabels"]) == ("rectanglelabels", "box", ["Straße"])
    assert box["value"]["x"] / 100 * WIDTH == pytest.approx(10.5)
    prediction = by_path["straße/001 ß.jpg"]["predictions"][0]
    assert prediction["score"] == 0.875
    for result, mask in zip(prediction["result"], (ring(), two_parts()), strict=True):
        assert (result["original_height"], result["original_width"]) == HW
        assert np.array_equal(unpack_brush(result["value"]["rle"]).reshape(*HW, 4)[..., 3], mask * 255)
    assert not {"annotations", "predictions"} & set(by_path["leer.jpg"])
    long = np.zeros((300, 200), bool)
    long[150:] = True
    assert np.array_equal(unpack_brush(pack_brush(long)).reshape(300, 200, 4)[..., 3] == 255, long)


def test_mask_png(labels: Labels, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(labels, out, "mask-png")
    content = json.loads((out / "classes.json").read_text())
    assert [row["name"] for row in content["classes"]] == [spec.name for spec in ONTOLOGY.classes]
    semantic, instances = (opened(out / kind / "straße" / "001 ß.png") for kind in ("semantic", "instances"))
    assert np.array_equal(np.asarray(semantic) == 2, two_parts())
    assert semantic.convert("RGB").getpixel((79, 59)) == tuple(content["classes"][1]["color"])
    assert np.array_equal(np.asarray(instances) == 1, ring() & ~two_parts())
    rows = {row["image"]: row["objects"] for row in map(json.loads, (out / "instances.jsonl").read_text().splitlines())}
    first, second = rows["straße/001 ß.jpg"]
    assert (first["value"], first["class_id"], first["instance_id"]) == (1, 1, "a0")
    assert first["pixels_seen"] == (ring() & ~two_parts()).sum()
    assert second["pixels_seen"] == two_parts().sum()
    unknown = np.asarray(opened(out / "semantic" / "other" / "001.png"))
    assert (unknown[25, 20], unknown[0, 0], content["unknown"]) == (255, 0, 255)
    assert set(np.unique(np.asarray(opened(out / "instances" / "other" / "001.png")))) == {0, 65535}


def test_hugging_face_datasets_reads_an_image_folder(labels: Labels, tmp_path: Path) -> None:
    import datasets

    sides = {record.image_id: "val" if record.path == "zzz.jpg" else "train" for record in labels.images().values()}
    export_labels(labels, tmp_path / "out", "hf-datasets", assign=lambda record: sides[record.image_id])
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 4, "validation": 1}
    rows = {row["path"]: row for row in [*loaded["train"], *loaded["validation"]]}
    assert set(rows) == set(labels.images())
    assert loaded["train"].features["objects"]["category"].feature.names == [spec.name for spec in ONTOLOGY.classes]
    for path, record in labels.images().items():
        row = rows[path]
        assert (row["image"].size, row["image_id"]) == ((WIDTH, HEIGHT), record.image_id)
        objects = row["objects"]
        np.testing.assert_allclose(
            np.array(objects["bbox"]).reshape(-1, 4), [found.box_xywh for found in record.objects] or np.zeros((0, 4))
        )
        assert objects["category"] == [found.class_id - 1 for found in record.objects]
        assert objects["score"] == [found.score for found in record.objects]
        for counts, found in zip(objects["mask_counts"], record.objects, strict=True):
            assert found.mask == (None if counts is None else Rle(HW, counts.encode()))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_webdataset_reads_its_shards(labels: Labels, tmp_path: Path) -> None:
    import webdataset

    export(labels, tmp_path / "out", "webdataset", shard_size=2)
    shards = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    assert [Path(shard).name for shard in shards] == [f"data-{number:06d}.tar" for number in range(3)]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [sample["json"]["path"] for sample in samples] == list(labels.images())
    for sample in samples:
        record = labels.images()[sample["json"]["path"]]
        assert sample["__key__"] == record.image_id
        assert sample[Path(record.path).suffix[1:]].size == (WIDTH, HEIGHT)
        for found, there in zip(record.objects, sample["json"]["objects"], strict=True):
            assert there["segmentation"] == (None if found.mask is None else found.mask.to_coco())
            assert (there["score"], there["iscrowd"]) == (found.score, int(found.crowd))
    export(labels, tmp_path / "again", "webdataset", shard_size=2)
    assert (tmp_path / "again" / "data-000001.tar").read_bytes() == Path(shards[1]).read_bytes()
    export(labels, tmp_path / "none", "webdataset", images="none")
    with tarfile.open(tmp_path / "none" / "data-000000.tar") as tar:
        assert all(name.endswith(".json") for name in tar.getnames())


def test_fiftyone_samples_hold_masks_as_numpy_files(labels: Labels, tmp_path: Path) -> None:
    export(labels, tmp_path / "out", "fiftyone")
    samples = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    packed = samples[3]["ground_truth"]["detections"][0]["mask"]["$binary"]["base64"]
    array = np.load(io.BytesIO(zlib.decompress(base64.b64decode(packed))), allow_pickle=False)
    assert np.array_equal(array, ring()[7:54, 13:61])
