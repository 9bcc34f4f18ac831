"""Mistakes, confusion, clicks, rims and calibration, against numbers that were worked out by hand."""

import numpy as np
import pytest

from models.masks import decode_mask, encode_mask
from pipeline.proof.boundary import mask_rim, rim_of_rle, rim_width
from pipeline.proof.clicks import corners_to_drag, count_clicks, polygon_vertices
from pipeline.proof.coco_scores import coco_scores
from pipeline.proof.confusion import confusion_matrix
from pipeline.proof.mistakes import MISTAKES, Mistakes, average_precision, find_mistakes
from pipeline.proof.pairing import Pair
from pipeline.proof.pairs_of_objects import pair_objects
from pipeline.proof.score_calibration import calibrate_scores
from tests.proof_pairs import block, objects, pair

HERE = (10.0, 10.0, 10.0, 10.0)
SHIFTED = (14.0, 10.0, 10.0, 10.0)
"""IoU 6/14 = .43 with HERE."""
ELSEWHERE = (50.0, 40.0, 10.0, 10.0)


def mistakes_of(made: Pair) -> Mistakes:
    return find_mistakes(made, coco_scores(made, "boxes").matches, by_masks=False)


def expect(found: Mistakes, counts: dict[str, int], costs: dict[str, float], ap50: float) -> None:
    assert found.counts == {name: counts.get(name, 0) for name in MISTAKES}
    assert found.costs == pytest.approx({name: costs.get(name, 0.0) for name in MISTAKES})
    assert found.ap50 == pytest.approx(ap50)


def test_no_mistake() -> None:
    found = mistakes_of(pair(objects([(0, 0, HERE, 1)]), objects([(0, 0, HERE, 0.9)])))
    expect(found, {}, {}, 1)
    assert found.kinds == ("right",)


def test_class() -> None:
    found = mistakes_of(pair(objects([(0, 0, HERE, 1)]), objects([(0, 1, HERE, 0.9)])))
    expect(found, {"class": 1}, {"class": 1}, 0)


def test_localisation() -> None:
    found = mistakes_of(pair(objects([(0, 0, HERE, 1)]), objects([(0, 0, SHIFTED, 0.9)])))
    expect(found, {"localisation": 1}, {"localisation": 1}, 0)


def test_both() -> None:
    truth = objects([(0, 0, HERE, 1), (1, 1, HERE, 1)])
    found = mistakes_of(pair(truth, objects([(0, 1, SHIFTED, 0.9), (1, 1, HERE, 0.5)])))
    # Class a: 0. Class b: wrong, then right: precision .5 at each recall.
    expect(found, {"both": 1, "missed": 1}, {"both": 0.25}, 0.25)


def test_duplicate() -> None:
    truth = objects([(0, 0, HERE, 1), (1, 0, HERE, 1)])
    found = mistakes_of(pair(truth, objects([(0, 0, HERE, 0.9), (0, 0, HERE, 0.8), (1, 0, HERE, 0.5)])))
    # 51 of the 101 recalls are reached with precision 1, the others with 2/3.
    ap50 = (51 + 50 * 2 / 3) / 101
    expect(found, {"duplicate": 1}, {"duplicate": 1 - ap50}, ap50)


def test_background() -> None:
    truth = objects([(0, 0, HERE, 1)])
    found = mistakes_of(pair(truth, objects([(0, 0, ELSEWHERE, 0.9), (0, 0, HERE, 0.8), (1, 0, HERE, 0.7)])))
    expect(found, {"background": 2}, {"background": 0.5}, 0.5)
    assert found.false_positives == pytest.approx(0.5)


def test_missed() -> None:
    found = mistakes_of(pair(objects([(0, 0, HERE, 1), (1, 0, HERE, 1)]), objects([(0, 0, HERE, 0.9)])))
    expect(found, {"missed": 1}, {"missed": 50 / 101}, 51 / 101)
    assert found.missed_rows.tolist() == [1]
    assert found.false_negatives == pytest.approx(50 / 101)


def test_the_best_of_two_wrong_labels_gets_the_object_and_the_other_goes() -> None:
    truth = objects([(0, 0, HERE, 1)])
    found = mistakes_of(pair(truth, objects([(0, 0, SHIFTED, 0.9), (0, 0, (6, 10, 10, 10), 0.8)])))
    expect(found, {"localisation": 2}, {"localisation": 1}, 0)


