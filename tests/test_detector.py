"""The detector: every box has a class of the ontology, and odd images and prompts are handled or refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.class_spec import ClassSpec
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.passes import PassScores
from models.ontology import Ontology
from pipeline.config import FilterSettings
from pipeline.filters import filter_detections
from tests.grounding_models import PROMPTS_20, picture

ANY = DetectorSettings(box_threshold=0.0, text_threshold=0.0)
NAMES = ("red circle", "blue square", "green star", "white ring")


@pytest.fixture
def make(grounding_models, grounding_processor):  # type: ignore[no-untyped-def]
    """Make a detector; MM-Grounding-DINO unless told."""

    def build(ontology, settings=ANY, kind="mm-grounding-dino"):  # type: ignore[no-untyped-def]
        if not isinstance(ontology, Ontology):
            ontology = Ontology.from_names(ontology)
        return GroundingDinoDetector(grounding_models[kind], grounding_processor, ontology, settings)

    return build


def fixed_scores(detector: GroundingDinoDetector, scores: list[list[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the detector's model say these scores, a row a query; boxes lie side by side."""
    table = np.array(scores, np.float32)
    boxes = np.array([[0.1 + 0.1 * row, 0.5, 0.1, 0.2] for row in range(len(table))], np.float32)
    found = PassScores(list(range(table.shape[1])), table[None], table[None], boxes[None])
    monkeypatch.setattr(detector, "_look_at", lambda images: ([found], np.zeros((1, 8), np.float32)))


@pytest.mark.parametrize("kind", ["grounding-dino", "mm-grounding-dino"])
def test_every_box_has_a_configured_class(make, kind: str) -> None:
    spec = (ClassSpec(1, "round", ("red circle", "white ring")), ClassSpec(2, "car", ("light blue car",)))
    ontology = Ontology(spec)
    (found,) = make(ontology, replace(ANY, box_threshold=0.05), kind)([picture(60, 80)])
    assert len(found) > 0
    assert set(found.class_ids.tolist()) <= {1, 2}
    for class_id, prompt_id in zip(found.class_ids, found.prompt_ids, strict=True):
        assert ontology.prompts[prompt_id].class_id == class_id
    assert (found.boxes_xyxy >= 0).all()
    assert (found.boxes_xyxy[:, [0, 2]] <= 80).all()
    assert (found.boxes_xyxy[:, [1, 3]] <= 60).all()
    assert (np.diff(found.scores) <= 0).all()
    assert found.image_hw == (60, 80)


def test_no_image_and_no_box(make) -> None:
    assert make(NAMES)([]) == []
    (found,) = make(NAMES, DetectorSettings(box_threshold=1.0))([picture(60, 80)])
    assert len(found) == 0


def test_a_batch_equals_its_images(make) -> None:
    detector = make(NAMES)
    images = [picture(60, 80, seed) for seed in range(3)]
    for image, found in zip(images, detector(images), strict=True):
        (alone,) = detector([image])
        assert len(found) == len(alone) > 0
        np.testing.assert_allclose(np.sort(found.scores), np.sort(alone.scores), atol=1e-5)
        np.testing.assert_allclose(np.sort(found.boxes_xyxy, axis=0), np.sort(alone.boxes_xyxy, axis=0), atol=1e-3)


def test_classes_do_not_depend_on_letter_case(make, grounding_models, grounding_processor) -> None:
    image = picture(60, 80)
    (lower,), (upper,) = make(["red circle", "car"])([image]), make(["Red CIRCLE ", "CAR"])([image])
    np.testing.assert_array_equal(lower.scores, upper.scores)
    np.testing.assert_array_equal(lower.class_ids, upper.class_ids)


