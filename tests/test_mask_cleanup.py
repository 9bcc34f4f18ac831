"""Holes, islands and the largest part."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from models.detections import Detections, Instances
from models.masks import Rle, decode_mask, encode_mask
from pipeline.mask_cleanup import MaskCleanup, clean_instances, clean_mask


def draw(*rows: str) -> NDArray[np.bool_]:
    return np.array([[letter == "#" for letter in row] for row in rows])


PICTURE = draw(
    "..........",
    ".#####..#.",
    ".#...#..#.",
    ".#.#.#....",
    ".#...#.##.",
    ".#####.#..",
    "......#...",
)


@pytest.mark.parametrize(
    ("cleanup", "area"),
    [
        (MaskCleanup(), 23),
        (MaskCleanup(min_area=1), 23),
        (MaskCleanup(min_area=2), 22),
        (MaskCleanup(min_area=3), 20),
        (MaskCleanup(min_area=10), 29),
        (MaskCleanup(largest_part=True), 20),
        (MaskCleanup(min_area=9, largest_part=True), 20),
        (MaskCleanup(min_area=10, largest_part=True), 29),
    ],
)
def test_islands_and_holes(cleanup: MaskCleanup, area: int) -> None:
    mask = clean_mask(encode_mask(PICTURE), cleanup)
    assert mask.size == PICTURE.shape
    assert decode_mask(mask).sum() == area


def test_a_bay_is_no_hole_and_the_largest_part_always_stays() -> None:
    bay = draw("#####", "#...#", "#.###")
    np.testing.assert_array_equal(decode_mask(clean_mask(encode_mask(bay), MaskCleanup(99))), bay)


@pytest.mark.parametrize("mask", [Rle.absent((4, 5)), encode_mask(np.zeros((4, 5), bool))])
def test_nothing_to_clean(mask: Rle) -> None:
    assert clean_mask(mask, MaskCleanup(9, True)) == mask


def test_instances_keep_their_rows() -> None:
    found = Detections(PICTURE.shape, [[0, 0, 5, 5]] * 2, [0.5, 0.4], [1, 2], [0, 1])  # type: ignore[arg-type]
    before = Instances(found, (encode_mask(PICTURE), Rle.absent(PICTURE.shape)), np.array([0.9, 0], np.float32))
    after = clean_instances(before, MaskCleanup(largest_part=True))
    assert decode_mask(after.masks[0]).sum() == 20
    assert after.masks[1].is_absent
    assert after.mask_scores.tolist() == before.mask_scores.tolist()
    assert clean_instances(before, MaskCleanup()) is before


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.tuples(st.integers(1, 12), st.integers(1, 12)), st.integers(0, 9), st.booleans())
def test_what_is_left_has_no_small_part_and_no_small_hole(
    seed: int, hw: tuple[int, int], area: int, largest: bool
) -> None:
    mask = np.random.default_rng(seed).random(hw) < 0.6
    cleanup = MaskCleanup(area, largest)
    clean = decode_mask(clean_mask(encode_mask(mask), cleanup))
    assert clean.any() == mask.any()
    parts = np.bincount(ndimage.label(clean, np.ones((3, 3)))[0].ravel())[1:]
    assert len(parts) <= 1 or (parts.min() >= area and not largest)
    outside = ndimage.label(~np.pad(clean, 1))[0]
    holes = np.delete(np.bincount(outside.ravel()), [0, outside[0, 0]])
    assert area <= 1 or len(holes) == 0 or holes.min() >= area
    np.testing.assert_array_equal(decode_mask(clean_mask(encode_mask(clean), cleanup)), clean)
