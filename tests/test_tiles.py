"""Tiles: where they lie, and one object from its parts."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detections import Detections
from pipeline.config import TileSettings
from pipeline.overlaps import shares_inside
from pipeline.tiles import SAME_IOU, Merged, Window, choose_side, merge_tiles, plan_tiles

HW = (180, 260)
SETTINGS = TileSettings(100, 0.2)


def keep_size(image_hw: tuple[int, int]) -> tuple[int, int]:
    return image_hw


def shrink_to_100(image_hw: tuple[int, int]) -> tuple[int, int]:
    scale = 100 / max(image_hw)
    return max(round(image_hw[0] * scale), 1), max(round(image_hw[1] * scale), 1)


WINDOWS = plan_tiles(HW, SETTINGS, keep_size)


def look(
    objects: Sequence[Sequence[float]], windows: Sequence[Window], classes: Sequence[int] = ()
) -> list[Detections]:
    """Return what a perfect detector sees in each window: the part of each object inside, if it is over 4 pixels."""
    found = []
    for x1, y1, x2, y2 in windows:
        rows = []
        for index, box in enumerate(objects):
            part = [max(box[0], x1) - x1, max(box[1], y1) - y1, min(box[2], x2) - x1, min(box[3], y2) - y1]
            if part[2] - part[0] > 4 and part[3] - part[1] > 4:
                rows.append((part, 0.9 - 0.01 * index, classes[index] if classes else 1))
        boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
        ids = [row[2] for row in rows]
        found.append(Detections((y2 - y1, x2 - x1), boxes, [row[1] for row in rows], ids, [0] * len(rows)))
    return found


def boxes_of(merged: Merged) -> list[list[float]]:
    return sorted(merged.objects.boxes_xyxy.tolist())


@settings(max_examples=60)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(64, 300), st.floats(0, 0.5))
def test_tiles_cover_the_image_and_are_of_one_size(height: int, width: int, side: int, overlap: float) -> None:
    windows = plan_tiles((height, width), TileSettings(side, overlap), keep_size)
    if max(height, width) <= side:
        assert windows == ()
        return
    assert windows[-1] == (0, 0, width, height)
    assert {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in windows[:-1]} == {(min(side, width), min(side, height))}
    for axis, length in ((0, width), (1, height)):
        spans = sorted({(window[axis], window[axis + 2]) for window in windows[:-1]})
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        for (_, stop), (start, _) in pairwise(spans):
            assert stop - start >= overlap * side - 1


def test_an_automatic_side_makes_objects_large_enough() -> None:
    assert choose_side((3000, 4000), 100, shrink_to_100) == round(100 * 100 / 24)
    assert choose_side((3000, 4000), 10, shrink_to_100) == 100, "tiles are not enlarged"
    assert choose_side((3000, 4000), 1000, shrink_to_100) == 4000
    assert choose_side((80, 90), 24, shrink_to_100) == 90
    assert plan_tiles((3000, 4000), TileSettings(None, 0.2, 1000), shrink_to_100) == ()
    assert len(plan_tiles((3000, 4000), TileSettings(None, 0.2, 480), shrink_to_100)) == 2 * 3 + 1


@pytest.mark.parametrize("with_whole", [True, False])
@pytest.mark.parametrize(
    "box",
    [
        [60, 60, 140, 120],  # across four tiles
        [5, 5, 25, 25],  # in one
        [82, 10, 98, 30],  # in the strip that two tiles share
        [10, 20, 250, 60],  # longer than a tile, across three
        [0, 0, 260, 180],  # everywhere
        [70, 40, 130, 60],  # across a seam
    ],
)
def test_one_object_is_one_box(box: list[float], with_whole: bool) -> None:
    windows = WINDOWS if with_whole else WINDOWS[:-1]
    merged = merge_tiles(look([box], windows), windows, HW)
    assert boxes_of(merged) == [box]
    assert len(merged.boxes) > 1 or box[2] < 30
    assert set(merged.owners.tolist()) == {0}
    assert merged.objects.scores.tolist() == pytest.approx([0.9])


def test_an_object_across_four_tiles_is_found_in_parts_and_is_one() -> None:
    tiles = ((0, 0, 100, 100), (80, 0, 180, 100), (0, 80, 100, 180), (80, 80, 180, 180))
    found = look([[40, 50, 150, 130]], tiles)
    assert [len(part) for part in found] == [1, 1, 1, 1]
    merged = merge_tiles(found, tiles, (180, 180))
    assert boxes_of(merged) == [[40, 50, 150, 130]]


def test_neighbours_stay_apart() -> None:
    objects = [[50, 20, 88, 40], [88, 20, 130, 40], [60, 41, 140, 60], [20, 100, 40, 160], [40, 100, 60, 160]]
    merged = merge_tiles(look(objects, WINDOWS), WINDOWS, HW)
    assert boxes_of(merged) == sorted(objects)


def test_classes_stay_apart() -> None:
    objects = [[60, 60, 140, 120], [60, 60, 140, 120]]
    merged = merge_tiles(look(objects, WINDOWS, [1, 2]), WINDOWS, HW)
    assert merged.objects.class_ids.tolist() == [1, 2]
    assert boxes_of(merged) == objects


def test_boxes_of_one_tile_are_left_to_nms() -> None:
    twice = Detections((100, 100), [[10, 10, 50, 50], [11, 10, 51, 50]], [0.9, 0.8], [1, 1], [0, 0])  # type: ignore[arg-type]
    found = [twice, *(Detections.empty((100, 100)) for _ in WINDOWS[1:])]
    assert len(merge_tiles(found, WINDOWS, HW).objects) == 2


def test_nothing_found() -> None:
    merged = merge_tiles([Detections.empty((100, 100)) for _ in WINDOWS], WINDOWS, HW)
    assert len(merged.objects) == len(merged.boxes) == len(merged.owners) == 0
    assert merged.objects.image_hw == HW
    assert len(merge_tiles([], [], HW).objects) == 0


def random_finds(seed: int, count: int) -> list[Detections]:
    """Random boxes in each window, among them whole ones, cut ones and exact duplicates; scores have ties."""
    rng = np.random.default_rng(seed)
    found = []
    for x1, y1, x2, y2 in WINDOWS:
        size = np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1], np.float32)
        corners = rng.integers(0, 8, (int(rng.integers(0, count + 1)), 4)).astype(np.float32)
        low, high = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:]) + 1
        boxes = np.concatenate([low, high], axis=1) / 8 * size
        scores = rng.integers(1, 6, len(boxes)) / 10
        ids = rng.integers(1, 3, len(boxes))
        found.append(Detections((y2 - y1, x2 - x1), boxes, scores, ids, ids - 1))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 8))
def test_nothing_is_lost(seed: int, count: int) -> None:
    merged = merge_tiles(random_finds(seed, count), WINDOWS, HW)
    boxes, objects = merged.boxes, merged.objects
    assert (np.diff(objects.scores) <= 0).all()
    np.testing.assert_array_equal(objects.class_ids[merged.owners], boxes.class_ids)
    for number in range(len(objects)):
        members = boxes.boxes_xyxy[merged.owners == number]
        assert len(members), "an object comes from boxes"
        assert objects.scores[number] == boxes.scores[merged.owners == number].max()
        outer = np.concatenate([members[:, :2].min(axis=0), members[:, 2:].max(axis=0)])
        assert shares_inside(objects.boxes_xyxy[number : number + 1], outer)[0] == pytest.approx(1)
        lone = len(members) == 1
        assert shares_inside(members, objects.boxes_xyxy[number]).max() >= (1 if lone else SAME_IOU)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8))
def test_the_order_of_tiles_and_boxes_does_not_count(seed: int, count: int) -> None:
    found = random_finds(seed, count)
    rng = np.random.default_rng(seed + 1)
    order = rng.permutation(len(found))
    shuffled = [found[place][rng.permutation(len(found[place]))] for place in order]
    first = merge_tiles(found, WINDOWS, HW)
    second = merge_tiles(shuffled, [WINDOWS[place] for place in order], HW)
    for name in ("boxes_xyxy", "scores", "class_ids", "prompt_ids"):
        np.testing.assert_array_equal(getattr(first.objects, name), getattr(second.objects, name))
