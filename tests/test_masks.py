"""Run-length encodings: pycocotools reads ours and we read its forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from models.masks import Rle, decode_mask, encode_mask, mask_areas, mask_boxes_xywh, mask_iou

some_mask = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda hw: arrays(bool, hw))


@given(some_mask)
def test_round_trip(mask: np.ndarray) -> None:
    rle = encode_mask(mask)
    assert rle.size == mask.shape
    np.testing.assert_array_equal(decode_mask(rle), mask)
    np.testing.assert_array_equal(coco_mask.decode(rle.to_coco()).astype(bool), mask)
    assert Rle.from_coco(rle.to_coco()) == rle
    assert Rle.from_coco({"size": list(rle.size), "counts": rle.counts}) == rle
    assert mask_areas([rle]).tolist() == [mask.sum()]


def test_uncompressed_form() -> None:
    """Columns first: two off, three on, one off in a mask of 2 rows and 3 columns."""
    rle = Rle.from_coco({"size": [2, 3], "counts": [2, 3, 1]})
    np.testing.assert_array_equal(decode_mask(rle), [[False, True, True], [False, True, False]])


def test_boxes_are_tight() -> None:
    mask = np.zeros((6, 9), bool)
    mask[2:4, 3:8] = True
    rles = [encode_mask(mask), encode_mask(np.zeros((6, 9), bool))]
    np.testing.assert_array_equal(mask_boxes_xywh(rles), [[3, 2, 5, 2], [0, 0, 0, 0]])


def test_iou() -> None:
    left, all_of_it = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    left[:, :2] = True
    iou = mask_iou([encode_mask(left)], [encode_mask(left), encode_mask(~left), encode_mask(all_of_it)])
    np.testing.assert_allclose(iou, [[1, 0, 0.5]])


def test_none_at_all() -> None:
    assert mask_areas(()).shape == (0,)
    assert mask_boxes_xywh([]).shape == (0, 4)
    assert mask_iou([], [encode_mask(np.ones((2, 2), bool))]).shape == (0, 1)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (1, 2, 3)])
def test_no_mask(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(H, W\) with positive sides"):
        encode_mask(np.zeros(shape, bool))


@pytest.mark.parametrize("broken", [{}, {"size": [1, 1]}, {"counts": "0"}])
def test_what_is_no_rle(broken: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match="needs size and counts"):
        Rle.from_coco(broken)


@pytest.mark.parametrize("count", [255, 256, 600])
def test_areas_of_more_masks_than_a_byte_counts(count):
    """In pycocotools 2.0.11 with numpy 2 the area overflows from 256 masks a call on."""
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:4] = True
    assert mask_areas([encode_mask(mask)] * count).tolist() == [6] * count
