"""Polygons of masks: the same mask when pycocotools draws them, with holes, parts and single pixels; oriented boxes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.masks import encode_mask
from pipeline.export.polygons import (
    box_corners,
    join_rings,
    mask_to_parts,
    mask_to_polygon,
    min_area_corners,
    order_corners,
    polygons_iou,
)
from pipeline.export.raster import paint
from tests.export_labels import HW, boxed, image, masked, pixel, ring, two_parts

BITMAPS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(bool, shape))


@given(BITMAPS)
@settings(max_examples=100, deadline=None)
def test_any_mask_is_the_same_after_drawing(mask: np.ndarray) -> None:
    rle = encode_mask(mask)
    parts = mask_to_parts(rle)
    if not mask.any():
        assert parts == []
        return
    assert polygons_iou([part.with_cuts() for part in parts], rle) == 1
    assert [part.area for part in parts] == sorted((part.area for part in parts), reverse=True)


@pytest.mark.parametrize("mask", [ring(), two_parts(), pixel(), ~pixel(), np.ones(HW, bool)])
def test_one_polygon_holds_parts_and_holes(mask: np.ndarray) -> None:
    rle = encode_mask(mask)
    assert polygons_iou([mask_to_polygon(rle)], rle) == 1


def test_coordinates_are_pixel_edges() -> None:
    (part,) = mask_to_parts(encode_mask(pixel()))
    assert sorted(map(tuple, part.outline.tolist())) == [(79, 59), (79, 60), (80, 59), (80, 60)]
    assert part.area == 1
    outer, disc = mask_to_parts(encode_mask(ring()))
    assert (len(outer.holes), len(disc.holes)) == (2, 0)


def test_fewer_points_cost_little_and_are_measured() -> None:
    rle = encode_mask(ring())
    counts, overlaps = [], []
    for epsilon in (0, 0.5, 1, 2):
        polygons = [part.with_cuts() for part in mask_to_parts(rle, epsilon)]
        counts.append(sum(map(len, polygons)))
        overlaps.append(polygons_iou(polygons, rle))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[-1]
    assert overlaps[0] == 1
    assert 0.8 < overlaps[-1] < overlaps[0]


def test_rings_are_joined_at_their_nearest_corners() -> None:
    first, second = box_corners((0, 0, 2, 2)), box_corners((3, 3, 5, 5))
    assert join_rings([first]).tolist() == first.tolist()
    joined = join_rings([first, second]).tolist()
    assert joined == [[0, 0], [2, 0], [2, 2], [3, 3], [5, 3], [5, 5], [3, 5], [3, 3], [2, 2], [0, 2]]


def test_the_smallest_rectangle_turns_with_the_object() -> None:
    rows, columns = np.mgrid[:100, :120]
    angle = np.radians(30)
    along = (columns + 0.5 - 60) * np.cos(angle) + (rows + 0.5 - 50) * np.sin(angle)
    across = -(columns + 0.5 - 60) * np.sin(angle) + (rows + 0.5 - 50) * np.cos(angle)
    corners = min_area_corners(encode_mask((abs(along) < 40) & (abs(across) < 10)))
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    assert sorted(sides) == pytest.approx([20, 20, 80, 80], abs=2)
    longest = corners[(sides.argmax() + 1) % 4] - corners[sides.argmax()]
    assert np.degrees(np.arctan2(longest[1], longest[0])) % 180 == pytest.approx(30, abs=2)
    assert min_area_corners(encode_mask(pixel())).tolist() == [[79, 59], [80, 59], [80, 60], [79, 60]]


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("backwards", [False, True])
def test_corners_are_clockwise_from_the_top_left(turn: int, backwards: bool) -> None:
    corners = np.roll(box_corners((1, 2, 5, 9)), turn, axis=0)
    assert order_corners(corners[::-1] if backwards else corners).tolist() == [[1, 2], [5, 2], [5, 9], [1, 9]]
    diamond = np.roll(np.array([[5.0, 0], [10, 5], [5, 10], [0, 5]]), turn, axis=0)
    assert order_corners(diamond[::-1] if backwards else diamond).tolist() == [[5, 0], [10, 5], [5, 10], [0, 5]]


def test_smaller_objects_lie_on_top_and_unknown_below() -> None:
    large, small = np.zeros(HW, bool), np.zeros(HW, bool)
    large[10:50, 10:50] = True
    small[20:30, 20:30] = True
    record = image("a.jpg", masked("s", 1, small), masked("l", 2, large), boxed("b", 3, (40, 40, 70.5, 55)))
    maps = paint(record, 255)
    assert (maps.semantic[25, 25], maps.semantic[15, 15], maps.semantic[45, 45], maps.semantic[52, 60]) == (
        1,
        2,
        2,
        255,
    )
    assert (maps.instances[25, 25], maps.instances[15, 15], maps.instances[52, 70]) == (1, 2, 255)
    assert (maps.semantic[5, 5], maps.semantic[52, 71]) == (0, 0)
    crowd = image("a.jpg", masked("c", 1, large, crowd=True))
    assert set(np.unique(paint(crowd, 255).semantic)) == {0, 255}
