"""The best threshold, and scores moved to it."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from models.detections import Detections
from models.grounding_dino.features import Decoded
from models.grounding_dino.forward import decode, encode_image, encode_text, enhance
from models.grounding_dino.query_selection import start_queries
from models.training.augment import Labelled
from models.training.batches import collate
from models.training.score_bias import best_threshold, match_scores, shift_scores
from models.training.tiny import build_tiny
from tests.grounding_models import NAMED_SAMPLES

BLANK = np.zeros((50, 50, 3), np.uint8)


def labelled(boxes: list[list[float]], names: tuple[str, ...]) -> Labelled:
    return Labelled(BLANK, np.array(boxes, np.float32).reshape(-1, 4), names)


def found(boxes: list[list[float]], scores: list[float]) -> Detections:
    count = len(boxes)
    return Detections((50, 50), np.array(boxes, np.float32).reshape(-1, 4), scores, np.ones(count), np.zeros(count))  # type: ignore[arg-type]


def test_each_object_counts_once_and_by_its_name() -> None:
    truth = [
        labelled([[0, 0, 10, 10], [20, 20, 30, 30]], ("cat", "dog")),
        labelled([], ()),
        labelled([[0, 0, 9, 9]], ("cat",)),
    ]
    boxes = [[0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30], [21, 20, 30, 30]]
    detections = [
        (found(boxes, [0.5, 0.8, 0.9, 0.3]), ["cat", "cat", "cat", "dog"]),
        (found([[1, 1, 5, 5]], [0.4]), ["dog"]),
        (found([], []), []),
    ]
    rows = match_scores(truth, detections)
    assert_allclose(rows, [[0.9, 0], [0.8, 1], [0.5, 0], [0.3, 1], [0.4, 0]])
    assert match_scores([], []).shape == (0, 2)


def test_the_best_threshold_parts_right_from_wrong() -> None:
    rng = np.random.default_rng(0)
    right = np.stack([rng.uniform(0.55, 0.95, 400), np.ones(400)], axis=1)
    wrong = np.stack([rng.uniform(0.1, 0.45, 400), np.zeros(400)], axis=1)
    assert 0.45 <= best_threshold(np.concatenate([right, wrong]).astype(np.float32), 420) <= 0.56
    for scores, objects in ((wrong, 10), (np.zeros((0, 2)), 10), (right, 0)):
        with pytest.raises(ValueError, match="no best threshold"):
            best_threshold(scores.astype(np.float32), objects)


def test_scores_move_together_and_boxes_stay(grounding_processor) -> None:  # type: ignore[no-untyped-def]
    model = build_tiny().eval()
    batch = collate(NAMED_SAMPLES, grounding_processor.tokenizer)

    def run() -> Decoded:
        with torch.no_grad():
            text = encode_text(model, batch.input_ids, batch.token_mask)
            encoded = enhance(model, encode_image(model, batch.pixel_values), text)
            start = start_queries(model, encoded)
            return decode(model, encoded, start.content, start.references)

    before = run()
    shift_scores(model, 0.42, 0.35)
    after = run()
    seen = before.logits.isfinite()
    by = torch.logit(torch.tensor(0.35)) - torch.logit(torch.tensor(0.42))
    assert_allclose((after.logits - before.logits)[seen].numpy(), float(by), atol=1e-5)
    assert torch.equal(after.boxes, before.boxes)


def test_heads_without_a_bias_are_refused(grounding_models) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="no bias"):
        shift_scores(grounding_models["grounding-dino"], 0.4, 0.35)