def test_a_label_on_a_crowd_is_no_mistake() -> None:
    truth = objects([(0, 0, HERE, 1), (0, 0, (40, 30, 40, 30), 1)], crowd=[1])
    found = mistakes_of(pair(truth, objects([(0, 0, HERE, 0.5), (0, 0, ELSEWHERE, 0.9)])))
    expect(found, {}, {}, 1)
    assert sorted(found.kinds) == ["ignored", "right"]


def test_average_precision_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.5])
    assert average_precision(scores, np.array([True, False, True]), 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert average_precision(scores, np.zeros(3, bool), 2) == 0
    assert average_precision(np.zeros(0), np.zeros(0, bool), 2) == 0
    assert average_precision(scores, np.zeros(3, bool), 0) == 0


def test_confusion() -> None:
    truth = objects([(0, 0, HERE, 1), (0, 1, ELSEWHERE, 1), (1, 0, HERE, 1), (1, 1, (40, 5, 30, 30), 1)], crowd=[3])
    labels = [(0, 0, HERE, 0.6), (0, 1, HERE, 0.9), (0, 0, ELSEWHERE, 0.5), (1, 1, (42, 7, 9, 9), 0.5)]
    made = pair(truth, objects(labels))
    partners = pair_objects(made, by_masks=False)
    # The first object keeps its own class's label, though the other has the higher score.
    assert confusion_matrix(made, partners).tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
    strict = pair_objects(made, by_masks=False, min_score=0.7)
    assert confusion_matrix(made, strict).tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]


def test_confusion_without_labels() -> None:
    made = pair(objects([(0, 0, HERE, 1)]), objects([]))
    assert confusion_matrix(made, pair_objects(made, False)).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_the_rim_of_a_square() -> None:
    mask = block(20, 20, 10, 10)
    assert mask_rim(mask, 1).sum() == 36
    assert mask_rim(mask, 2).sum() == 64
    assert mask_rim(mask, 5).sum() == 100
    assert mask_rim(np.ones((10, 10), bool), 1).sum() == 36, "the image's border is outline"
    assert not mask_rim(np.zeros((10, 10), bool), 1).any()


@pytest.mark.parametrize("seed", range(5))
def test_the_rim_is_the_mask_less_its_erosion(seed: int) -> None:
    from scipy.ndimage import binary_erosion

    generator = np.random.default_rng(seed)
    mask = binary_erosion(generator.random((60, 90)) < 0.97, iterations=1)
    mask[:, :30] = True
    width = rim_width(mask.shape)
    assert width == 2
    core = binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0)
    assert np.array_equal(decode_mask(rim_of_rle(encode_mask(mask))), mask & ~core)


def test_boundary_iou_by_hand() -> None:
    from models.masks import mask_iou

    # In an image of 80 × 60 the rim is 2 wide: 20 × 20 has a rim of 400 − 256 = 144 pixels. Moved by 2 to the right,
    # the two rims share 2 rows above and below, 18 long: 72, and where the old right rim meets no new one, nothing.
    first, second = encode_mask(block(10, 10, 20, 20)), encode_mask(block(12, 10, 20, 20))
    shared = (mask_rim(decode_mask(first), 2) & mask_rim(decode_mask(second), 2)).sum()
    assert shared == 72
    assert mask_iou([rim_of_rle(first)], [rim_of_rle(second)])[0, 0] == pytest.approx(72 / (144 + 144 - 72))


def test_boundary_precision_is_stricter_than_that_of_masks() -> None:
    truth = objects([(0, 0, (10, 10, 40, 40), 1)], masks=[block(10, 10, 40, 40)])
    made = pair(truth, objects([(0, 0, (12, 10, 40, 40), 0.9)], masks=[block(12, 10, 40, 40)]))
    # Mask IoU 38/42 = .905: right at 9 of 10 thresholds. Rims: 304 pixels each, 2 · 2 · 38 = 152 shared: 1/3.
    assert coco_scores(made, "masks").figures["AP"] == pytest.approx(0.9)
    assert coco_scores(made, "boundaries").figures["AP"] == 0


@pytest.mark.parametrize(
    ("box", "clicks"),
    [
        ((10, 10, 20, 20), 0),
        ((10.9, 10, 20, 20.9), 0),
        ((7, 7, 23, 23), 1),
        ((7, 10, 26, 20), 2),
        ((10, 10, 20, 26), 1),
    ],
)
def test_corners_to_drag(box: tuple[float, ...], clicks: int) -> None:
    assert corners_to_drag(np.array(box, np.float64), np.array([10.0, 10, 20, 20])) == clicks


