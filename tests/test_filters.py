"""Filters: what goes, why, and how it is counted."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms, nms

from models.detections import Detections, Instances
from models.masks import Rle, encode_mask
from pipeline.config import AnnotateConfig, FilterSettings
from pipeline.filters import (
    REASONS,
    clip,
    filter_detections,
    filter_masks,
    judge_detections,
    mask_fills,
)
from pipeline.overlaps import contained_in, shares_inside, suppressed_by

HW = (60, 100)


def make(boxes: Any, scores: Any, class_ids: Any = None) -> Detections:
    ids = [1] * len(scores) if class_ids is None else class_ids
    return Detections(HW, np.array(boxes, np.float32).reshape(-1, 4), scores, ids, [0] * len(scores))


def box_lists() -> Any:
    """Up to 12 boxes with whole corners, which overlap often, as (box, score, class)."""
    corner = st.tuples(st.integers(0, 80), st.integers(0, 40), st.integers(1, 20), st.integers(1, 20))
    box = corner.map(lambda c: (c[0], c[1], c[0] + c[2], c[1] + c[3]))
    return st.lists(st.tuples(box, st.integers(1, 99), st.integers(1, 3)), max_size=12)


def from_list(rows: Any) -> Detections:
    return make([row[0] for row in rows], [row[1] / 100 for row in rows], [row[2] for row in rows])


def test_no_boxes() -> None:
    limits = FilterSettings(0.5, 1, 0.9, 0.5, 90, 0.01, 3, 1, 0.5, 4, 0.1, 2, 0.5)
    kept, drops = filter_detections(Detections.empty(HW), limits)
    assert len(kept) == 0
    assert not drops
    assert len(filter_masks(Instances.boxes_only(kept), limits)[0]) == 0


def test_all_reasons_for_boxes_are_counted_by_class() -> None:
    found = make(
        [
            [10, 10, 30, 30],  # stays
            [0, 20, 9, 30],  # border
            [200, 200, 220, 220],  # outside after clipping
            [50, 50, 51, 51],  # small
            [0, 0, 100, 59],  # large
            [40, 5, 90, 8],  # aspect
            [11, 11, 31, 31],  # overlap
            [12, 10, 30, 30],  # overlap of classes
            [14, 14, 20, 20],  # contained
            [60, 30, 70, 40],  # beyond top k
            [60, 10, 70, 20],  # negative
        ],
        [0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.7, 0.6, 0.5, 0.3, 0.99],
        [1, 1, 1, 2, 2, 2, 1, 2, 1, 1, 0],
    )
    limits = FilterSettings(
        min_box_area=4,
        max_box_share=0.9,
        max_aspect=8,
        border_margin=1,
        agnostic_nms_iou=0.7,
        max_contained=0.9,
        top_k=1,
    )
    kept, drops = filter_detections(found, limits)
    assert kept.boxes_xyxy.tolist() == [[10, 10, 30, 30]]
    assert drops == {
        ("border", 1): 1,
        ("outside", 1): 1,
        ("small", 2): 1,
        ("large", 2): 1,
        ("aspect", 2): 1,
        ("overlap", 1): 1,
        ("overlap of classes", 2): 1,
        ("contained", 1): 1,
        ("beyond top k", 1): 1,
        ("negative", 0): 1,
    }
    after_masks = {"empty mask", "thin mask", "loose mask", "mask score", "merged"}
    assert {reason for reason, _ in drops} == set(REASONS) - after_masks


@pytest.mark.parametrize(
    ("limit", "going"),
    [
        ({"min_box_share": 0.02}, [0]),
        ({"max_box_area": 200}, [1, 2]),
        ({"max_box_share": 0.1}, [2]),
        ({"max_aspect": 1.5}, [1]),
        ({"border_margin": 0}, [2]),
        ({"border_margin": 9}, [0, 2]),
        ({"top_k": 2}, [2]),
        ({"max_contained": 0.9}, []),
    ],
)
def test_limits_alone(limit: dict[str, float], going: list[int]) -> None:
    found = make([[8, 20, 18, 30], [30, 20, 60, 30], [60, 20, 100, 50]], [0.9, 0.8, 0.7])
    reasons = judge_detections(found, FilterSettings(nms_iou=1, **limit)).reasons  # type: ignore[arg-type]
    assert [row for row, reason in enumerate(reasons) if reason] == going


def test_class_agnostic() -> None:
    both = make([[0, 0, 10, 10], [0, 0, 10, 10]], [0.6, 0.5], [1, 2])
    assert len(filter_detections(both, FilterSettings())[0]) == 2
    kept, drops = filter_detections(both, FilterSettings(agnostic_nms_iou=0.7))
    assert kept.class_ids.tolist() == [1]
    assert drops == {("overlap of classes", 2): 1}


def test_equal_scores_keep_their_order_and_boxes_are_clipped() -> None:
    kept, _ = filter_detections(
        make([[-5, -5, 10, 10], [50, 50, 140, 70], [20, 20, 40, 40]], [0.5, 0.5, 0.7]), FilterSettings()
    )
    assert kept.boxes_xyxy.tolist() == [[20, 20, 40, 40], [0, 0, 10, 10], [50, 50, 100, 60]]


def test_the_weaker_box_is_named_with_its_rival() -> None:
    found = make([[0, 0, 10, 10], [40, 0, 50, 10], [1, 0, 11, 10], [2, 2, 5, 5]], [0.9, 0.8, 0.7, 0.6])
    verdicts = judge_detections(found, FilterSettings(max_contained=0.8))
    assert verdicts.reasons == ("", "", "overlap", "contained")
    assert verdicts.rivals.tolist() == [-1, -1, 0, 0]


def test_a_strong_part_keeps_its_weaker_whole() -> None:
    found = make([[2, 2, 5, 5], [0, 0, 10, 10]], [0.9, 0.5])
    assert len(filter_detections(found, FilterSettings(max_contained=0.5))[0]) == 2


@settings(max_examples=40)
@given(box_lists(), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_nms_equals_torchvisions(rows: Any, iou: float) -> None:
    found = clip(from_list(rows))
    boxes, scores = torch.from_numpy(found.boxes_xyxy), torch.from_numpy(found.scores)
    # Equal scores: torchvision's order is its own, so they are told apart by a hair.
    scores = scores - torch.arange(len(scores)) * 1e-6
    expected = batched_nms(boxes, scores, torch.from_numpy(found.class_ids), iou) if len(found) else []
    assert np.flatnonzero(suppressed_by(found, iou) == -1).tolist() == sorted(int(row) for row in expected)
    expected = nms(boxes, scores, iou) if len(found) else []
    kept = np.flatnonzero(suppressed_by(found, iou, class_agnostic=True) == -1)
    assert kept.tolist() == sorted(int(row) for row in expected)


@settings(max_examples=40)
@given(box_lists(), st.sampled_from([0.2, 0.5, 0.9, 1.0]))
def test_contained_boxes_have_a_stronger_box_that_stays(rows: Any, share: float) -> None:
    found = clip(from_list(rows))
    winners = contained_in(found, share)
    for row, winner in enumerate(winners):
        inside = [shares_inside(found.boxes_xyxy[row : row + 1], found.boxes_xyxy[other])[0] for other in range(row)]
        rivals = [
            other
            for other in range(row)
            if inside[other] > share and winners[other] == -1 and found.class_ids[other] == found.class_ids[row]
        ]
        assert winner == (rivals[0] if rivals and share < 1 else -1)


@settings(max_examples=40)
@given(
    box_lists(),
    st.builds(
        FilterSettings,
        nms_iou=st.sampled_from([0.3, 0.7, 1.0]),
        agnostic_nms_iou=st.sampled_from([0.3, 0.7, 1.0]),
        min_box_area=st.sampled_from([0.0, 20.0]),
        max_contained=st.sampled_from([0.5, 1.0]),
        border_margin=st.sampled_from([None, 2.0]),
        top_k=st.sampled_from([None, 1, 3]),
    ),
)
def test_every_box_stays_or_is_counted_once(rows: Any, limits: FilterSettings) -> None:
    found = from_list(rows)
    kept, drops = filter_detections(found, limits)
    assert Counter(kept.class_ids.tolist()) + Counter(
        class_id for (_, class_id), count in drops.items() for _ in range(count)
    ) == Counter(found.class_ids.tolist())
    assert (np.diff(kept.scores) <= 0).all()
    again, nothing = filter_detections(kept, limits)
    assert again.boxes_xyxy.tolist() == kept.boxes_xyxy.tolist()
    assert not nothing


def instances_with(areas: list[int], scores: list[float]) -> Instances:
    """Objects in 10 × 10 boxes whose masks have so many pixels; -1 for no mask."""
    masks = []
    for area in areas:
        mask = np.zeros(HW, bool)
        mask.flat[:area] = area > 0
        masks.append(encode_mask(mask) if area >= 0 else Rle.absent(HW))
    boxes = [[0, 0, 10, 10]] * len(areas)
    return Instances(make(boxes, [0.5] * len(areas), range(1, len(areas) + 1)), tuple(masks), np.array(scores))


def test_masks_are_judged() -> None:
    instances = instances_with([50, 0, 5, 250, 60, -1], [0.9, 0.9, 0.9, 0.9, 0.2, 0])
    np.testing.assert_allclose(mask_fills(instances), [0.5, 0, 0.05, 2.5, 0.6, 0])
    kept, drops = filter_masks(instances, FilterSettings(min_mask_fill=0.1, max_mask_fill=2, min_mask_score=0.5))
    assert kept.detections.class_ids.tolist() == [1, 6]
    assert drops == {("empty mask", 2): 1, ("thin mask", 3): 1, ("loose mask", 4): 1, ("mask score", 5): 1}
    assert len(filter_masks(instances, FilterSettings())[0]) == 6


def test_the_config_hands_every_limit_on() -> None:
    config = AnnotateConfig(agnostic_nms_iou=0.6, top_k=3, min_mask_score=0.5, max_contained=0.8)
    assert config.filters == FilterSettings(agnostic_nms_iou=0.6, top_k=3, min_mask_score=0.5, max_contained=0.8)
