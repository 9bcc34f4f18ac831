"""Any COCO file as the source of an export: every form of mask, what is wrong with a file, and ways around."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from jobs.cli import main
from models.detections import Detections, Instances
from models.masks import Rle, encode_mask
from pipeline.errors import UserError
from pipeline.export import export_labels, open_labels
from pipeline.export.objects import ExportImage, annotated_to_export
from pipeline.paths import path_to_image_id
from pipeline.records import AnnotatedImage
from tests.export_labels import HW, ONTOLOGY, make_labels, ring, same_mask

HEIGHT, WIDTH = HW


def annotation(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 7, "category_id": 40, "bbox": [1.5, 2, 10, 20], "iscrowd": 0} | more


def coco(*annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "images": [
            {"id": 7, "file_name": "b/ü.jpg", "height": HEIGHT, "width": WIDTH},
            {"id": 3, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": [{"id": 90, "name": "St. Bernard"}, {"id": 40, "name": "cat"}],
        "annotations": list(annotations),
    }
    return content | more


def write(folder: Path, content: Any, name: str = "any.json") -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder / name


def objects_of(file: Path) -> list[Any]:
    return [
        found for record in open_labels(file).records() if isinstance(record, ExportImage) for found in record.objects
    ]


def test_every_form_of_mask_is_read(tmp_path: Path) -> None:
    mask = ring()
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    square, triangle = [10, 10, 20, 10, 20, 20, 10, 20], [30.5, 30, 50, 30, 50.25, 55]
    file = write(
        tmp_path,
        coco(
            annotation(1, segmentation={"size": list(HW), "counts": counts}),
            annotation(2, segmentation=encode_mask(mask).to_coco(), iscrowd=1),
            annotation(3, segmentation=[square, triangle], area=123.5),
            annotation(4),
            annotation(5, segmentation=[]),
            annotation(6, segmentation=encode_mask(np.zeros(HW, bool)).to_coco()),
            annotation(7, segmentation=[square], bbox=None, score=0.5, category_id=90),
        ),
    )
    labels = open_labels(file)
    first, second = [record for record in labels.records() if isinstance(record, ExportImage)]
    assert (first.path, first.objects, second.path) == ("a.jpg", (), "b/ü.jpg")
    assert second.image_id == path_to_image_id("b/ü.jpg")
    found = {each.instance_id: each for each in second.objects}
    assert same_mask(found["1"].mask, mask)
    assert same_mask(found["2"].mask, mask)
    assert [found[key].crowd for key in "123"] == [False, True, False]
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([square, triangle], *HW)))
    assert same_mask(found["3"].mask, drawn)
    assert (found["3"].area, found["1"].area, found["4"].area) == (123.5, mask.sum(), 200)
    assert [found[key].mask for key in "45"] == [None, None]
    assert found["4"].box_xyxy == (1.5, 2, 11.5, 22)
    assert second.empty_masks == ("6",)
    assert (found["7"].box_xyxy, found["7"].score, found["4"].score) == ((10, 10, 20, 20), 0.5, None)
    assert [spec.name for spec in labels.ontology.classes] == ["cat", "St. Bernard"]
    assert (found["7"].class_id, found["7"].class_name, found["4"].class_id) == (2, "St. Bernard", 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 1}], "a list of results has no images"),
        (coco(annotation(1, image_id=8)), "annotation 1 has the image_id 8, which the file does not define"),
        (coco(annotation(1, category_id=1)), "annotation 1 has the category_id 1"),
        (coco(annotation(1, bbox=None)), "annotation 1 has no bbox of four numbers"),
        (coco(annotation(1, bbox=[1, 2, float("nan"), 4])), "annotation 1 has no bbox of four numbers"),
        (coco(annotation(1, bbox=[1, 2, -3, 4])), "negative side"),
        (coco(annotation(1, segmentation=[[1, 2, 3, 4]])), "three or more points"),
        (coco(annotation(1, segmentation=[[1, 2, 3, 4, 5, float("inf")]])), "finite numbers"),
        (coco(annotation(1, segmentation={"size": [9, 9], "counts": [81]})), "its mask is 9 × 9, its image 60 × 80"),
        (coco(annotation(1, segmentation={"counts": [81]})), "segmentation cannot be read"),
        (coco(annotation(1, score=7)), "score must be a number from 0 to 1"),
        (coco("x"), "element 0 of its annotations is no object"),
        (coco(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "two categories have the same id"),
        (coco(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "A"}]), "given twice"),
        (coco(categories=[]), "at least one class"),
        (coco(images=[{"id": 1}]), "has no proper id or no file_name"),
        (coco(images=[{"id": [1], "file_name": "a"}]), "has no proper id or no file_name"),
        (coco(images=[{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}]), "two images have the id 2"),
        (coco(images=[{"id": 1, "file_name": "a"}]), "has no width and height, and .* cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: Any, message: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        objects_of(file)
    assert str(file) in str(caught.value)


def test_no_file_no_json_no_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        open_labels(tmp_path / "nowhere")
    (tmp_path / "any.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        open_labels(tmp_path / "any.json")
    with pytest.raises(UserError, match="no such folder of images"):
        open_labels(write(tmp_path, coco()), tmp_path / "photos")


def test_a_missing_size_is_that_of_the_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "turned.jpg", exif=exif)
    file = write(tmp_path, coco(images=[{"id": 1, "file_name": "turned.jpg"}]))
    (record,) = open_labels(file).records()
    assert isinstance(record, ExportImage)
    assert record.image_hw == (30, 20)
    assert open_labels(file).image_path(record) == tmp_path / "images" / "turned.jpg"


def test_there_and_back_again_changes_nothing(tmp_path: Path) -> None:
    labels = make_labels(tmp_path / "photos")
    export_labels(labels, tmp_path / "first", "coco")
    again = open_labels(tmp_path / "first")
    assert again.fingerprint == labels.fingerprint
    export_labels(again, tmp_path / "second", "coco")
    first, second = (json.loads((tmp_path / name / "annotations.json").read_text()) for name in ("first", "second"))
    assert first["images"] == second["images"]
    assert first["annotations"] == second["annotations"]


def test_compressed_coco_is_the_same_and_is_read(tmp_path: Path) -> None:
    labels = make_labels(tmp_path / "photos")
    source = write(tmp_path, coco(annotation(1)))
    arguments = ["export", str(source), "--images", "none", "--compression", "gzip", "--output"]
    assert main([*arguments, str(tmp_path / "one")]) == 0
    assert main([*arguments, str(tmp_path / "two")]) == 0
    packed = (tmp_path / "one" / "annotations.json.gz").read_bytes()
    assert packed == (tmp_path / "two" / "annotations.json.gz").read_bytes()
    assert len(json.loads(gzip.decompress(packed))["annotations"]) == 1
    assert len(objects_of(tmp_path / "one")) == 1
    assert labels.ontology == ONTOLOGY


def test_the_command_converts_and_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("photos/b/ü.jpg", "photos/a.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / path)
    content = coco(annotation(1), annotation(2, segmentation=encode_mask(ring()).to_coco()))
    file = write(tmp_path, content)
    output = str(tmp_path / "out")
    words = ["export", str(file), "--format", "yolo-seg", "--images-root", str(tmp_path / "photos"), "--output", output]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines() == [
        f"{output}: 2 images, 1 annotations",
        "polygons keep their masks with a mean IoU of 1.0000 (lowest 1.0000)",
        "left out: 1 boxes without a mask, which the format cannot express",
    ]
    assert (tmp_path / "out" / "images" / "b" / "ü.jpg").resolve() == tmp_path / "photos" / "b" / "ü.jpg"
    assert main(["export", str(file), "--output", str(tmp_path / "other")]) == 2
    assert "is gone; put it back or export with --images none" in capsys.readouterr().err


def test_objects_of_a_run_without_a_mask_have_their_box(tmp_path: Path) -> None:
    boxes = [[1.5, 2, 11.5, 22], [0, 0, 80, 60], [3, 3, 9, 9]]
    found = Detections(HW, np.array(boxes), np.full(3, 0.5), np.full(3, 1), np.zeros(3, np.int64))
    masks = (Rle.absent(HW), encode_mask(ring()), encode_mask(np.zeros(HW, bool)))
    record = AnnotatedImage.from_instances(
        "0" * 16, "a.jpg", Instances(found, masks, np.array([0, 0.75, 0.1])), ONTOLOGY
    )
    image = annotated_to_export(record)
    alone, whole = image.objects
    assert (alone.mask, alone.mask_score, alone.box_xyxy, alone.area) == (None, None, (1.5, 2, 11.5, 22), 200)
    assert (whole.mask, whole.mask_score, whole.area) == (masks[1], 0.75, ring().sum())
    assert whole.box_xyxy == (13, 7, 61, 54)
    assert image.empty_masks == (record.instance_ids[2],)
