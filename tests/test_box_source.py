"""Whose boxes exports and evaluations take: the masks', the detector's, or the mean of both."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from models.boxes import xyxy_to_xywh
from pipeline.box_source import BoxSource, choose_box
from pipeline.errors import UserError
from pipeline.export import open_labels
from pipeline.export.objects import ExportImage
from pipeline.paths import path_to_image_id
from pipeline.proof.evaluate import evaluate
from pipeline.proof.read_labels import read_label_set
from pipeline.reviewed.base import read_base
from pipeline.reviewed.changes import take_labels
from pipeline.reviewed.diff import object_changes
from pipeline.reviewed.layer import ReviewedLayer
from pipeline.store.run import Run
from tests.review_runs import labelled, write_run

HW = (40, 60)
DETECTED = ((10.0, 10.0, 30.0, 20.0), (5.0, 25.0, 15.0, 35.0), (40.0, 5.0, 50.0, 9.0))
MASKED = ((12.0, 10.0, 50.0, 21.0), (4.0, 24.0, 16.0, 36.0))
# 50 is 20 pixels from 30, more than 30 % of 20: that side stays the detector's.
MEANT = ((11.0, 10.0, 30.0, 20.5), (4.5, 24.5, 15.5, 35.5))
EXPECTED: dict[BoxSource, tuple[tuple[float, ...], ...]] = {"mask": MASKED, "detector": DETECTED[:2], "both": MEANT}


@pytest.mark.parametrize("source", ["mask", "detector", "both"])
def test_sources(source: BoxSource) -> None:
    for mask, box, expected in zip(MASKED, DETECTED[:2], EXPECTED[source], strict=True):
        assert choose_box(mask, box, source) == expected
        assert choose_box(mask, None, source) == mask


def write(folder: Path) -> Run:
    """Write a run of one image: two objects whose masks and boxes differ, and one whose mask is empty."""
    masks = np.zeros((3, *HW), bool)
    for mask, (left, top, right, bottom) in zip(masks, np.array(MASKED, int), strict=False):
        mask[top:bottom, left:right] = True
    return Run.open(write_run(folder, [labelled("a.png", HW, list(zip(masks, DETECTED, (0, 0, 0), strict=True)))]))


def boxes_of(file: Path) -> list[list[float]]:
    return sorted(annotation["bbox"] for annotation in json.loads(file.read_text())["annotations"])


@pytest.mark.parametrize("source", ["mask", "detector", "both"])
def test_export_writes_them(tmp_path: Path, source: BoxSource) -> None:
    run = write(tmp_path)
    output = tmp_path / "coco"
    assert main(["export", str(run.folder), "--output", str(output), "--boxes", source]) == 0
    assert boxes_of(output / "annotations.json") == sorted(
        xyxy_to_xywh(np.array(EXPECTED[source], np.float32)).tolist()
    )


def test_evaluate_judges_them(tmp_path: Path) -> None:
    run = write(tmp_path)
    main(["export", str(run.folder), "--output", str(tmp_path / "truth"), "--boxes", "detector"])
    exact = evaluate(tmp_path / "truth", run.folder, boxes="detector").figures["AP"]
    tight = evaluate(tmp_path / "truth", run.folder).figures["AP"]
    assert tight < exact == pytest.approx(1.0)


def test_what_a_person_touched_keeps_the_box_of_its_mask(tmp_path: Path) -> None:
    run = write(tmp_path)
    (base,) = read_base(run, [path_to_image_id("a.png")]).values()
    first, second, _ = base.objects
    assert second.box_xyxy == MASKED[1]
    other = dataclasses.replace(second, class_name="square")
    changes = [*take_labels(base.image, base.objects, base.digest), *object_changes(base.image, second, other)]
    ReviewedLayer(run.folder).add(changes)
    (image,) = open_labels(run.folder, boxes="detector").records()
    assert isinstance(image, ExportImage)
    assert {found.instance_id: found.box_xyxy for found in image.objects} == {
        first.object_id: DETECTED[0],
        second.object_id: MASKED[1],
    }


def test_only_a_run_has_other_boxes(tmp_path: Path) -> None:
    run = write(tmp_path)
    main(["export", str(run.folder), "--output", str(tmp_path / "coco")])
    for read in (open_labels, read_label_set):
        with pytest.raises(UserError, match="--boxes both: only a run has the detector's boxes"):
            read(tmp_path / "coco", boxes="both")
