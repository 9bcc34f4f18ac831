"""Checks of masks: area and bbox against them, broken polygons and RLE, crowds."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.masks import mask_areas, mask_boxes_xywh
from pipeline.lint.boxes import format_box, has_size
from pipeline.lint.findings import Finding
from pipeline.lint.regions import Kind, rasterise
from pipeline.lint.table import Table, is_number

AREA_SHARE = 0.02
"""Share of the mask's area by which `area` may differ, besides `AREA_PIXELS`."""

AREA_PIXELS = 2.0
BOUNDS_TOLERANCE = 1.0
"""Pixels by which each side of `bbox` may differ: some tools count to the last pixel, some to its end."""

_ROUNDING = 0.01


def has_mask(table: Table) -> NDArray[np.bool_]:
    """Return (N,) which annotations have a mask with a finite area over 0."""
    return np.isin(table.regions.kinds, (Kind.POLYGONS, Kind.RLE)) & (table.regions.areas > 0) & _finite_bounds(table)


def _finite_bounds(table: Table) -> NDArray[np.bool_]:
    return np.isfinite(table.regions.areas) & np.isfinite(table.regions.bounds_xywh).all(axis=1)


def check_areas(table: Table) -> Iterator[Finding]:
    """M301: `area` that is missing, not the mask's, or, without a mask, more than the box's."""
    masked = has_mask(table)
    wrong = masked & ~_is_area(table.areas, table.regions.areas)
    for row in np.flatnonzero(wrong & ~_is_infinite(table)).tolist():
        pixels = _pixel_area(table, row) if np.isfinite(table.areas[row]) else None
        if pixels is None or not _is_area(table.areas[row : row + 1], np.array([pixels]))[0]:
            yield table.finding("annotation", row, "M301", _area_text(table, row, "mask", table.regions.areas[row]))
    boxes = table.boxes_xywh[:, 2:].prod(axis=1)
    no_mask = np.isin(table.regions.kinds, (Kind.NONE, Kind.EMPTY)) & has_size(table)
    fits = (table.areas > 0) & (table.areas <= boxes * (1 + AREA_SHARE) + AREA_PIXELS)
    for row in np.flatnonzero(no_mask & ~fits & ~_is_infinite(table)).tolist():
        yield table.finding("annotation", row, "M301", _area_text(table, row, "box", boxes[row]))


def _is_infinite(table: Table) -> NDArray[np.bool_]:
    """Return (N,) whose area is a number, but NaN or infinite; that is S107."""
    return np.array([is_number(area) and not math.isfinite(area) for area in table.column("area")], bool)


def _area_text(table: Table, row: int, what: str, area: float) -> str:
    if np.isnan(table.areas[row]):
        return f"it has no area; its {what}'s is {area:g}"
    return f"area is {table.areas[row]:g}, its {what}'s is {area:g}"


def _is_area(areas: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.abs(areas - expected) <= np.maximum(AREA_SHARE * expected, AREA_PIXELS)


def _pixel_area(table: Table, row: int) -> float | None:
    """Return the pixels of polygons, which may overlap or be thin, so that their sum is another; None for an RLE."""
    if table.regions.kinds[row] != Kind.POLYGONS or not np.isfinite(table.sizes[row]).all():
        return None
    mask = rasterise(table.annotations[row]["segmentation"], (int(table.sizes[row, 0]), int(table.sizes[row, 1])))
    return None if mask is None else float(mask_areas([mask])[0])


def check_bounds(table: Table) -> Iterator[Finding]:
    """M302: boxes that are not those around their masks."""
    for row in np.flatnonzero(has_mask(table) & has_size(table) & (_apart(table) > _tolerance())).tolist():
        if not _fits_pixels(table, row):
            box, bounds = table.boxes_xywh[row], table.regions.bounds_xywh[row]
            text = f"bbox is {format_box(box)}, its mask's is {format_box(bounds)}"
            yield table.finding("annotation", row, "M302", text)


def _tolerance() -> float:
    return BOUNDS_TOLERANCE + _ROUNDING


def _corners(boxes_xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes_xywh[..., :2], boxes_xywh[..., :2] + boxes_xywh[..., 2:]], axis=-1)


def _apart(table: Table) -> NDArray[np.float64]:
    """Return (N,) the largest distance of a box's side from its mask's."""
    return np.asarray(np.abs(_corners(table.boxes_xywh) - _corners(table.regions.bounds_xywh)).max(axis=1, initial=0))


def _fits_pixels(table: Table, row: int) -> bool:
    """Tell whether a box is the one around the pixels of its polygons, which are cut off at the image's border."""
    if table.regions.kinds[row] != Kind.POLYGONS or not np.isfinite(table.sizes[row]).all():
        return False
    mask = rasterise(table.annotations[row]["segmentation"], (int(table.sizes[row, 0]), int(table.sizes[row, 1])))
    if mask is None:
        return False
    bounds = mask_boxes_xywh([mask])[0].astype(np.float64)
    return bool(np.abs(_corners(table.boxes_xywh[row]) - _corners(bounds)).max() <= _tolerance())


def check_segmentations(table: Table) -> Iterator[Finding]:
    """M303, M304, M306, M307: what is broken, open or empty; one finding where no annotation has a mask at all."""
    kinds = table.regions.kinds
    if len(kinds) > 1 and (kinds == Kind.EMPTY).all() and all(value == [] for value in table.column("segmentation")):
        text = f"all {len(kinds)} segmentations are empty: a file of boxes leaves the key out"
        yield Finding("file", -1, None, "M307", text)
        return
    for row, code, text in table.regions.problems:
        yield table.finding("annotation", row, code, text)


def check_rle_sizes(table: Table) -> Iterator[Finding]:
    """M305: RLE masks whose size is not that of the image."""
    for row, (height, width) in table.regions.rle_sizes.items():
        image_width, image_height = table.sizes[row]
        if np.isfinite(image_width) and (width, height) != (image_width, image_height):
            turned = ", its height and width exchanged" if (height, width) == (image_width, image_height) else ""
            text = f"the RLE is {width} × {height}, the image {image_width:g} × {image_height:g}{turned}"
            yield table.finding("annotation", row, "M305", text)


def check_crowds(table: Table) -> Iterator[Finding]:
    """M308: `iscrowd` that is missing, neither 0 nor 1, on polygons, or on everything."""
    values = table.column("iscrowd")
    for row, value in enumerate(values):
        if not isinstance(table.annotations[row], dict):
            continue
        if value is None:
            yield table.finding("annotation", row, "M308", "it has no iscrowd")
        elif type(value) is not int or value not in (0, 1):
            yield table.finding("annotation", row, "M308", f"iscrowd is {value!r}, neither 0 nor 1")
        elif value == 1 and table.regions.kinds[row] == Kind.POLYGONS:
            yield table.finding("annotation", row, "M308", "iscrowd is 1 and the mask polygons; crowds have an RLE")
    if len(values) > 0 and all(type(value) is int and value == 1 for value in values):
        text = f"iscrowd is 1 on all {len(values)} annotations: trainers leave crowds out, so nothing is learned"
        yield Finding("file", -1, None, "M308", text)
