"""Reading labels and bringing two sets together: runs, exports, COCO files, lists of results, and what does not fit."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from models.masks import mask_areas
from pipeline.errors import UserError
from pipeline.export import export_run
from pipeline.proof.pairing import Pair, pair_labels
from pipeline.proof.read_labels import read_label_set
from tests.proof_pairs import IMAGE_HW, coco, write_json
from tests.review_runs import odd_records, write_run

BOX = (10.0, 10.0, 20.0, 20.0)
ROW = (0, 0, BOX, None)


def paired(truth: Path, found: Path, classes: list[str] | None = None) -> Pair:
    truth_set = read_label_set(truth)
    return pair_labels(truth_set, read_label_set(found, truth_set), classes)


def test_a_run_and_its_export_are_the_same_labels(tmp_path: Path) -> None:
    run = write_run(tmp_path, odd_records())
    export_run(run, tmp_path / "coco")
    one, other = read_label_set(run), read_label_set(tmp_path / "coco")
    assert one.names == other.names == ("round thing", "square")
    assert sorted(image.path for image in one.images) == sorted(image.path for image in other.images)
    assert one.failed == (("sub/broken.jpg", "truncated after 12 of 900 bytes"),)
    assert one.has_scores
    assert other.has_scores
    assert len(one.objects) == len(other.objects) == 5, "the mask without a pixel is in neither"
    assert np.array_equal(one.objects.boxes_xywh, other.objects.boxes_xywh)
    made = pair_labels(other, one)
    assert made.has_masks
    assert made.image_file(0) is not None


def test_what_failed_counts_as_nothing_found(tmp_path: Path) -> None:
    run = write_run(tmp_path, odd_records())
    truth = coco(["broken.jpg", "wide.png"], ("square",), [ROW, (1, 0, BOX, None)])
    truth["images"][1] |= {"height": 90, "width": 160}
    file = write_json(tmp_path / "truth.json", truth)
    made = paired(file, run, ["Square"])
    assert "1 images failed there" in " ".join(made.notes)
    assert "3 images are not in the truth" in " ".join(made.notes)
    assert set(made.found.image_rows) == {1}


def test_polygons_and_both_kinds_of_rle(tmp_path: Path) -> None:
    content = coco(["a.png"], ("a",), [ROW] * 3)
    polygon = [[10, 10, 30, 10, 30, 30, 10, 30]]
    encoded = coco_mask.merge(coco_mask.frPyObjects(polygon, *IMAGE_HW))
    plain = np.zeros(IMAGE_HW, np.uint8)
    plain[10:30, 10:30] = 1
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], plain.ravel(order="F"), [2]]))))
    compressed = {"size": list(IMAGE_HW), "counts": encoded["counts"].decode()}
    for place, segmentation in enumerate((polygon, compressed, {"size": list(IMAGE_HW), "counts": runs.tolist()})):
        content["annotations"][place]["segmentation"] = segmentation
    found = read_label_set(write_json(tmp_path / "a.json", content)).objects
    assert mask_areas([mask for mask in found.masks if mask is not None]).tolist() == [400, 400, 400]


def test_results_take_their_ids_from_the_truth(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "truth.json", coco(["a.png", "b.png"], ("a", "b"), [ROW, (1, 1, BOX, None)]))
    results = write_json(tmp_path / "r.json", [{"image_id": 11, "category_id": 11, "bbox": list(BOX), "score": 0.5}])
    made = paired(truth, results)
    assert made.found.image_rows.tolist() == [1]
    assert made.names == ("a", "b")
    with pytest.raises(UserError, match="can only be PREDICTIONS"):
        read_label_set(results)
    with pytest.raises(UserError, match="can only be PREDICTIONS"):
        read_label_set(results, read_label_set(write_run(tmp_path, odd_records())))


def test_a_compressed_file_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    content = json.dumps(coco(["a.png"], ("a",), [ROW])).encode()
    (tmp_path / "e" / "annotations.json.gz").write_bytes(gzip.compress(content))
    assert len(read_label_set(tmp_path / "e").objects) == 1


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("sub/a.png", "sub/a.png"),
        ("sub/a.png", "photos/sub/a.png"),
        ("/data/photos/sub/a.png", "sub/a.png"),
        ("a.png", "./a.png"),
    ],
)
def test_images_are_matched_by_their_paths(tmp_path: Path, there: str, here: str) -> None:
    truth = write_json(tmp_path / "t.json", coco([there, "b.png"], ("a",), [ROW]))
    found = write_json(tmp_path / "p.json", coco(["b.png", here], ("A ",), [(1, 0, BOX, 0.5)]))
    assert paired(truth, found).found.image_rows.tolist() == [0]


def test_the_same_name_in_two_folders_is_two_images(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "t.json", coco(["x/a.png", "y/a.png"], ("a",), [ROW]))
    found = write_json(tmp_path / "p.json", coco(["p/y/a.png", "p/x/a.png"], ("a",), [(0, 0, BOX, 0.5)]))
    assert paired(truth, found).found.image_rows.tolist() == [1]
    vague = write_json(tmp_path / "v.json", coco(["a.png", "x/a.png"], ("a",), [(0, 0, BOX, 0.5)]))
    assert paired(truth, vague).found.image_rows.tolist() == [1], "x/a.png is taken, so a.png is y/a.png"
    other = write_json(tmp_path / "o.json", coco(["z/a.png", "x/a.png"], ("a",), [(0, 0, BOX, 0.5)]))
    with pytest.raises(UserError, match=r"1 of the 2 images .* are not in it: y/a.png"):
        paired(truth, other)


def test_missing_images_and_other_sizes_are_refused(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "t.json", coco(["a.png", "b.png"], ("a",), [ROW]))
    with pytest.raises(UserError, match=r"p.json: 1 of the 2 images of .*t.json are not in it: b.png"):
        paired(truth, write_json(tmp_path / "p.json", coco(["a.png"], ("a",), [])))
    wider = coco(["a.png", "b.png"], ("a",), [])
    wider["images"][0]["width"] = 99
    with pytest.raises(UserError, match=r"a.png: its size differs .* 80 × 60 and 99 × 60"):
        paired(truth, write_json(tmp_path / "w.json", wider))
    twice = write_json(tmp_path / "d.json", coco(["a.png", "a.png", "b.png"], ("a",), []))
    with pytest.raises(UserError, match=r"'a.png' is listed twice"):
        paired(truth, twice)


def test_classes_are_matched_by_their_names(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "t.json", coco(["a.png"], ("traffic light", "car"), [ROW, (0, 1, BOX, None)]))
    found = write_json(tmp_path / "p.json", coco(["a.png"], ("Car", "Traffic  Light"), [(0, 0, BOX, 0.5)]))
    made = paired(truth, found)
    assert made.names == ("traffic light", "car")
    assert made.found.class_rows.tolist() == [1]
    only = paired(truth, found, ["CAR"])
    assert (only.names, len(only.truth), len(only.found)) == (("car",), 1, 1)


@pytest.mark.parametrize(
    ("names", "rows", "classes", "message"),
    [
        (("traffic lights",), [], None, r"p.json: it has no class 'traffic light'.*did you mean 'traffic lights'"),
        (("traffic light", "dog"), [(0, 1, BOX, 0.5)], None, r"t.json: it has no class 'dog'.*--classes"),
        (
            ("traffic light",),
            [],
            ["trafic light"],
            r"--classes: .*no class 'trafic light'; did you mean 'traffic light'",
        ),
        (("a", "A"), [], None, "two classes are called 'a'"),
    ],
)
def test_classes_that_do_not_fit(
    tmp_path: Path, names: tuple[str, ...], rows: list[Any], classes: list[str] | None, message: str
) -> None:
    truth = write_json(tmp_path / "t.json", coco(["a.png"], ("traffic light",), [ROW]))
    with pytest.raises(UserError, match=message):
        paired(truth, write_json(tmp_path / "p.json", coco(["a.png"], names, rows)), classes)


def test_a_class_that_nobody_has_does_not_count(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "t.json", coco(["a.png"], ("a", "unused"), [ROW]))
    assert paired(truth, write_json(tmp_path / "p.json", coco(["a.png"], ("other", "a"), []))).names == ("a",)


def test_labels_without_scores_or_masks_are_noted(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "t.json", coco(["a.png"], ("a",), [ROW]))
    made = paired(truth, write_json(tmp_path / "p.json", coco(["a.png"], ("a",), [ROW])))
    assert made.found.scores.tolist() == [1]
    assert not made.has_scores
    assert not made.has_masks
    assert "without scores" in made.notes[0]
    assert "masks are not judged" in made.notes[1]


def broken(change: dict[str, Any]) -> dict[str, Any]:
    content = coco(["a.png"], ("a",), [ROW])
    content["annotations"][0] |= change
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "not COCO: it must be an object with the lists"),
        (broken({"bbox": [1, 2, 3]}), "annotation 10 has no bbox of four numbers"),
        (broken({"bbox": [1, 2, 3, None]}), "annotation 10: bbox must be a finite number"),
        (broken({"image_id": 99}), "annotation 10 is of image 99"),
        (broken({"category_id": 99}), "annotation 10 is of category 99"),
        (broken({"segmentation": {"size": [9, 9], "counts": "abc"}}), "annotation 10: its mask is 9 × 9"),
        (broken({"segmentation": {"size": [9, 9]}}), "annotation 10: its segmentation cannot be read"),
        (broken({"score": "high"}), "annotation 10: score must be a finite number"),
        (coco(["a.png"], ("a",), []) | {"images": [{"id": 1}]}, "lacks or has a wrong 'file_name'"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_label_set(write_json(tmp_path / "t.json", content))


def test_what_is_no_label_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        read_label_set(tmp_path / "nothing")
    with pytest.raises(UserError, match="neither a run nor an export"):
        read_label_set(tmp_path)
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_label_set(tmp_path / "t.json")


def test_a_truth_without_objects_cannot_judge(tmp_path: Path) -> None:
    truth = write_json(tmp_path / "t.json", coco(["a.png"], ("a",), []))
    found = write_json(tmp_path / "p.json", coco(["a.png"], ("a",), [(0, 0, BOX, 0.5)]))
    with pytest.raises(UserError, match="no object of the classes a to judge by"):
        paired(truth, found)
