"""The models that ship with the package: small enough, whole, and right on what they were trained for."""

import numpy as np
import pytest

from models.detections import Detections
from models.grounding_dino.detector import GroundingDinoDetector
from models.grounding_dino.load import complete_settings, read_grounding_dino
from models.masks import decode_mask
from models.ontology import Ontology
from models.training.evaluate import EVALUATION, evaluate_detector
from models.training.scenes import PAIRS, TRAINED_PAIRS
from models.training.sources import scene_to_labelled
from models.training.tiny_report import ask_present_and_absent, bench_scenes
from models.zoo import BUNDLED, load_segmenter

SIZE_LIMITS_MB = {"tiny": 12, "tiny-sam": 6}


@pytest.fixture(scope="module")
def make_detector():
    model, processor = read_grounding_dino(BUNDLED / "tiny")

    def make(ontology: Ontology) -> GroundingDinoDetector:
        return GroundingDinoDetector(model, processor, ontology, complete_settings(BUNDLED / "tiny", EVALUATION))

    return make


@pytest.mark.parametrize(("name", "limit_mb"), SIZE_LIMITS_MB.items())
def test_size_and_model_card(name, limit_mb):
    size = sum(file.stat().st_size for file in (BUNDLED / name).iterdir())
    assert size < limit_mb * 1e6
    card = (BUNDLED / name / "README.md").read_text()
    for heading in ("What it is", "How it was trained", "Data and licences", "Limits"):
        assert f"## {heading}" in card


def test_detector_names_what_a_scene_holds(make_detector):
    scenes = map(scene_to_labelled, bench_scenes(20, TRAINED_PAIRS))
    found = evaluate_detector(make_detector, scenes, PAIRS, ask_present_and_absent)
    assert found.ap50 > 0.75


def test_detector_text_decides(make_detector):
    """The same image asked for two colours of one shape: the box goes with the words."""
    scene = next(scene for scene in bench_scenes(100, TRAINED_PAIRS) if len(scene.labels) == 1)
    colour, shape = scene.labels[0].split()
    other = next(pair for pair in PAIRS if pair.endswith(shape) and not pair.startswith(colour))
    scores, _, _ = make_detector(Ontology.from_names([scene.labels[0], other])).score([scene.image])
    assert scores[0, :, 0].max() > scores[0, :, 1].max() + 0.2


def test_segmenter_cuts_out_shapes():
    segmenter = load_segmenter("tiny-sam", device="cpu")
    overlaps = []
    for scene in bench_scenes(10, TRAINED_PAIRS):
        count = len(scene.labels)
        ids = np.ones(count, np.int64)
        given = Detections(scene.image.shape[:2], scene.boxes_xyxy, np.ones(count, np.float32), ids, ids - 1)
        for rle, truth in zip(segmenter(scene.image, given).masks, scene.masks, strict=True):
            mask = decode_mask(rle)
            overlaps.append((mask & truth).sum() / (mask | truth).sum())
    assert np.mean(overlaps) > 0.87