def test_polygon_vertices() -> None:
    assert polygon_vertices(block(10, 10, 20, 20)) == 4
    assert polygon_vertices(block(10, 10, 20, 20) | block(40, 10, 20, 20)) == 8
    ring = block(10, 10, 30, 30) & ~block(20, 20, 10, 10)
    assert polygon_vertices(ring) >= 8, "a hole has an outline, too"
    assert polygon_vertices(block(10, 10, 1, 1)) == 3
    assert polygon_vertices(np.zeros((5, 5), bool)) == 0


def test_clicks_on_boxes() -> None:
    truth = objects([(0, 0, HERE, 1), (0, 0, ELSEWHERE, 1), (1, 0, HERE, 1), (1, 1, ELSEWHERE, 1)])
    labels = [
        (0, 0, HERE, 0.9),  # stays
        (0, 0, (50.0, 40.0, 12.0, 10.0), 0.8),  # one corner
        (1, 1, HERE, 0.7),  # another class: 2
        (1, 0, (25.0, 40.0, 5.0, 5.0), 0.3),  # goes: 1
    ]  # and the last object is drawn: 3
    clicks = count_clicks(pair(truth, objects(labels)))
    assert not clicks.by_masks
    assert (clicks.from_nothing, clicks.from_labels) == (12, 7)
    assert clicks.saved == pytest.approx(5 / 12)
    assert (clicks.untouched, clicks.mended, clicks.reclassed, clicks.deleted, clicks.drawn) == (1, 1, 1, 1, 1)
    assert clicks.nothing_by_image.tolist() == [6, 6]
    assert clicks.labels_by_image.tolist() == [1, 6]
    # Without the label of score .3, nothing is deleted; without that of .7 as well, its object is drawn.
    assert [(choice.min_score, choice.clicks) for choice in clicks.choices] == [(0.3, 7), (0.7, 6), (0.8, 7), (0.9, 9)]


def test_clicks_on_masks() -> None:
    truth = objects([(0, 0, (10, 10, 20, 20), 1)] * 2, masks=[block(10, 10, 20, 20), block(40, 10, 20, 20)])
    found = objects([(0, 0, (12, 10, 20, 20), 0.9)] * 2, masks=[block(12, 10, 20, 20), block(40, 10, 20, 20)])
    clicks = count_clicks(pair(truth, found, images=1))
    # Four corners and a class each. The first label's rim agrees by 1/3 (see above): ⌈4 · 2/3⌉ = 3 vertices.
    assert clicks.by_masks
    assert (clicks.from_nothing, clicks.from_labels) == (10, 3)


def test_no_labels_save_nothing() -> None:
    clicks = count_clicks(pair(objects([(0, 0, HERE, 1)]), objects([])))
    assert (clicks.from_labels, clicks.saved, clicks.choices) == (3, 0, ())


def test_a_label_costs_no_more_than_drawing_anew() -> None:
    truth = objects([(0, 0, (10, 10, 20, 20), 1)])
    clicks = count_clicks(pair(truth, objects([(0, 1, (7, 7, 26, 26), 0.9)])))
    assert clicks.from_labels == 4, "two corners and a class would be 4; deleting and drawing is 4"


def test_calibration() -> None:
    truth = objects([(0, 0, HERE, 1), (1, 0, HERE, 1), (1, 0, (40, 30, 40, 30), 1)], crowd=[2])
    labels = [(0, 0, HERE, 0.9), (1, 0, HERE, 0.88), (0, 0, ELSEWHERE, 0.86), (0, 0, (30, 30, 9, 9), 0.3)]
    made = pair(truth, objects([*labels, (1, 0, ELSEWHERE, 0.5)]))
    calibration = calibrate_scores(made, coco_scores(made, "boxes").matches)
    assert [(one.low, one.labels) for one in calibration.bins] == [(0.2, 1), (0.8, 3)]
    low, high = calibration.bins
    assert (low.mean_score, low.share_right) == (pytest.approx(0.3), 0)
    assert (high.mean_score, high.share_right) == (pytest.approx(0.88), pytest.approx(2 / 3))
    assert calibration.expected_error == pytest.approx((0.3 + 3 * (0.88 - 2 / 3)) / 4)


def test_calibration_without_labels() -> None:
    made = pair(objects([(0, 0, HERE, 1)]), objects([]))
    calibration = calibrate_scores(made, coco_scores(made, "boxes").matches)
    assert calibration.bins == ()
    assert np.isnan(calibration.expected_error)
