"""Average precision against pycocotools itself, and intervals against images that really stand there twice."""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.proof.coco_scores import coco_scores
from pipeline.proof.evaluate import evaluate
from pipeline.proof.intervals import difference, draw_weights, interval, weighted_ap
from pipeline.proof.mistakes import find_mistakes
from pipeline.proof.pairing import pair_labels
from pipeline.proof.read_labels import read_label_set
from tests.proof_pairs import coco, objects, pair, write_json

SHARED = Path(os.environ.get("GROUNDLABEL_DATA", Path(__file__).parents[2] / "shared" / "data"))
PHOTOS = SHARED / "coco_photos" / "instances.json"


def jittered(file: Path, seed: int) -> list[dict[str, Any]]:
    """Return results made of a truth: boxes moved, masks grown and shrunk, classes swapped, some lost, some doubled."""
    generator = np.random.default_rng(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
    ids = truth.getCatIds()
    results = []
    for annotation in truth.dataset["annotations"]:
        for _ in range(0 if annotation["iscrowd"] else generator.choice([0, 1, 1, 2])):
            mask = truth.annToMask(annotation)
            change = cv2.dilate if generator.random() < 0.5 else cv2.erode
            mask = change(mask, np.ones((3, 3), np.uint8), iterations=int(generator.integers(0, 5)))
            encoded = coco_mask.encode(np.asfortranarray(mask))
            x, y, width, height = annotation["bbox"]
            shift = generator.normal(0, 0.08, 4)
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"]
                    if generator.random() < 0.9
                    else int(generator.choice(ids)),
                    "bbox": [
                        x + shift[0] * width,
                        y + shift[1] * height,
                        width * (1 + shift[2]),
                        height * (1 + shift[3]),
                    ],
                    "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
                    "score": float(generator.random()),
                }
            )
    return results


