"""COCO's ids: those of the source stay, others follow from the image alone, and shards are read as one file."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from jobs.cli import main
from pipeline.errors import UserError
from pipeline.export import ExportOptions, export_labels, open_labels
from pipeline.proof.read_labels import read_label_set
from pipeline.training_data import read_training_data
from tests.export_labels import HW, Labels, make_labels

HEIGHT, WIDTH = HW
IMAGES = {900: "b.jpg", 31: "a.jpg", 7: "c.jpg"}


def source(folder: Path, **more: Any) -> Path:
    """Write a COCO file with ids in no order, and its images."""
    content: dict[str, Any] = {
        "info": {"description": "theirs", "contributor": "somebody", "url": "somewhere"},
        "licenses": [{"id": 4, "name": "CC BY 4.0", "url": ""}, {"id": 9, "name": "CC0", "url": ""}],
        "images": [
            {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH, "license": 4}
            for number, name in IMAGES.items()
        ],
        "categories": [{"id": 90, "name": "dog", "supercategory": "animal"}, {"id": 0, "name": "car"}],
        "annotations": [
            {"id": number, "image_id": image_id, "category_id": category_id, "bbox": [1, 2, 10, 20], "iscrowd": 0}
            for number, image_id, category_id in ((55, 7, 90), (12, 900, 0), (2**40, 900, 90))
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name in IMAGES.values():
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    (folder / "any.json").write_text(json.dumps(content | more))
    return folder / "any.json"


def export(file: Path, output: Path, **options: Any) -> dict[str, Any]:
    export_labels(open_labels(file), output, options=ExportOptions("none", **options))
    content: dict[str, Any] = json.loads((output / "annotations.json").read_text())
    return content


def names(content: dict[str, Any]) -> dict[int, str]:
    return {image["id"]: image["file_name"] for image in content["images"]}


def annotation_rows(content: dict[str, Any]) -> set[tuple[int, int, int]]:
    return {(row["id"], row["image_id"], row["category_id"]) for row in content["annotations"]}


def test_a_coco_file_keeps_its_ids_licences_and_categories(tmp_path: Path) -> None:
    file = source(tmp_path / "photos")
    before, after = json.loads(file.read_text()), export(file, tmp_path / "out")
    assert names(after) == names(before) == IMAGES
    assert annotation_rows(after) == annotation_rows(before)
    assert after["categories"] == [
        {"id": 0, "name": "car", "supercategory": ""},
        {"id": 90, "name": "dog", "supercategory": "animal"},
    ]
    assert after["licenses"] == before["licenses"]
    assert {image["license"] for image in after["images"]} == {4}
    assert before["info"].items() <= after["info"].items()
    assert export(tmp_path / "out", tmp_path / "again")["annotations"] == after["annotations"]


def test_ids_count_where_that_is_asked_for(tmp_path: Path) -> None:
    content = export(source(tmp_path / "photos"), tmp_path / "out", ids="count", licence="CC0 1.0")
    assert names(content) == {1: "a.jpg", 2: "b.jpg", 3: "c.jpg"}
    assert annotation_rows(content) == {(1, 2, 1), (2, 2, 2), (3, 3, 2)}
    assert [category["id"] for category in content["categories"]] == [1, 2]
    assert content["licenses"] == [{"id": 1, "name": "CC0 1.0", "url": ""}]
    assert {image["license"] for image in content["images"]} == {1}


def test_a_class_file_gives_categories_its_own_order(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("thing: [dog, car]\n")
    content = export(source(tmp_path / "photos"), tmp_path / "out", classes=tmp_path / "map.yaml")
    assert content["categories"] == [{"id": 1, "name": "thing", "supercategory": ""}]
    assert {row["id"] for row in content["annotations"]} == {55, 12, 2**40}


def test_only_ids_that_cannot_be_kept_are_replaced(tmp_path: Path) -> None:
    """COCOeval takes an annotation of id 0 for one that has no match, so 0 is no id of an annotation."""
    rows = [
        {"id": number, "image_id": image_id, "category_id": 90, "bbox": [1, 2, 10, 20]}
        for number, image_id in ((0, 7), (12, 900), (12, 900), ("x", "00b"), (2**60, 7))
    ]
    images = [
        {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for number, name in ((7, "c.jpg"), (900, "b.jpg"), ("00b", "a.jpg"))
    ]
    content = export(source(tmp_path / "photos", images=images, annotations=rows), tmp_path / "out")
    found = names(content)
    assert found.keys() > {7, 900}
    assert all(type(number) is int and 0 < number < 2**53 for number in found)
    numbers = [row["id"] for row in content["annotations"]]
    assert numbers.count(12) == 1
    assert len(set(numbers)) == 5
    assert all(type(number) is int and 0 < number < 2**53 for number in numbers)
    images.append({"id": 8, "file_name": "aa.jpg", "height": HEIGHT, "width": WIDTH})
    rows.append({"id": 13, "image_id": 8, "category_id": 90, "bbox": [1, 2, 10, 20]})
    grown = export(source(tmp_path / "photos", images=images, annotations=rows), tmp_path / "grown")
    assert annotation_rows(grown) > annotation_rows(content)


def test_pycocotools_judges_with_stable_ids(tmp_path: Path) -> None:
    labels = make_labels(tmp_path / "photos")
    export_labels(labels, tmp_path / "out", options=ExportOptions("none"))
    truth = COCO(tmp_path / "out" / "annotations.json")
    assert max(truth.anns) > 2**40
    results = [
        {key: row[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5} for row in truth.anns.values()
    ]
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.params.areaRng = evaluation.params.areaRng[:1]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    assert evaluation.eval["precision"][..., -1].max() == pytest.approx(1)


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Labels, Path, Path]:
    """Write labels twice: whole, and compressed in shards of two images."""
    labels = make_labels(tmp_path / "photos")
    export_labels(labels, tmp_path / "whole")
    export_labels(labels, tmp_path / "shards", options=ExportOptions(compression="gzip", shard_size=2))
    return labels, tmp_path / "whole", tmp_path / "shards"


def test_shards_are_read_as_one_file_everywhere(
    shards: tuple[Labels, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, whole, cut = shards
    assert len(list(cut.glob("annotations-*.json.gz"))) == 3
    assert list(open_labels(cut).records()) == list(open_labels(whole).records())
    first, second = (read_label_set(folder) for folder in (whole, cut))
    assert first.images == second.images
    assert (first.objects.boxes_xywh == second.objects.boxes_xywh).all()
    assert second.image_root == cut / "images"
    assert [file.key for file in read_training_data(cut).files] == [
        file.key for file in read_training_data(whole).files
    ]
    assert main(["evaluate", str(cut), str(cut)]) == 0
    assert "100.0" in capsys.readouterr().out
    assert main(["lint", str(cut)]) == 0
    assert main(["split", str(cut), "--near-duplicates", "off", "--output", str(cut / "sets")]) == 0


def test_lint_sees_across_shards(shards: tuple[Labels, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, _, cut = shards
    first, second = (
        json.loads(gzip.decompress((cut / f"annotations-{number:05d}.json.gz").read_bytes())) for number in range(2)
    )
    twice = first["annotations"][0]["id"]
    second["annotations"][0]["id"] = twice
    (cut / "annotations-00001.json.gz").write_bytes(gzip.compress(json.dumps(second).encode()))
    fixed = cut / "fixed.json"
    assert main(["lint", str(cut), "--fix", str(fixed)]) == 0
    assert f"{cut}:{twice}: S102 fixed" in capsys.readouterr().err
    assert len(json.loads(fixed.read_text())["images"]) == 5


def test_broken_shards_are_named(shards: tuple[Labels, Path, Path]) -> None:
    _, _, cut = shards
    middle = cut / "annotations-00001.json.gz"
    content = json.loads(gzip.decompress(middle.read_bytes()))
    content["categories"].pop()
    middle.write_bytes(gzip.compress(json.dumps(content).encode()))
    with pytest.raises(UserError, match=r"annotations-00001\.json\.gz: its categories are not those of"):
        open_labels(cut)
    middle.write_bytes(b"")
    with pytest.raises(UserError, match=r"annotations-00001\.json\.gz: not JSON"):
        read_label_set(cut)
    middle.unlink()
    with pytest.raises(UserError, match=r"its shard annotations-00001\.json is missing"):
        read_training_data(cut)
