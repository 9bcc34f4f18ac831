"""What segmentations enclose: areas and bounds of polygons and RLE masks, and what is broken in them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from models.masks import Rle
from pipeline.lint.rle import read_runs

_CHUNK = 50_000
_NUMBERS = frozenset((int, float))
_MOST_PIXELS = 1_000_000_000
_NO_AREA = 1e-9


class Kind(IntEnum):
    """What a segmentation is."""

    NONE = 0
    EMPTY = 1
    POLYGONS = 2
    RLE = 3
    BROKEN = 4


@dataclass(frozen=True)
class Regions:
    """Segmentations of N annotations.

    Attributes:
        kinds: (N,) of Kind; BROKEN is what has no mask because something in it is wrong.
        areas: (N,) square pixels: the sum over polygons by their corners, or the pixels of an RLE; NaN without a mask.
        bounds_xywh: (N, 4) pixels around the corners of what encloses something, or pixels; NaN without a mask.
        rle_sizes: Row -> (height, width) of each RLE.
        problems: (row, code, text) of M303, M304, M306 and M307, in the order of the rows.
        open_parts: Row -> indices of its polygons that enclose nothing.
    """

    kinds: NDArray[np.int8]
    areas: NDArray[np.float64]
    bounds_xywh: NDArray[np.float64]
    rle_sizes: dict[int, tuple[int, int]]
    problems: list[tuple[int, str, str]]
    open_parts: dict[int, list[int]]


def measure_regions(segmentations: Sequence[Any]) -> Regions:
    """Measure segmentations.

    Args:
        segmentations: Values as JSON has them; None for none.
    """
    count = len(segmentations)
    found = Regions(np.zeros(count, np.int8), np.full(count, np.nan), np.full((count, 4), np.nan), {}, [], {})
    for start in range(0, count, _CHUNK):
        _measure_chunk(found, start, segmentations[start : start + _CHUNK])
    return found


def _measure_chunk(found: Regions, start: int, segmentations: Sequence[Any]) -> None:
    owners: list[int] = []
    places: list[int] = []
    parts: list[list[float]] = []
    for row, value in enumerate(segmentations, start):
        if value is None:
            continue
        if value == [] or value == {} or (isinstance(value, list) and all(part == [] for part in value)):
            found.kinds[row] = Kind.EMPTY
            found.problems.append((row, "M307", "the segmentation is empty"))
        elif isinstance(value, dict):
            _measure_rle(found, row, value)
        elif isinstance(value, list):
            problem = next(_part_problems(value), None)
            found.kinds[row] = Kind.POLYGONS if problem is None else Kind.BROKEN
            if problem is not None:
                found.problems.append((row, "M303", problem))
                continue
            for place, part in enumerate(value):
                if part:
                    owners.append(row)
                    places.append(place)
                    parts.append(part)
                else:
                    _note_open(found, row, place, part)
        else:
            found.kinds[row] = Kind.BROKEN
            found.problems.append((row, "M303", f"the segmentation is a {type(value).__name__}"))
    if parts:
        _measure_polygons(found, np.array(owners, np.int64), np.array(places, np.int64), parts)


def _measure_rle(found: Regions, row: int, value: dict[str, Any]) -> None:
    try:
        runs = read_runs(value)
    except ValueError as error:
        found.kinds[row] = Kind.BROKEN
        found.problems.append((row, "M306", f"the RLE is broken: {error}"))
        return
    found.rle_sizes[row] = runs.size
    if runs.area == 0:
        found.kinds[row] = Kind.EMPTY
        found.problems.append((row, "M307", "the mask has no pixel"))
        return
    found.kinds[row] = Kind.RLE
    found.areas[row] = runs.area
    found.bounds_xywh[row] = runs.bounds_xywh


def _part_problems(value: list[Any]) -> Iterator[str]:
    """Yield what makes polygons unreadable."""
    for index, part in enumerate(value):
        if not isinstance(part, list) or not _NUMBERS.issuperset(map(type, part)):
            yield f"polygon {index} is not a list of numbers"
        elif len(part) % 2:
            yield f"polygon {index} has {len(part)} numbers, which are no pairs of x and y"


def _measure_polygons(
    found: Regions, owners: NDArray[np.int64], places: NDArray[np.int64], parts: list[list[float]]
) -> None:
    """Measure polygons of at least one point each, those of a row side by side."""
    lengths = np.array([len(part) // 2 for part in parts], np.int64)
    starts = np.r_[0, np.cumsum(lengths)[:-1]]
    points = np.fromiter(chain.from_iterable(parts), np.float64, int(lengths.sum()) * 2).reshape(-1, 2)
    following = np.arange(1, len(points) + 1)
    following[starts + lengths - 1] = starts
    # From each polygon's first point: no digits are lost far away from the origin.
    relative = points - points[np.repeat(starts, lengths)]
    cross = relative[:, 0] * relative[following, 1] - relative[following, 0] * relative[:, 1]
    areas = np.abs(np.add.reduceat(cross, starts)) / 2
    rows, firsts = np.unique(owners, return_index=True)
    found.areas[rows] = np.add.reduceat(areas, firsts)
    encloses = np.ones(len(parts), bool)
    for index in np.flatnonzero(areas < _NO_AREA).tolist():
        if _encloses_nothing(parts[index]):
            _note_open(found, int(owners[index]), int(places[index]), parts[index])
            encloses[index] = False
    row_encloses = np.repeat(np.logical_or.reduceat(encloses, firsts), np.diff(np.r_[firsts, len(parts)]))
    counts = np.repeat(encloses | ~row_encloses, lengths)[:, None]
    low = np.minimum.reduceat(np.where(counts, points, np.inf), starts[firsts])
    high = np.maximum.reduceat(np.where(counts, points, -np.inf), starts[firsts])
    found.bounds_xywh[rows] = np.concatenate([low, high - low], axis=1)


def _note_open(found: Regions, row: int, place: int, part: list[float]) -> None:
    found.open_parts.setdefault(row, []).append(place)
    found.problems.append((row, "M304", f"polygon {place} encloses nothing: it has {_describe(part)}"))


def _describe(part: list[float]) -> str:
    count = len(part) // 2
    return "no point" if count == 0 else "1 point" if count == 1 else f"{count} points on one line"


def _encloses_nothing(part: list[float]) -> bool:
    """Tell whether all points of a polygon without a signed area are on one line."""
    points = np.array(part, np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        return False
    return int(np.linalg.matrix_rank(points - points[0])) < 2


def rasterise(segmentation: Any, size: tuple[int, int]) -> Rle | None:
    """Return polygons or an RLE as one mask, as pycocotools reads them; None where that is not safe to try.

    Args:
        segmentation: Polygons or RLE without a problem.
        size: (width, height) of the image.
    """
    width, height = size
    if isinstance(segmentation, dict):
        return Rle.from_coco(segmentation)
    parts = [part for part in segmentation if len(part) > 4]
    reach = 2 * max(width, height)
    if not parts or width * height > _MOST_PIXELS or not all(abs(value) <= reach for part in parts for value in part):
        return None
    return Rle((height, width), coco_mask.merge(coco_mask.frPyObjects(parts, height, width))["counts"])
