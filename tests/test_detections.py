"""Detections and instances: whole or refused."""

import numpy as np
import pytest

from models.detections import Detections, Instances
from models.masks import encode_mask

HW = (10, 20)


def some(count: int) -> Detections:
    boxes = np.arange(count * 4, dtype=np.float32).reshape(-1, 4)
    return Detections(HW, boxes, np.linspace(0, 1, count), np.arange(count) + 1, np.arange(count))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_columns(count: int) -> None:
    found = some(count)
    assert len(found) == count
    assert found.boxes_xyxy.dtype == np.float32
    assert found.scores.dtype == np.float32
    assert found.class_ids.dtype == np.int64
    assert found.prompt_ids.dtype == np.int64


def test_empty() -> None:
    empty = Detections.empty(HW)
    assert len(empty) == 0
    assert empty.boxes_xyxy.shape == (0, 4)
    assert empty.class_ids.dtype == np.int64
    assert len(empty[np.zeros(0, bool)]) == 0
    assert len(empty[np.zeros(0, int)]) == 0


def test_rows_are_chosen_by_mask_and_by_index() -> None:
    found = some(4)
    assert found[np.array([True, False, True, False])].class_ids.tolist() == [1, 3]
    reordered = found[np.array([3, 0])]
    assert reordered.class_ids.tolist() == [4, 1]
    np.testing.assert_array_equal(reordered.boxes_xyxy[0], found.boxes_xyxy[3])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.5]}, r"scores must have the shape \(2,\)"),
        ({"scores": [0.5, 1.5]}, r"scores must lie in \[0, 1\]"),
        ({"scores": [0.5, float("nan")]}, r"scores must lie in \[0, 1\]"),
        ({"class_ids": [[1], [2]]}, r"class_ids must have the shape \(2,\)"),
        ({"prompt_ids": []}, r"prompt_ids must have the shape \(2,\)"),
        ({"boxes_xyxy": np.zeros((2, 3))}, r"\(N, 4\)"),
        ({"image_hw": (0, 3)}, "image_hw"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict, message: str) -> None:  # type: ignore[type-arg]
    fields = {
        "image_hw": HW,
        "boxes_xyxy": np.zeros((2, 4)),
        "scores": [0.5, 0.5],
        "class_ids": [1, 2],
        "prompt_ids": [0, 1],
    }
    with pytest.raises(ValueError, match=message):
        Detections(**(fields | change))


def test_instances() -> None:
    masks = tuple(encode_mask(np.full(HW, value)) for value in (True, False))
    instances = Instances(some(2), masks, [0.5, 0.25])  # type: ignore[arg-type]
    assert len(instances) == 2
    chosen = instances[np.array([1])]
    assert chosen.masks == (masks[1],)
    assert chosen.mask_scores.tolist() == [0.25]
    assert chosen.detections.class_ids.tolist() == [2]
    assert len(Instances(Detections.empty(HW), (), np.zeros(0, np.float32))) == 0
    with pytest.raises(ValueError, match="masks must be 2"):
        Instances(some(2), masks[:1], [0.5, 0.25])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not fit the image"):
        Instances(some(1), (encode_mask(np.ones((20, 10), bool)),), [0.5])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mask_scores"):
        Instances(some(1), masks[:1], [1.5])  # type: ignore[arg-type]
