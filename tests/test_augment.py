"""Augmentation: paint a rectangle, transform the image, and find the rectangle where its box says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.training.augment import (
    Labelled,
    crop_resize,
    flip_horizontal,
    flip_vertical,
    jitter_colour,
    mosaic,
    quarter_turn,
    random_window,
)


def painted(height: int = 60, width: int = 90, box: tuple[int, int, int, int] = (20, 10, 50, 40)) -> Labelled:
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = (250, 30, 30)
    return Labelled(image, np.array([box], np.float32), ("thing",))


def find(image: np.ndarray) -> list[float]:
    rows, columns = np.nonzero((image[..., 0] > 150) & (image[..., 1] < 80))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def assert_box_is_where_the_paint_is(labelled: Labelled, tolerance: float = 0.01) -> None:
    assert len(labelled.boxes_xyxy) == len(labelled.names) == 1
    np.testing.assert_allclose(labelled.boxes_xyxy[0], find(labelled.image), atol=tolerance)


def test_flips() -> None:
    labelled = painted()
    assert_box_is_where_the_paint_is(flip_horizontal(labelled))
    assert_box_is_where_the_paint_is(flip_vertical(labelled))
    assert_box_is_where_the_paint_is(flip_vertical(flip_horizontal(labelled)))
    assert flip_horizontal(labelled).boxes_xyxy.tolist() == [[40, 10, 70, 40]]
    assert flip_vertical(labelled).boxes_xyxy.tolist() == [[20, 20, 50, 50]]
    twice = flip_vertical(flip_vertical(flip_horizontal(flip_horizontal(labelled))))
    np.testing.assert_array_equal(twice.image, labelled.image)
    np.testing.assert_array_equal(twice.boxes_xyxy, labelled.boxes_xyxy)


def test_quarter_turns() -> None:
    labelled = painted()
    turned = quarter_turn(labelled)
    assert turned.image.shape == (90, 60, 3)
    assert_box_is_where_the_paint_is(turned)
    assert turned.boxes_xyxy.tolist() == [[10, 40, 40, 70]], "what was right is above"
    half, full = quarter_turn(turned), quarter_turn(quarter_turn(quarter_turn(turned)))
    np.testing.assert_array_equal(half.image, flip_vertical(flip_horizontal(labelled)).image)
    np.testing.assert_array_equal(full.boxes_xyxy, labelled.boxes_xyxy)


@pytest.mark.parametrize("flip", [flip_horizontal, flip_vertical, quarter_turn])
def test_flips_without_boxes(flip) -> None:  # type: ignore[no-untyped-def]
    assert flip(Labelled(painted().image, np.zeros((0, 4), np.float32), ())).boxes_xyxy.shape == (0, 4)


@pytest.mark.parametrize(
    "window",
    [
        (0, 0, 90, 60),
        (10, 5, 70, 45),
        (-30, -20, 120, 80),
        (15.4, 3.7, 60.2, 47.1),
        (-10.5, 4, 79.5, 64),
        (15, -40, 105, 20 + 40),
    ],
)
@pytest.mark.parametrize("size_hw", [(60, 90), (120, 120), (40, 100)])
def test_crops_inside_and_beyond(window: tuple[float, float, float, float], size_hw: tuple[int, int]) -> None:
    result = crop_resize(painted(), tuple(float(side) for side in window), size_hw)  # type: ignore[arg-type]
    assert result.image.shape == (*size_hw, 3)
    assert_box_is_where_the_paint_is(result, tolerance=1.6)


def test_what_lies_outside_is_grey() -> None:
    result = crop_resize(painted(), (-90.0, 0.0, 90.0, 60.0), (60, 180))
    assert (result.image[:, :88] == 114).all()


@pytest.mark.parametrize(("right", "stays"), [(30.0, True), (28.0, False), (19.0, False)])
def test_a_box_stays_if_enough_of_it_is_visible(right: float, stays: bool) -> None:
    """The box runs from 20 to 50: at 30 a third of it is inside, at 28 a quarter, at 19 nothing."""
    result = crop_resize(painted(), (0.0, 0.0, right, 60.0), (60, int(right)), min_visible=0.3)
    assert result.names == (("thing",) if stays else ())
    assert result.boxes_xyxy.tolist() == ([[20, 10, 30, 40]] if stays else [])


def test_specks_are_dropped() -> None:
    assert crop_resize(painted(box=(20, 10, 24, 14)), (0.0, 0.0, 90.0, 60.0), (20, 30)).names == ()


def test_names_stay_with_their_boxes() -> None:
    labelled = Labelled(
        painted().image, np.array([[60, 5, 85, 25], [5, 5, 20, 20], [30, 30, 55, 55]], np.float32), ("a", "b", "c")
    )
    result = crop_resize(labelled, (25.0, 0.0, 90.0, 60.0), (60, 65))
    assert result.names == ("a", "c")
    assert result.boxes_xyxy.tolist() == [[35, 5, 60, 25], [5, 30, 30, 55]]


sides = st.integers(4, 300)


@given(st.integers(0, 2**32), sides, sides, sides, sides, st.floats(0.2, 1), st.floats(1, 2))
def test_windows_fit(seed: int, h: int, w: int, out_h: int, out_w: int, low: float, high: float) -> None:
    left, top, right, bottom = random_window(np.random.default_rng(seed), (h, w), (out_h, out_w), (low, high))
    assert (right - left) / (bottom - top) == pytest.approx(out_w / out_h, rel=1e-6)
    fit = max(h / out_h, w / out_w)
    assert low * fit - 1e-6 <= (right - left) / out_w <= high * fit + 1e-6
    for start, end, side in ((left, right, w), (top, bottom, h)):
        if end - start <= side:
            assert start >= -1e-6
            assert end <= side + 1e-6
        else:
            assert start <= 1e-6
            assert end >= side - 1e-6


@pytest.mark.parametrize("size_hw", [(60, 90), (61, 91)])
@pytest.mark.parametrize("place", range(4))
def test_mosaic(place: int, size_hw: tuple[int, int]) -> None:
    blank = Labelled(np.full((30, 40, 3), 90, np.uint8), np.zeros((0, 4), np.float32), ())
    parts = [blank] * 4
    parts[place] = painted()
    joined = mosaic(parts, size_hw)
    assert joined.image.shape == (*size_hw, 3)
    assert joined.image.min(axis=2).max() > 0
    assert_box_is_where_the_paint_is(joined, tolerance=1.1)
    assert (joined.boxes_xyxy[0, 0] >= size_hw[1] // 2) == (place % 2 == 1)
    assert (joined.boxes_xyxy[0, 1] >= size_hw[0] // 2) == (place // 2 == 1)


def test_a_mosaic_takes_four() -> None:
    with pytest.raises(ValueError, match="takes 4 images, not 3"):
        mosaic([painted()] * 3, (60, 90))
    assert mosaic([painted()] * 4, (60, 90)).names == ("thing",) * 4


def test_colours_change_and_shapes_do_not() -> None:
    image = painted().image
    changed = jitter_colour(np.random.default_rng(0), image, 0.4)
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    assert not np.array_equal(changed, image)
    np.testing.assert_array_equal(jitter_colour(np.random.default_rng(0), image, 0.0), image)
