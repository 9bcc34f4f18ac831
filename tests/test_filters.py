"""Which boxes go, and why."""

import numpy as np
import pytest

from models.detections import Detections
from pipeline.config import FilterSettings
from pipeline.filters import REASONS, filter_detections, non_maximum_suppression

HW = (100, 200)


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows are x1, y1, x2, y2, score, class id."""
    array = np.array(rows, np.float32).reshape(-1, 6)
    classes = array[:, 5].astype(np.int64)
    return Detections(HW, array[:, :4], array[:, 4], classes, np.arange(len(rows)))


def test_nothing() -> None:
    kept, drops = filter_detections(Detections.empty(HW), FilterSettings())
    assert len(kept) == 0
    assert not drops


def test_each_reason_is_counted_once() -> None:
    kept, drops = filter_detections(
        detections(
            (0, 0, 10, 10, 0.9, 0),  # negative
            (-20, 0, -5, 10, 0.9, 1),  # outside
            (0, 0, 2, 2, 0.9, 1),  # small
            (0, 0, 200, 100, 0.9, 1),  # large
            (10, 10, 50, 50, 0.8, 1),
            (10, 10, 50, 52, 0.7, 1),  # overlap
            (10, 10, 50, 50, 0.6, 2),
            (-9, -9, 20, 20, 0.95, 2),
        ),
        FilterSettings(min_box_area=10, max_box_share=0.9),
    )
    assert drops == {"negative": 1, "outside": 1, "small": 1, "large": 1, "overlap": 1}
    assert set(drops) == set(REASONS)
    assert kept.prompt_ids.tolist() == [7, 4, 6]
    assert kept.boxes_xyxy[0].tolist() == [0, 0, 20, 20]


def test_class_agnostic() -> None:
    both = detections((10, 10, 50, 50, 0.6, 2), (10, 10, 50, 50, 0.8, 1))
    assert len(filter_detections(both, FilterSettings())[0]) == 2
    assert filter_detections(both, FilterSettings(class_agnostic=True))[0].class_ids.tolist() == [1]


def test_equal_scores_keep_the_given_order() -> None:
    kept, _ = filter_detections(
        detections((0, 0, 5, 5, 0.5, 1), (50, 50, 60, 60, 0.5, 1), (90, 0, 99, 9, 0.5, 1)), FilterSettings()
    )
    assert kept.prompt_ids.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("iou", "stays"), [(0.7, [True, False, True]), (1.0, [True] * 3), (0.0, [True, False, False])])
def test_suppressed_rows_suppress_nothing(iou: float, stays: list[bool]) -> None:
    chain = detections((0, 0, 10, 10, 0.9, 1), (0, 0, 10, 12, 0.8, 1), (0, 0, 10, 14.5, 0.7, 1))
    assert non_maximum_suppression(chain, iou).tolist() == stays


def test_agrees_with_a_plain_loop() -> None:
    random = np.random.default_rng(3)
    corners = random.uniform(0, 60, (60, 2))
    boxes = np.concatenate([corners, corners + random.uniform(5, 40, (60, 2))], axis=1)
    scores = np.sort(random.uniform(0, 1, 60))[::-1].copy()
    found = Detections(HW, boxes, scores, random.integers(1, 4, 60), np.zeros(60))
    kept: list[int] = []
    for row in range(60):
        x1, y1, x2, y2 = boxes[row]
        clear = True
        for other in kept:
            a1, b1, a2, b2 = boxes[other]
            overlap = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - overlap
            clear &= found.class_ids[row] != found.class_ids[other] or overlap / union <= 0.4
        if clear:
            kept.append(row)
    assert np.flatnonzero(non_maximum_suppression(found, 0.4)).tolist() == kept
    assert 10 < len(kept) < 60