def test_thresholds_are_a_classes_own(make, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = (
        ClassSpec(1, "a", ("a",), box_threshold=0.8),
        ClassSpec(2, "b", ("b",)),
        ClassSpec(3, "c", ("c",), text_threshold=0.9),
    )
    detector = make(Ontology(spec), DetectorSettings(box_threshold=0.4, text_threshold=0.3))
    fixed_scores(detector, [[0.7, 0.5, 0.85], [0.9, 0.35, 0.95]], monkeypatch)
    (found,) = detector([picture(60, 80)])
    assert found.class_ids.tolist() == [3, 1, 2]
    np.testing.assert_allclose(found.scores, [0.95, 0.9, 0.5])


def test_negative_prompts_take_boxes_away(make, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = make(Ontology((ClassSpec(1, "a", ("a",)), ClassSpec(2, "b", ("b",))), negatives=("c",)))
    fixed_scores(detector, [[0.5, 0.7, 0.6], [0.5, 0.4, 0.9], [0.3, 0.2, 0.1]], monkeypatch)
    (found,) = detector([picture(60, 80)])
    np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.3, 0.2])
    assert found.class_ids.tolist() == [0, 2, 1, 2], "a box that a negative prompt took is there to be counted"
    assert found.prompt_ids.tolist() == [2, 1, 0, 1]
    kept, drops = filter_detections(found, FilterSettings(nms_iou=1.0))
    np.testing.assert_allclose(kept.scores, [0.7, 0.3, 0.2])
    assert drops == {("negative", 0): 1}


def test_a_negative_prompt_takes_only_what_would_have_been_a_box(make, monkeypatch: pytest.MonkeyPatch) -> None:
    ontology = Ontology((ClassSpec(1, "a", ("a",)),), negatives=("c",))
    detector = make(ontology, DetectorSettings(box_threshold=0.4, text_threshold=0.0))
    fixed_scores(detector, [[0.3, 0.9], [0.5, 0.6]], monkeypatch)
    (found,) = detector([picture(60, 80)])
    np.testing.assert_allclose(found.scores, [0.6])
    assert found.class_ids.tolist() == [0]


def test_negative_prompts_are_in_every_pass(make) -> None:
    ontology = Ontology(Ontology.from_names(NAMES).classes, negatives=("car", "traffic light"))
    detector = make(ontology, replace(ANY, prompts_per_pass=3))
    assert detector.pass_count == 4
    scores, _, _ = detector.score([picture(60, 80)])
    assert (scores[0, :, 4:] > 0).all()
    assert ((scores[0, :, :4] > 0).sum(1) == 1).all()