def coco_stats(file: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    """Return COCOeval's twelve numbers, as its own users get them."""
    left_out = "segmentation" if kind == "bbox" else "bbox"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        found = truth.loadRes([{key: one[key] for key in one if key != left_out} for one in results])
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return list(evaluation.stats)


@pytest.mark.skipif(not PHOTOS.is_file(), reason=f"{PHOTOS} is not here")
@pytest.mark.timeout(300)
def test_the_figures_are_those_of_cocoeval(tmp_path: Path) -> None:
    results = jittered(PHOTOS, seed=3)
    file = write_json(tmp_path / "results.json", results)
    truth = read_label_set(PHOTOS)
    made = pair_labels(truth, read_label_set(file, truth))
    for kind, name in (("bbox", "boxes"), ("segm", "masks")):
        figures = list(coco_scores(made, name).figures.values())
        assert figures == pytest.approx(coco_stats(PHOTOS, results, kind), abs=1e-6), name
        assert 0.2 < figures[0] < 0.8


def small_set(tmp_path: Path, seed: int = 0) -> tuple[Path, Path]:
    """Return files of a truth and of labels, 12 images of two classes."""
    generator = np.random.default_rng(seed)
    names = [f"{row}.png" for row in range(12)]
    boxes = [(row % 12, int(generator.integers(2)), tuple(generator.uniform(5, 30, 4)), None) for row in range(40)]
    labels = []
    for image, class_row, box, _ in boxes:
        shifted = tuple(np.array(box) + generator.normal(0, 1.5, 4))
        labels.append((image, class_row if generator.random() < 0.8 else 1 - class_row, shifted, generator.random()))
    truth = write_json(tmp_path / "truth.json", coco(names, ("a", "b"), boxes))
    return truth, write_json(tmp_path / f"labels{seed}.json", coco(names, ("a", "b"), labels))


def test_weighted_precision_is_that_of_images_that_stand_there_as_often(tmp_path: Path) -> None:
    truth_file, found_file = small_set(tmp_path)
    made = pair_labels(read_label_set(truth_file), read_label_set(found_file))
    weights = draw_weights(12)[:6]
    matches = coco_scores(made, "boxes").matches
    resampled = weighted_ap(made, matches, weights, slice(None))
    for counts, value in zip(weights.astype(int), resampled, strict=True):
        copies = [np.repeat(np.arange(12), counts), {}]
        sides = []
        for side in (made.truth, made.found):
            rows = [
                (place, row)
                for place, image in enumerate(copies[0])
                for row in np.flatnonzero(side.image_rows == image)
            ]
            sides.append(
                objects(
                    [
                        (place, int(side.class_rows[row]), tuple(side.boxes_xywh[row]), float(side.scores[row]))
                        for place, row in rows
                    ]
                )
            )
        again = coco_scores(pair(sides[0], sides[1], images=12), "boxes")
        assert value == pytest.approx(again.figures["AP"])
    once = np.ones((1, 12))
    assert weighted_ap(made, matches, once, slice(1))[0] == pytest.approx(coco_scores(made, "boxes").figures["AP50"])
    assert find_mistakes(made, matches, False).ap50 == pytest.approx(coco_scores(made, "boxes").figures["AP50"])


def test_a_class_without_objects_in_a_resample_does_not_count() -> None:
    truth = objects([(0, 0, (5, 5, 9, 9), 1), (1, 1, (5, 5, 9, 9), 1)])
    made = pair(truth, objects([(0, 0, (5, 5, 9, 9), 0.9), (0, 1, (30, 30, 9, 9), 0.9)]))
    matches = coco_scores(made, "boxes").matches
    values = weighted_ap(made, matches, np.array([[2.0, 0], [1, 1], [0, 2]]), slice(None))
    assert values.tolist() == [pytest.approx(1), pytest.approx(0.5), 0]


def test_nothing_found_and_nothing_resampled() -> None:
    made = pair(objects([(0, 0, (5, 5, 9, 9), 1)]), objects([]))
    matches = coco_scores(made, "boxes").matches
    values = weighted_ap(made, matches, np.array([[1.0, 1], [0, 2]]), slice(None))
    assert values[0] == 0
    assert np.isnan(values[1])


def test_intervals() -> None:
    one = interval(0.5, np.array([0.4, 0.6, np.nan, 0.4, 0.6]))
    assert (one.low, one.high) == (pytest.approx(0.5 - 0.196), pytest.approx(0.5 + 0.196))
    assert interval(0.95, np.array([0.4, 0.6]), most=1.0).high == 1
    assert np.isnan(interval(0.5, np.array([np.nan])).low)


def test_a_difference_is_better_only_where_the_interval_leaves_out_zero() -> None:
    weights = draw_weights(50)
    noise = np.random.default_rng(0).normal(0, 1, 50)
    here = difference(lambda drawn: drawn @ (noise + 3), lambda drawn: drawn @ noise, weights)
    assert here.verdict == "better"
    assert here.share_higher == 1
    there = difference(lambda drawn: drawn @ noise, lambda drawn: drawn @ (noise + 3), weights)
    assert there.verdict == "worse"
    same = difference(lambda drawn: drawn @ noise, lambda drawn: drawn @ noise[::-1], weights)
    assert same.verdict == "not told apart"
    assert same.change.value == pytest.approx(0)


def test_resamples_are_the_same_each_time() -> None:
    assert np.array_equal(draw_weights(7), draw_weights(7))
    assert (draw_weights(7).sum(1) == 7).all()


def test_labels_against_themselves_and_against_worse_ones(tmp_path: Path) -> None:
    truth, labels = small_set(tmp_path)
    content = json.loads(labels.read_text())
    content["annotations"] = [one for one in content["annotations"] if one["id"] % 3 == 0]
    fewer = write_json(tmp_path / "fewer.json", content)
    same = evaluate(truth, labels, labels).comparison
    assert same is not None
    assert all(one.change.value == 0 and one.verdict == "not told apart" for one in same.figures.values())
    more = evaluate(truth, labels, fewer).comparison
    assert more is not None
    assert more.figures["AP50"].verdict == "better"
    assert more.figures["AP50"].here == pytest.approx(evaluate(truth, labels).figures["AP50"])
