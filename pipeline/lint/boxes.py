"""Checks of boxes: outside, without size, nearly twice, as large as the image."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.masks import mask_iou
from pipeline.lint.findings import Finding
from pipeline.lint.regions import Kind, rasterise
from pipeline.lint.table import Table

OUTSIDE_TOLERANCE = 1.0
"""Pixels that a box may reach out of its image: tools round."""

TWIN_IOU = 0.95
"""Overlap from which two boxes of one class are the same; with masks, these must overlap by `TWIN_MASK_IOU`, too."""

TWIN_MASK_IOU = 0.9
WHOLE_SHARE = 0.99
"""Share of an image's width and of its height from which a box is one of the whole image."""


def format_box(box_xywh: NDArray[np.float64]) -> str:
    """Return a box as a person reads it."""
    return "[" + ", ".join(f"{value:g}" for value in box_xywh.tolist()) + "]"


def has_size(table: Table) -> NDArray[np.bool_]:
    """Return (N,) which boxes are four finite numbers with a width and height over 0."""
    return np.asarray(np.isfinite(table.boxes_xywh).all(axis=1) & (table.boxes_xywh[:, 2:] > 0).all(axis=1))


def overhang(table: Table) -> NDArray[np.float64]:
    """Return (N,) by how many pixels boxes reach out of their images at most; NaN where that is not known."""
    x, y, width, height = table.boxes_xywh.T
    sides = [-x, -y, x + width - table.sizes[:, 0], y + height - table.sizes[:, 1]]
    return np.asarray(np.max(sides, axis=0))


def check_outside(table: Table) -> Iterator[Finding]:
    """B201: boxes that reach out of the image, or lie outside of it."""
    over = overhang(table)
    for row in np.flatnonzero(has_size(table) & (over > OUTSIDE_TOLERANCE)).tolist():
        box, (width, height) = table.boxes_xywh[row], table.sizes[row]
        outside = box[0] >= width or box[1] >= height or (box[:2] + box[2:] <= 0).any()
        said = "lies outside" if outside else f"reaches {over[row]:g} px out"
        text = f"the box {format_box(box)} {said} of the image of {width:g} × {height:g}"
        yield table.finding("annotation", row, "B201", text)


def check_size(table: Table) -> Iterator[Finding]:
    """B202: boxes of zero or negative width or height."""
    finite = np.isfinite(table.boxes_xywh).all(axis=1)
    for row in np.flatnonzero(finite & ~has_size(table)).tolist():
        box = table.boxes_xywh[row]
        yield table.finding("annotation", row, "B202", f"the box {format_box(box)} has no area")


def check_twins(table: Table) -> Iterator[Finding]:
    """B203: boxes that nearly repeat an earlier one of the same image and class."""
    for first, second, iou in find_twins(table):
        other = table.annotations[first].get("id", f"[{first}]")
        text = f"nearly the box of annotation {other}, of the same image and class: IoU {iou:.3f}"
        yield table.finding("annotation", second, "B203", text)


def find_twins(table: Table) -> list[tuple[int, int, float]]:
    """Return (row, later row, IoU of the boxes) of near-duplicates; a later row once.

    Boxes are sorted by class and left side. Two of an IoU of t or more have left sides at most (1 - t) widths of the
    left one apart, so a box is compared only with those that follow it closely; each pass compares with the next one.
    """
    rows = np.flatnonzero(has_size(table) & (table.image_rows >= 0) & (table.category_rows >= 0) & ~table.crowds)
    boxes, images, categories = table.boxes_xywh[rows], table.image_rows[rows], table.category_rows[rows]
    order = np.lexsort((boxes[:, 1], boxes[:, 0], categories, images))
    rows, boxes, groups = rows[order], boxes[order], np.stack([images, categories], axis=1)[order]
    found: dict[int, tuple[int, float]] = {}
    active = np.arange(len(rows))
    step = 1
    while True:
        active = active[active + step < len(rows)]
        near = (groups[active] == groups[active + step]).all(axis=1)
        near &= boxes[active + step, 0] - boxes[active, 0] <= (1 - TWIN_IOU) * boxes[active, 2]
        active = active[near]
        if len(active) == 0:
            break
        ious = box_ious(boxes[active], boxes[active + step])
        for place in np.flatnonzero(ious >= TWIN_IOU).tolist():
            left, right = sorted((int(rows[active[place]]), int(rows[active[place] + step])))
            if right not in found and _same_mask(table, left, right):
                found[right] = (left, float(ious[place]))
        active = active[[int(rows[index]) not in found for index in active.tolist()]] if found else active
        step += 1
    return [(left, right, iou) for right, (left, iou) in sorted(found.items())]


def box_ious(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU of boxes row by row; (N, 4) x y width height each."""
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=1)
    return np.asarray(inside / (first[:, 2:].prod(axis=1) + second[:, 2:].prod(axis=1) - inside))


def _same_mask(table: Table, left: int, right: int) -> bool:
    """Tell whether two annotations have masks that overlap, or one of them has no mask."""
    first, second = (table.annotations[row].get("segmentation") for row in (left, right))
    with_mask = [table.regions.kinds[row] in (Kind.POLYGONS, Kind.RLE) for row in (left, right)]
    if first == second or not all(with_mask) or not np.isfinite(table.sizes[left]).all():
        return True
    size = (int(table.sizes[left, 0]), int(table.sizes[left, 1]))
    masks = [rasterise(value, size) for value in (first, second)]
    if masks[0] is None or masks[1] is None or masks[0].size != masks[1].size:
        return True
    return float(mask_iou([masks[0]], [masks[1]])[0, 0]) >= TWIN_MASK_IOU


def check_whole(table: Table) -> Iterator[Finding]:
    """B204: boxes of the whole image, unless a polygon was drawn around it or an RLE leaves much of it out."""
    boxes, sizes, areas = table.boxes_xywh, table.sizes, table.regions.areas
    covers = (boxes[:, :2] <= (1 - WHOLE_SHARE) * sizes).all(axis=1) & (boxes[:, 2:] >= WHOLE_SHARE * sizes).all(axis=1)
    fills = np.isnan(areas) | (areas >= WHOLE_SHARE**2 * sizes.prod(axis=1))
    inside = overhang(table) <= OUTSIDE_TOLERANCE
    drawn = table.regions.kinds == Kind.POLYGONS
    for row in np.flatnonzero(covers & fills & inside & ~drawn & ~table.crowds).tolist():
        width, height = table.sizes[row]
        text = f"the box {format_box(boxes[row])} is the whole image of {width:g} × {height:g}"
        yield table.finding("annotation", row, "B204", text)
