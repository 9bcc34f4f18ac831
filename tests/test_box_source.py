"""Boxes of the detector, of the masks, or of both."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from models.detections import Detections, Instances
from models.interfaces import Image
from models.masks import Rle, encode_mask
from models.ontology import Ontology
from pipeline.box_source import choose_boxes
from pipeline.build import assemble
from pipeline.config import AnnotateConfig, BoxSource
from pipeline.errors import UserError
from pipeline.records import AnnotatedImage
from pipeline.sources import find_images
from pipeline.store.fingerprint import fingerprint_parts, parts_to_fingerprint
from tests.stub_models import ONTOLOGY, StubDetector, save_image

SIZE = (40, 60)


def instances(boxes: list[list[float]], masks: list[Rle]) -> Instances:
    count = len(boxes)
    scores = np.linspace(0.9, 0.5, count)
    found = Detections(SIZE, np.array(boxes, np.float32).reshape(-1, 4), scores, np.ones(count), np.zeros(count))
    return Instances(found, tuple(masks), np.full(count, 0.8, np.float32))


def rectangle(x1: int, y1: int, x2: int, y2: int) -> Rle:
    mask = np.zeros(SIZE, dtype=bool)
    mask[y1:y2, x1:x2] = True
    return encode_mask(mask)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("detector", [[10, 10, 30, 20], [5, 5, 15, 15]]),
        ("mask", [[12, 10, 50, 21], [4, 4, 16, 16]]),
        # 50 is 20 pixels from 30, more than 30 % of 20: that side stays the detector's.
        ("both", [[11, 10, 30, 20.5], [4.5, 4.5, 15.5, 15.5]]),
    ],
)
def test_sources(source: BoxSource, expected: list[list[float]]) -> None:
    given = instances([[10, 10, 30, 20], [5, 5, 15, 15]], [rectangle(12, 10, 50, 21), rectangle(4, 4, 16, 16)])
    chosen = choose_boxes(given, source)
    assert_allclose(chosen.detections.boxes_xyxy, expected)
    assert chosen.detections.boxes_xyxy.dtype == np.float32
    assert chosen.masks == given.masks
    assert_allclose(chosen.detections.scores, given.detections.scores)
    assert_allclose(given.detections.boxes_xyxy[0], [10, 10, 30, 20])  # as they were


@pytest.mark.parametrize("source", ["mask", "both"])
def test_objects_without_a_mask_keep_their_box(source: BoxSource) -> None:
    empty = encode_mask(np.zeros(SIZE, dtype=bool))
    given = instances(
        [[1, 2, 3, 4], [5, 6, 7, 8], [10, 10, 20, 20]], [Rle.absent(SIZE), empty, rectangle(9, 9, 21, 21)]
    )
    boxes = choose_boxes(given, source).detections.boxes_xyxy
    assert_allclose(boxes[:2], [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert boxes[2, 0] < 10 < 20 < boxes[2, 2]
    assert len(choose_boxes(instances([], []), source)) == 0


class _Inside:
    """Masks one pixel inside their boxes."""

    def __call__(self, image: Image, detections: Detections) -> Instances:
        masks = []
        for x1, y1, x2, y2 in detections.boxes_xyxy.astype(int):
            mask = np.zeros(detections.image_hw, bool)
            mask[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = True
            masks.append(encode_mask(mask))
        return Instances(detections, tuple(masks), np.full(len(masks), 0.5, np.float32))


@pytest.mark.parametrize(("source", "inset"), [("detector", 0.0), ("mask", 1.0), ("both", 0.5)])
def test_the_rows_have_the_boxes_asked_for(tmp_path: Path, source: BoxSource, inset: float) -> None:
    save_image(tmp_path / "a.png")
    annotator = assemble(AnnotateConfig(boxes=source, device="cpu"), ONTOLOGY, StubDetector(), _Inside())
    with contextlib.closing(annotator):
        (record,) = annotator(find_images(tmp_path).refs, str(tmp_path)).records
    assert isinstance(record, AnnotatedImage)
    assert_allclose(record.instances.detections.boxes_xyxy, [[inset, inset, 8 - inset, 12 - inset]])


def test_other_boxes_are_another_run_and_need_masks() -> None:
    def fingerprint(config: AnnotateConfig) -> str:
        return parts_to_fingerprint(fingerprint_parts(config, Ontology.from_names("cat"), "w", "s"))

    assert len({fingerprint(AnnotateConfig(boxes=source)) for source in ("detector", "mask", "both")}) == 3
    with pytest.raises(UserError, match="--boxes both needs masks"):
        AnnotateConfig(boxes="both", mask="none")
    with pytest.raises(UserError, match="--boxes sam: must be detector, mask or both"):
        AnnotateConfig(boxes="sam")
