"""The prefilter: which classes it leaves, and that what is left is asked for as ever."""

from dataclasses import replace

import numpy as np
import pytest

from models.class_spec import ClassSpec
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.prefilter import keep_classes
from models.ontology import Ontology
from tests.grounding_models import PROMPTS_20, picture

ANY = DetectorSettings(box_threshold=0.0, text_threshold=0.0)


def test_classes_are_kept_by_their_best_prompt() -> None:
    likely = np.array([0.1, 0.9, 0.5, 0.5, 0.2, 1.0], np.float32)
    class_ids = np.array([1, 1, 2, 3, 4, 0])
    assert keep_classes(likely, class_ids, 1).tolist() == [0, 1]
    assert keep_classes(likely, class_ids, 2).tolist() == [0, 1, 2], "of equal ones the first"
    assert keep_classes(likely, class_ids, 9).tolist() == [0, 1, 2, 3, 4], "a negative prompt is no class"
    assert keep_classes(np.zeros(3, np.float32), np.array([2, 1, 0]), 1).tolist() == [1]


@pytest.fixture
def make(grounding_models, grounding_processor):  # type: ignore[no-untyped-def]
    def build(ontology: Ontology, settings: DetectorSettings) -> GroundingDinoDetector:
        return GroundingDinoDetector(grounding_models["mm-grounding-dino"], grounding_processor, ontology, settings)

    return build


def test_an_image_is_asked_for_its_own_classes_alone(make) -> None:
    """What the prefiltered detector finds is what a detector for the kept classes and the negatives finds."""
    ontology = Ontology(Ontology.from_names(PROMPTS_20[:12]).classes, negatives=("car",))
    images = [picture(60, 80), picture(60, 80, seed=3)]
    detector = make(ontology, replace(ANY, prompts_per_pass=8, prefilter=3))
    together = detector(images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detector([image])
        kept = sorted(set(alone.class_ids.tolist()) - {0})
        assert 0 < len(kept) <= 3
        np.testing.assert_allclose(np.sort(found.scores), np.sort(alone.scores), atol=1e-5)
    names = {part for scores in detector.score_passes(images[:1]) for part in scores.prompts}
    assert len(names) == 4
    assert 12 in names, "the negative prompt is asked for too"
    chosen = sorted(names - {12})
    classes = tuple(ClassSpec(row, PROMPTS_20[p], (PROMPTS_20[p],)) for row, p in enumerate(chosen, start=1))
    (expected,) = make(Ontology(classes, negatives=("car",)), ANY)(images[:1])
    (got,) = detector(images[:1])
    np.testing.assert_allclose(np.sort(got.scores), np.sort(expected.scores), atol=1e-5)
    np.testing.assert_allclose(np.sort(got.boxes_xyxy, axis=0), np.sort(expected.boxes_xyxy, axis=0), atol=1e-3)


def test_what_is_left_keeps_its_company(make) -> None:
    """Names that are asked in different passes are not asked in one because they are likely."""
    ontology = Ontology.from_names(PROMPTS_20[:12])
    settings = replace(ANY, prompts_per_pass=6, prefilter=6)
    image = [picture(60, 80)]
    everything = [set(part.prompts) for part in make(ontology, replace(settings, prefilter=None)).score_passes(image)]
    left = [set(part.prompts) for part in make(ontology, settings).score_passes(image)]
    assert len(everything) == 2
    assert sum(map(len, left)) == len(set().union(*left)) == 6
    for prompts in left:
        assert len(prompts) <= 3 or any(prompts <= whole for whole in everything)


@pytest.mark.parametrize("settings", [replace(ANY, prompts_per_pass=2, prefilter=3), replace(ANY, prefilter=1)])
def test_a_prefilter_that_saves_nothing_is_none(make, settings: DetectorSettings) -> None:
    """As wide as the ontology, or for an ontology that one text pass holds."""
    ontology = Ontology.from_names(PROMPTS_20[:3])
    (one,), (two,) = (make(ontology, s)([picture(60, 80)]) for s in (replace(settings, prefilter=None), settings))
    np.testing.assert_array_equal(one.scores, two.scores)


def test_what_cannot_be_prefiltered(make, grounding_models, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="prefilter must be at least 1"):
        DetectorSettings(prefilter=0)
    monkeypatch.setattr(grounding_models["mm-grounding-dino"].config, "two_stage", False)
    with pytest.raises(ValueError, match="has none; leave it off"):
        make(Ontology.from_names(PROMPTS_20), replace(ANY, prefilter=3))
