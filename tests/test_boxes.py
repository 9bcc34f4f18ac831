"""Box arithmetic: formats round-trip, areas and overlaps are right, bad shapes are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.boxes import (
    as_boxes,
    box_areas,
    check_image_hw,
    clip_boxes,
    cxcywh_rel_to_xyxy,
    pairwise_iou,
    xywh_to_xyxy,
    xyxy_to_xywh,
)

number = st.integers(-200, 400).map(float)
some_boxes = st.lists(st.tuples(number, number, number, number), max_size=6).map(
    lambda rows: np.array(rows, np.float32).reshape(-1, 4)
)


@pytest.mark.parametrize("nothing", [[], np.zeros(0), np.zeros((0, 4))])
def test_no_boxes(nothing: object) -> None:
    boxes = as_boxes(nothing)  # type: ignore[arg-type]
    assert boxes.shape == (0, 4)
    assert boxes.dtype == np.float32
    assert clip_boxes(boxes, (3, 5)).shape == (0, 4)
    assert box_areas(boxes).shape == (0,)
    assert cxcywh_rel_to_xyxy(boxes, (3, 5)).shape == (0, 4)
    assert xywh_to_xyxy(xyxy_to_xywh(boxes)).shape == (0, 4)
    assert pairwise_iou(boxes, np.ones((2, 4), np.float32)).shape == (0, 2)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (np.zeros((2, 5)), r"\(N, 4\), not \(2, 5\)"),
        (np.zeros(4), r"not \(4,\)"),
        ([[0, 0, 1, float("nan")]], "not finite"),
        ([[0, 0, 1, float("inf")]], "not finite"),
    ],
)
def test_bad_boxes(boxes: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_boxes(boxes)  # type: ignore[arg-type]


@pytest.mark.parametrize("image_hw", [(0, 4), (4, -1)])
def test_bad_image(image_hw: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        check_image_hw(image_hw)


def test_relative_centres_to_corners() -> None:
    """Height and width differ, so that a swap shows."""
    corners = cxcywh_rel_to_xyxy(np.array([[0.5, 0.25, 0.2, 0.5]], np.float32), (100, 200))
    np.testing.assert_allclose(corners, [[80, 0, 120, 50]], atol=1e-4)


@given(some_boxes)
def test_corners_and_sizes_round_trip(boxes: np.ndarray) -> None:
    np.testing.assert_array_equal(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)


@given(some_boxes, st.integers(1, 300), st.integers(1, 300))
def test_clipped_boxes_lie_in_the_image(boxes: np.ndarray, height: int, width: int) -> None:
    clipped = clip_boxes(boxes, (height, width))
    assert (clipped >= 0).all()
    assert (clipped[:, [0, 2]] <= width).all()
    assert (clipped[:, [1, 3]] <= height).all()
    inside = (boxes >= 0).all(1) & (boxes[:, [0, 2]] <= width).all(1) & (boxes[:, [1, 3]] <= height).all(1)
    np.testing.assert_array_equal(clipped[inside], boxes[inside])


def test_areas() -> None:
    assert box_areas(np.array([[1, 2, 4, 6], [4, 2, 1, 6], [1, 1, 1, 9]], np.float32)).tolist() == [12, 0, 0]


def test_iou_by_hand() -> None:
    first = np.array([[0, 0, 2, 2], [5, 5, 5, 5]], np.float32)
    second = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 5, 5], [2, 2, 4, 4]], np.float32)
    np.testing.assert_allclose(pairwise_iou(first, second), [[1, 1 / 3, 0, 0], [0, 0, 0, 0]], atol=1e-6)


@given(some_boxes, some_boxes)
def test_iou_is_symmetric_and_a_share(first: np.ndarray, second: np.ndarray) -> None:
    iou = pairwise_iou(first, second)
    assert ((iou >= 0) & (iou <= 1 + 1e-6)).all()
    np.testing.assert_allclose(iou, pairwise_iou(second, first).T, atol=1e-6)
