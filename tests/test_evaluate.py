"""Average precision: COCO's figures on cases that can be told by hand."""

import math

import numpy as np
import pytest

from models.detections import Detections
from models.masks import encode_mask
from models.ontology import Ontology
from models.training.augment import Labelled
from models.training.evaluate import average_precision, evaluate_detector, suppress

HW = (100, 200)
BOXES = np.array([[10, 10, 50, 50], [100, 20, 180, 90]], np.float32)
NAMES = ("cat", "dog", "owl")


def found(boxes: np.ndarray, scores: list[float], class_ids: list[int]) -> Detections:
    return Detections(HW, boxes, np.array(scores), np.array(class_ids), np.array(class_ids) - 1)


def judge(detections: Detections, labels: list[str]):  # type: ignore[no-untyped-def]
    return average_precision([(HW, BOXES, ("cat", "dog"))], [(detections, labels)], NAMES)


def test_all_right() -> None:
    precision = judge(found(BOXES, [0.9, 0.8], [1, 2]), ["cat", "dog"])
    assert precision.ap50 == pytest.approx(1.0)
    assert precision.ap == pytest.approx(1.0)
    assert precision.by_class["cat"] == pytest.approx(1.0)
    assert precision.by_class_50["dog"] == pytest.approx(1.0)
    assert math.isnan(precision.by_class["owl"])


def test_one_class_missed() -> None:
    precision = judge(found(BOXES[:1], [0.9], [1]), ["cat"])
    assert precision.ap50 == pytest.approx(0.5)
    assert precision.by_class["dog"] == 0


def test_a_wrong_name_is_wrong() -> None:
    assert judge(found(BOXES, [0.9, 0.8], [2, 1]), ["dog", "cat"]).ap50 == 0


def test_a_loose_box_counts_at_half_overlap_only() -> None:
    loose = BOXES.copy()
    loose[:, 2] -= 0.35 * (loose[:, 2] - loose[:, 0])  # IoU .65
    precision = judge(found(loose, [0.9, 0.8], [1, 2]), ["cat", "dog"])
    assert precision.ap50 == pytest.approx(1.0)
    assert precision.ap == pytest.approx(0.4, abs=0.11)


def test_nothing_found_and_nothing_there() -> None:
    assert judge(Detections.empty(HW), []).ap == 0
    nothing = average_precision([(HW, BOXES[:0], ())], [(found(BOXES, [0.9, 0.8], [1, 2]), ["cat", "dog"])], NAMES)
    assert math.isnan(nothing.ap)
    assert math.isnan(average_precision([], [], NAMES).ap50)


def test_masks_are_judged_as_masks() -> None:
    whole = np.zeros(HW, bool)
    whole[10:50, 10:50] = True
    part = whole.copy()
    part[:, 10:26] = False
    detections = found(BOXES[:1], [0.9], [1])
    truth = [(HW, BOXES[:1], ("cat",))]
    by_box = average_precision(truth, [(detections, ["cat"])], NAMES)
    by_mask = average_precision(
        truth, [(detections, ["cat"])], NAMES, masks=([[encode_mask(whole)]], [[encode_mask(part)]])
    )
    assert by_box.ap == pytest.approx(1.0)
    assert by_mask.ap50 == pytest.approx(1.0)
    assert by_mask.ap == pytest.approx(0.3, abs=0.11), "the masks' IoU is .6"


def test_suppression_is_within_a_class() -> None:
    near = BOXES[[0, 0, 0]] + np.array([[0], [1], [2]], np.float32)
    kept = suppress(found(near, [0.5, 0.9, 0.7], [1, 1, 2]))
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7])
    assert kept.class_ids.tolist() == [1, 2]
    assert len(suppress(Detections.empty(HW))) == 0
    apart = np.array([[10 * row, 0, 10 * row + 5, 5] for row in range(120)], np.float32)
    assert len(suppress(found(apart, [0.5] * 120, [1] * 120))) == 100


class Oracle:
    """Says that every asked class is in the middle of the image."""

    asked: list[tuple[str, ...]] = []  # noqa: RUF012

    def __init__(self, ontology: Ontology) -> None:
        self.count = len(ontology.classes)
        self.asked.append(tuple(spec.name for spec in ontology.classes))

    def __call__(self, images: list[np.ndarray]) -> list[Detections]:
        (image,) = images
        height, width = image.shape[:2]
        box = [[width / 4, height / 4, width * 3 / 4, height * 3 / 4]]
        classes = np.arange(1, self.count + 1)
        return [
            Detections((height, width), np.repeat(box, self.count, 0), np.full(self.count, 0.9), classes, classes - 1)
        ]  # type: ignore[arg-type]


@pytest.mark.parametrize("ask_for_its_own", [True, False])
def test_a_detector_is_asked(ask_for_its_own: bool) -> None:
    Oracle.asked = []
    images = [
        Labelled(np.zeros((40, 80, 3), np.uint8), np.array([[20, 10, 60, 30]], np.float32), (name,))
        for name in ("cat", "dog")
    ]
    precision = evaluate_detector(
        Oracle,  # type: ignore[arg-type]
        images,
        NAMES,
        (lambda labelled: labelled.names) if ask_for_its_own else None,
    )
    assert Oracle.asked == ([("cat",), ("dog",)] if ask_for_its_own else [NAMES])
    if ask_for_its_own:
        assert precision.ap == pytest.approx(1.0)
    else:
        assert 0 < precision.ap < 1, "the absent class is found too, with the same score"
