"""Looking at large images in tiles, so that small objects are still seen, and making one object of its parts.

The tiles of an image have one size, so that they share batches; they are views, and nothing is copied for a tile. The
whole image is looked at too, for objects larger than a tile.

What the tiles found is merged before anything is segmented:

- Boxes of a class in neighbouring tiles that both end at the inner edge of their tile, and cover the strip which the
  tiles share, are one object that neither tile holds: they become the box around both. An object across four tiles
  becomes one box in the same way.
- A box that is cut by its tile's edge goes where a box that is not cut holds most of it.
- Boxes of different tiles that overlap as one object does are the same object: the one with the best score stays.

The package sahi slices images, too, but what it merges is boxes alone: it doesn't know which of them were cut, and
joins what overlaps by a share of the smaller one. Two objects that touch then become one, and an object that is longer
than a tile stays in parts. It would also copy each slice, bring OpenCV, shapely and fire, and wrap the detector.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.boxes import pairwise_iou
from models.detections import Detections
from pipeline.config import TileSettings
from pipeline.overlaps import shares_inside

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels of the image."""

SEEN_SIDE = 24
"""Side in pixels that an object should have after the detector's resize, for `side` None."""
SAME_IOU = 0.5
"""IoU from which boxes of different tiles are the same object."""
PART_SHARE = 0.7
"""Share of a cut box inside another one from which it is a part of it."""
JOINT_SHARE = 0.5
"""Share of the shorter one that two cut boxes must have in common along the edge that cuts them."""
CUT_SHARE = 0.015
"""How far from its tile's edge a box may end and still be cut by it, over the tile's side; at least 2 pixels."""


def plan_tiles(
    image_hw: tuple[int, int], settings: TileSettings, resized_hw: Callable[[tuple[int, int]], tuple[int, int]]
) -> tuple[Window, ...]:
    """Return the tiles of an image, by rows, and the whole image as the last one.

    Args:
        image_hw: (height, width) in pixels.
        settings: Side and overlap.
        resized_hw: The detector's, by which a side of None is chosen.

    Returns:
        Tiles of one size, evenly spaced, which together cover the image; nothing where it is not larger than a tile.
    """
    side = settings.side or choose_side(image_hw, settings.object_side, resized_hw)
    if max(image_hw) <= side:
        return ()
    height, width = image_hw
    rows, columns = (_starts(length, side, settings.overlap) for length in image_hw)
    tiles = [(x, y, min(x + side, width), min(y + side, height)) for y in rows for x in columns]
    return (*tiles, (0, 0, width, height))


def choose_side(
    image_hw: tuple[int, int], object_side: int, resized_hw: Callable[[tuple[int, int]], tuple[int, int]]
) -> int:
    """Return the side of tiles in which objects of a size are large enough for the detector, pixels.

    Objects become `SEEN_SIDE` pixels; a tile is never enlarged for that. An image that is fine as a whole gets a side
    that it does not exceed.

    Args:
        image_hw: (height, width) in pixels.
        object_side: Of the smallest objects to be found, pixels of the image.
        resized_hw: The detector's.
    """
    longest = max(image_hw)
    wanted = min(SEEN_SIDE / object_side, 1.0)
    if max(resized_hw(image_hw)) >= wanted * longest:
        return longest
    return max(round(min(resized_hw((longest, longest))) / wanted), 1)


def _starts(length: int, side: int, overlap: float) -> list[int]:
    if length <= side:
        return [0]
    count = math.ceil((length - side) / (side * (1 - overlap))) + 1
    return [round(start) for start in np.linspace(0, length - side, count)]


@dataclass(frozen=True, eq=False)
class Merged:
    """What was found in the tiles of an image, and the objects that it makes.

    Attributes:
        boxes: N boxes of all tiles, in the image's frame, in the order of the tiles.
        objects: M objects, highest score first.
        owners: (N,) int64, the object that each box became part of; each object has at least one box.
    """

    boxes: Detections
    objects: Detections
    owners: NDArray[np.int64]


def merge_tiles(found: Sequence[Detections], windows: Sequence[Window], image_hw: tuple[int, int]) -> Merged:
    """Bring what was found in tiles into the image's frame and make each object one box.

    The result does not depend on the order of the tiles or of the boxes in them.

    Args:
        found: Of each window, in its own frame; the image's feature is the last one's, which saw the whole image.
        windows: As `plan_tiles` gives them.
        image_hw: The image's (height, width).
    """
    boxes = _to_image(found, windows, image_hw)
    places = np.repeat(np.arange(len(windows)), [len(part) for part in found])
    frames = np.array(windows, np.float32).reshape(-1, 4)
    order = np.lexsort((*frames[places].T, boxes.prompt_ids, *boxes.boxes_xyxy.T, boxes.class_ids, -boxes.scores))
    objects, sorted_owners = _merge_sorted(boxes[order], places[order], frames)
    owners = np.empty(len(boxes), np.int64)
    owners[order] = sorted_owners
    return Merged(boxes, objects, owners)


def _to_image(found: Sequence[Detections], windows: Sequence[Window], image_hw: tuple[int, int]) -> Detections:
    shifts = [np.array([x, y, x, y], np.float32) for x, y, _, _ in windows]
    columns = [
        [part.boxes_xyxy + shift for part, shift in zip(found, shifts, strict=True)],
        *([getattr(part, name) for part in found] for name in ("scores", "class_ids", "prompt_ids")),
    ]
    if not found:
        return Detections.empty(image_hw)
    boxes, scores, class_ids, prompt_ids = (np.concatenate(column) for column in columns)
    return Detections(image_hw, boxes, scores, class_ids, prompt_ids, found[-1].image_feature)


