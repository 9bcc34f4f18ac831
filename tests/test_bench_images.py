"""What `bench masks` and `bench tiles` are made of."""

import numpy as np
import pytest

from jobs.bench.tiles import HEIGHT, PAIRS, WIDTH, compose_scene, match
from jobs.cli import main
from models.detections import Detections
from models.sam.upsample_bench import CELLS, compare_ways, make_logits


def test_both_ways_draw_the_same_masks() -> None:
    found = compare_ways(3, (90, 120), 1)
    assert found.same
    assert found.different_share < 1e-3
    assert found.seconds > 0
    assert found.other_seconds > 0


def test_logits_are_of_boxes_of_the_size_that_is_said() -> None:
    logits = make_logits(20, (300, 400)).numpy()
    assert logits.shape == (20, CELLS, CELLS)
    for mask in logits > 0:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert 0.03 * CELLS * 0.75 <= len(rows) <= 0.3 * CELLS * 0.75
        assert 0.03 * CELLS <= len(columns) <= 0.3 * CELLS
    assert not logits[:, 195:].max() > 0, "the padding holds no mask"


def test_the_command_prints_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "masks", "--n", "2", "--width", "160", "--height", "120", "--rounds", "1"]) == 0
    assert "none where |logit| is over 1e-4: True" in capsys.readouterr().out
    assert main(["bench", "masks", "--n", "0"]) == 2


def test_each_object_is_found_once_by_a_box_of_its_class() -> None:
    true = np.array([[0, 0, 10, 10], [50, 50, 70, 70], [80, 0, 90, 10]], np.float32)
    boxes = [[0, 0, 10, 11], [0, 0, 10, 10], [50, 50, 70, 69], [80, 0, 90, 3]]
    found = Detections((100, 100), boxes, [0.9, 0.8, 0.7, 0.6], [1, 1, 2, 3], [0] * 4)  # type: ignore[arg-type]
    assert match(found, true, np.array([1, 1, 3])) == [0]
    assert match(found, true, np.array([1, 2, 3])) == [0, 1]
    assert match(Detections.empty((100, 100)), true, np.array([1, 2, 3])) == []


def test_large_scenes_have_objects_of_all_sizes() -> None:
    image, boxes, class_ids = compose_scene(0)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert len(boxes) == len(class_ids) > 200
    assert set(class_ids.tolist()) == set(range(1, len(PAIRS) + 1))
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert sides.min() < 32
    assert sides.max() > 96
    assert boxes.min() >= 0
    assert (boxes.max(axis=0) <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