def test_the_best_prompt_of_a_class_is_named(make, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = make(Ontology((ClassSpec(1, "a", ("a", "b")), ClassSpec(2, "c", ("c",)))))
    fixed_scores(detector, [[0.5, 0.7, 0.6], [0.8, 0.7, 0.1]], monkeypatch)
    (found,) = detector([picture(60, 80)])
    assert list(zip(found.class_ids.tolist(), found.prompt_ids.tolist(), strict=True)) == [
        (1, 0),
        (1, 1),
        (2, 2),
        (2, 2),
    ]


def test_each_pass_scores_its_own_prompts(make) -> None:
    """A pass of one prompt says what a detector for that prompt alone says."""
    image = picture(60, 80)
    together = make(NAMES, replace(ANY, prompts_per_pass=1))
    assert together.pass_count == 4
    scores, tops, boxes = together.score([image])
    assert scores.shape == tops.shape == (1, 4 * 12, 4)
    for index, name in enumerate(NAMES):
        alone, _, alone_boxes = make([name]).score([image])
        rows = slice(12 * index, 12 * (index + 1))
        np.testing.assert_allclose(np.sort(scores[0, rows, index]), np.sort(alone[0, :, 0]), atol=1e-5)
        np.testing.assert_allclose(np.sort(boxes[0, rows], axis=0), np.sort(alone_boxes[0], axis=0), atol=1e-5)
        others = [other for other in range(4) if other != index]
        assert (scores[0, rows][:, others] == 0).all()
    (found,) = together([image])
    assert len(found) == 4 * 12, "a query is no candidate for prompts of another pass, not even at threshold 0"


def test_as_many_prompts_a_pass_as_fit(make) -> None:
    assert make(PROMPTS_20).pass_count == 1
    assert make(PROMPTS_20, replace(ANY, prompts_per_pass=8)).pass_count == 3


def test_scores_are_means_over_spans(make) -> None:
    scores, tops, _ = make(["light blue car"]).score([picture(60, 80)])
    assert (tops >= scores - 1e-6).all()
    assert (tops > scores + 1e-4).any()


@pytest.mark.parametrize("image_hw", [(60, 80), (80, 60), (481, 640), (9, 9), (33, 1000), (1000, 7), (64, 64)])
def test_resized_size_is_the_processors(make, grounding_processor, image_hw: tuple[int, int]) -> None:
    detector = make(NAMES)
    image = picture(*image_hw)
    expected = grounding_processor.image_processor(images=image, do_pad=False, return_tensors="np")["pixel_values"]
    pixels = detector._pixels([image])
    assert detector.resized_hw(image_hw) == expected.shape[-2:] == tuple(pixels.shape[-2:])
    np.testing.assert_allclose(pixels[0].numpy(), expected[0], atol=1e-5)


def test_size_can_be_changed(make) -> None:
    detector = make(NAMES, replace(ANY, size=32))
    assert detector.resized_hw((60, 80)) == (32, 42)
    assert detector.resized_hw((600, 60)) == (56, 6), "the longer side keeps its proportion to the shorter one"
    (found,) = detector([picture(60, 80)])
    assert len(found) > 0


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 60), (60, 1), (3, 400), (2000, 1), (1, 5000), (3, 3)])
def test_extreme_images(make, image_hw: tuple[int, int]) -> None:
    detector = make(["red circle"])
    (found,) = detector([picture(*image_hw)])
    assert found.image_hw == image_hw
    assert np.isfinite(found.boxes_xyxy).all()
    assert tuple(detector._pixels([picture(*image_hw)]).shape[-2:]) == detector.resized_hw(image_hw)


@pytest.mark.parametrize(
    "image",
    [picture(8, 8).astype(np.float32), picture(8, 8)[..., 0], np.zeros((8, 8, 4), np.uint8), picture(8, 8)[None]],
)
def test_what_is_no_rgb_image(make, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8 RGB"):
        make(NAMES)([image])


def test_sizes_of_a_batch_must_agree(make) -> None:
    detector = make(NAMES)
    with pytest.raises(ValueError, match=r"one resized size, not \[\(64, 85\), \(85, 64\)\]"):
        detector([picture(60, 80), picture(80, 60)])
    both = detector([picture(60, 80), picture(120, 160)])
    assert [found.image_hw for found in both] == [(60, 80), (120, 160)]


def test_a_prompt_too_long_is_named(make) -> None:
    prompt = " ".join(["red"] * 254)
    with pytest.raises(ValueError, match=r"prompt 'red red.*' has 254 tokens, the model takes 253"):
        make([prompt])
    make([" ".join(["red"] * 253)])


def test_negatives_that_leave_no_room_are_refused(make) -> None:
    negatives = (" ".join(["red"] * 200), " ".join(["blue"] * 50))
    with pytest.raises(ValueError, match=r"the 2 negative prompts take 252 .* no room for 'red circle'"):
        make(Ontology(Ontology.from_names(NAMES).classes, negatives=negatives))


@pytest.mark.parametrize("prompt", ["red. circle", "what?"])
def test_a_mark_in_a_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match=r'has a "[.?]"'):
        Ontology.from_names([prompt])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"box_threshold": 1.5}, "box_threshold must be between 0 and 1"),
        ({"text_threshold": -0.1}, "text_threshold must be between 0 and 1"),
        ({"size": 16}, "at least 32 pixels"),
        ({"prompts_per_pass": 0}, "at least 1"),
    ],
)
def test_settings_out_of_range(fields: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        DetectorSettings(**fields)


def test_the_model_is_not_trained_by_detecting(make) -> None:
    detector = make(NAMES)
    assert not detector.model.training
    detector([picture(60, 80)])
    assert all(parameter.grad is None for parameter in detector.model.parameters())
    assert torch.is_grad_enabled()