def _merge_sorted(
    boxes: Detections, places: NDArray[np.int64], frames: NDArray[np.float32]
) -> tuple[Detections, NDArray[np.int64]]:
    """Merge boxes in a fixed order, strongest first; `places` are rows of `frames`, their windows.

    Returns:
        The objects, strongest first, and for each box its object.
    """
    cut = _cut_sides(boxes.boxes_xyxy, frames[places], boxes.image_hw)
    groups = _join_parts(boxes, frames[places], cut)
    _, firsts, groups = np.unique(groups, return_index=True, return_inverse=True)
    count = len(firsts)
    outer, scores, open_ = np.empty((count, 4), np.float32), boxes.scores[firsts], np.zeros(count, dtype=bool)
    held = np.zeros((count, len(frames)), dtype=bool)
    held[groups, places] = True
    for side, reduce in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
        outer[:, side] = np.inf if reduce is np.minimum else -np.inf
        reduce.at(outer[:, side], groups, boxes.boxes_xyxy[:, side])
        at_edge = cut[:, side] & (boxes.boxes_xyxy[:, side] == outer[groups, side])
        open_[groups[at_edge]] = True
    candidates = Detections(
        boxes.image_hw, outer, scores, boxes.class_ids[firsts], boxes.prompt_ids[firsts], boxes.image_feature
    )
    owners = _choose_owners(candidates, open_, held)
    best = np.zeros(count, np.float32)
    np.maximum.at(best, owners, scores)
    kept = np.unique(owners)
    kept = kept[np.argsort(-best[kept], kind="stable")]
    numbers = np.empty(count, np.int64)
    numbers[kept] = np.arange(len(kept))
    return replace(candidates[kept], scores=best[kept]), numbers[owners[groups]]


def _cut_sides(
    boxes_xyxy: NDArray[np.float32], frames: NDArray[np.float32], image_hw: tuple[int, int]
) -> NDArray[np.bool_]:
    """Tell of each box which sides (left, top, right, bottom) end at an edge of its tile inside of the image."""
    height, width = image_hw
    sides = np.tile(frames[:, 2:] - frames[:, :2], 2)
    near = np.abs(boxes_xyxy - frames) <= np.maximum(CUT_SHARE * sides, 2)
    inner = np.concatenate([frames[:, :2] > 0, frames[:, 2:] < np.array([width, height])], axis=1)
    return np.asarray(near & inner, dtype=bool)


def _join_parts(boxes: Detections, frames: NDArray[np.float32], cut: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return a group number for each box; parts of one object that no tile holds have the same."""
    count = len(boxes)
    pairs: list[NDArray[np.int64]] = [np.zeros((2, 0), np.int64)]
    for class_id in np.unique(boxes.class_ids):
        for axis in (0, 1):  # along x, then along y
            before = np.flatnonzero(cut[:, axis + 2] & (boxes.class_ids == class_id))
            after = np.flatnonzero(cut[:, axis] & (boxes.class_ids == class_id))
            joined = _is_joint(boxes.boxes_xyxy, frames, before, after, axis)
            pairs.append(np.stack([before[joined[0]], after[joined[1]]]))
    first, second = np.concatenate(pairs, axis=1)
    from scipy.sparse import coo_array  # takes long to import, and most runs cut no tiles
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _is_joint(
    boxes_xyxy: NDArray[np.float32],
    frames: NDArray[np.float32],
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    axis: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of `before` and `after` that are one object, going on from a tile into the next along an axis.

    Both must cover the strip that their tiles share: a part of another object, which lies in the strip, does not.
    """
    far, across = axis + 2, 1 - axis
    box, frame = boxes_xyxy[before][:, None], frames[before][:, None]
    other, other_frame = boxes_xyxy[after][None], frames[after][None]
    margin = np.maximum(CUT_SHARE * (frame[..., far] - frame[..., axis]), 2)
    neighbours = (frame[..., axis] < other_frame[..., axis]) & (other_frame[..., axis] <= frame[..., far])
    level = (frame[..., across] < other_frame[..., across + 2]) & (other_frame[..., across] < frame[..., across + 2])
    covered = (box[..., axis] <= other_frame[..., axis] + margin) & (other[..., far] >= frame[..., far] - margin)
    common = np.minimum(box[..., across + 2], other[..., across + 2]) - np.maximum(box[..., across], other[..., across])
    lengths = np.minimum(box[..., across + 2] - box[..., across], other[..., across + 2] - other[..., across])
    rows, columns = np.nonzero(neighbours & level & covered & (common > 0) & (common >= JOINT_SHARE * lengths))
    return rows, columns


def _choose_owners(candidates: Detections, cut: NDArray[np.bool_], held: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return for each candidate the one that stands for it: itself, or one that it is the same as or a part of.

    Args:
        candidates: Strongest first.
        cut: (N,) which end at an edge of their tile.
        held: (N, tiles) which tiles they are from.
    """
    owners = np.full(len(candidates), -1, np.int64)
    boxes = candidates.boxes_xyxy
    for row in np.argsort(cut, kind="stable"):
        if owners[row] >= 0:
            continue
        owners[row] = row
        left = np.flatnonzero((owners < 0) & (candidates.class_ids == candidates.class_ids[row]))
        tiles = np.flatnonzero(held[row])
        same = (pairwise_iou(boxes[row : row + 1], boxes[left])[0] >= SAME_IOU) & ~held[np.ix_(left, tiles)].any(axis=1)
        part = cut[left] & (shares_inside(boxes[left], boxes[row]) >= PART_SHARE)
        owners[left[same | part]] = row
    return owners
