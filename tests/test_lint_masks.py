"""The masks that lint measures, against pycocotools and by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from models.masks import Rle, encode_mask
from pipeline.lint.regions import Kind, measure_regions, rasterise
from pipeline.lint.rle import read_runs

MASKS = arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30)))


@given(MASKS)
def test_runs_are_pycocotools(mask: np.ndarray) -> None:
    encoded = encode_mask(mask)
    for segmentation in (encoded.to_coco(), {"size": [*mask.shape], "counts": _plain_counts(mask)}):
        runs = read_runs(segmentation)
        assert runs.size == mask.shape
        assert runs.counts.tolist() == _plain_counts(mask)
        assert runs.area == mask.sum()
        assert runs.bounds_xywh == _bounds(mask)


def _plain_counts(mask: np.ndarray) -> list[int]:
    flat = np.r_[False, mask.ravel(order="F")]
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.r_[0, changes, mask.size]).tolist()


def _bounds(mask: np.ndarray) -> tuple[int, ...]:
    ys, xs = np.nonzero(mask)
    if len(xs) == 0:
        return (0, 0, 0, 0)
    return (int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)


def test_long_runs_are_unpacked() -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[100:2900, 5:3990] = True
    mask[:, 2000] = False
    runs = read_runs(encode_mask(mask).to_coco())
    assert (runs.area, runs.bounds_xywh) == (mask.sum(), (5, 100, 3985, 2800))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({}, "size is None"),
        ({"size": [4], "counts": [16]}, "size is "),
        ({"size": [4, 0], "counts": [0]}, "size is "),
        ({"size": [4.0, 4], "counts": [16]}, "size is "),
        ({"size": [4, 4]}, "neither a text nor a list"),
        ({"size": [4, 4], "counts": ["16"]}, "neither a text nor a list"),
        ({"size": [4, 4], "counts": [1 << 70]}, "neither a text nor a list"),
        ({"size": [4, 4], "counts": [20, -4]}, "negative length"),
        ({"size": [4, 4], "counts": [15]}, "15 pixels in place of 4 × 4"),
        ({"size": [4, 4], "counts": ""}, "cut off"),
        ({"size": [4, 4], "counts": "P"}, "cut off"),
        ({"size": [4, 4], "counts": "\x10"}, "characters"),
        ({"size": [4, 4], "counts": "ooooooooo0"}, "longer than any image"),
    ],
)
def test_broken_runs_are_refused(segmentation: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_runs(segmentation)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        runs = read_runs({"size": [3, 5], "counts": text})
    except ValueError:
        return
    assert int(runs.counts.sum()) == 15
    assert runs.area == int(coco_mask.area({"size": [3, 5], "counts": text.encode()}))


@given(st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=3, max_size=9), max_size=4))
def test_polygons_are_measured_as_by_hand(polygons: list[list[tuple[int, int]]]) -> None:
    segmentation = [[float(value) for point in polygon for value in point] for polygon in polygons]
    # Others before and behind, and far away from the origin: nothing may mix, and no digit be lost.
    far = [[value + 1e6 for value in part] for part in segmentation]
    found = measure_regions([None, segmentation, [], far or None, {"size": [2, 2], "counts": [1, 2, 1]}])
    assert [Kind(kind) for kind in found.kinds[[0, 2, 4]]] == [Kind.NONE, Kind.EMPTY, Kind.RLE]
    assert (found.areas[4], found.bounds_xywh[4].tolist()) == (2, [0, 0, 2, 2])
    if not polygons:
        assert found.kinds[1] == Kind.EMPTY
        return
    area = sum(map(_shoelace, polygons))
    assert found.areas[[1, 3]] == pytest.approx([area, area])
    solid = [polygon for polygon in polygons if not _on_a_line(polygon)] or polygons
    points = np.array([point for polygon in solid for point in polygon])
    low, high = points.min(axis=0), points.max(axis=0)
    assert found.bounds_xywh[1].tolist() == [*low, *(high - low)]
    assert found.open_parts.get(1, []) == [row for row, polygon in enumerate(polygons) if _on_a_line(polygon)]


def _shoelace(polygon: list[tuple[int, int]]) -> float:
    following = polygon[1:] + polygon[:1]
    return abs(sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in zip(polygon, following, strict=True))) / 2


def _on_a_line(polygon: list[tuple[int, int]]) -> bool:
    (x, y), *others = polygon
    return all((bx - x) * (cy - y) == (cx - x) * (by - y) for bx, by in others for cx, cy in others)


def test_masks_are_drawn_as_pycocotools_draws_them_or_not_at_all() -> None:
    square = [[2, 1, 6, 1, 6, 5, 2, 5], [3, 3, 4, 4]]
    drawn = rasterise(square, (10, 8))
    assert drawn is not None
    assert coco_mask.decode({"size": [8, 10], "counts": drawn.counts}).sum() == 16
    encoded = encode_mask(np.eye(4, dtype=bool))
    assert rasterise(encoded.to_coco(), (9, 9)) == Rle((4, 4), encoded.counts)
    for unsafe in ([[0, 0, 1e9, 0, 5, 5]], [[0, 0, float("nan"), 0, 5, 5]], [[1, 1, 2, 2]]):
        assert rasterise(unsafe, (10, 8)) is None
    assert rasterise(square, (100_000, 100_000)) is None
