"""Images of several sizes through one annotator: batches hold one resized size, no padding, and change no result."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import Conv2d

from models.bench.vocabulary_cost import random_detector
from models.boxes_only import BoxesOnly
from models.detections import Detections
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.features import GroundingModel
from models.grounding_dino.load import complete_settings, read_grounding_dino
from models.ontology import Ontology
from models.training.scenes import PAIRS, SceneConfig, render_scene
from models.zoo import BUNDLED
from pipeline.annotator import Annotator
from pipeline.config import FilterSettings
from pipeline.records import AnnotatedImage
from pipeline.sources import find_images
from tests.grounding_models import enliven

TOLERANCE = 1e-5
"""Of scores, and of boxes over the image's sides."""
SIZES = ((96, 128), (96, 96), (192, 256), (128, 96), (96, 96), (96, 128), (160, 160), (128, 96), (96, 128))
"""(height, width) of the images: three shapes, some of them at two scales."""
GROUPS = {(96, 128): 4, (96, 96): 3, (128, 96): 2}
"""How many of `SIZES` the detectors of these tests resize to what."""


def make_queries_equal(model: GroundingModel) -> None:
    """Give all queries one content, in place.

    The n-th best place of the image gets the n-th query. Of places that are equal but for rounding another one may be
    the n-th; with equal queries that makes no difference.
    """
    with torch.no_grad():
        queries = model.model.query_position_embeddings.weight
        queries.copy_(queries[0].clone())


def full_size(folder: Path) -> GroundingDinoDetector:
    """Make a detector of grounding-dino-tiny's architecture; random weights, but none that is without effect."""
    model, processor = random_detector(folder, None)
    enliven(model)
    make_queries_equal(model)
    with torch.no_grad():
        # Scores are dot products with this norm's numbers: 256 of size 1 would magnify rounding.
        norm = model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
        norm.weight.div_(16)
        norm.bias.div_(16)
    words = [word for word in processor.tokenizer.get_vocab() if word.startswith("a")][:6]
    settings = DetectorSettings(box_threshold=0.0, text_threshold=0.0, size=96)
    return GroundingDinoDetector(model, processor, Ontology.from_names(words), settings)


def bundled(folder: Path) -> GroundingDinoDetector:
    """Make the bundled detector, with two text passes."""
    settings = complete_settings(BUNDLED / "tiny", DetectorSettings(0.02, 0.0, size=96, prompts_per_pass=20))
    model, processor = read_grounding_dino(BUNDLED / "tiny")
    make_queries_equal(model)
    return GroundingDinoDetector(model, processor, Ontology.from_names(PAIRS[:40]), settings)


class Recorder:
    """Notes the batches of a detector.

    Attributes:
        batches: Shapes of the pixels that its model got.
    """

    def __init__(self, detector: GroundingDinoDetector) -> None:
        self._detector = detector
        self.resized_hw = detector.resized_hw
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        backbone = self._detector.model.model.backbone.modules()
        first = next(module for module in backbone if isinstance(module, Conv2d))
        hook = first.register_forward_pre_hook(self._note, with_kwargs=False)
        try:
            return self._detector(images)
        finally:
            hook.remove()

    def _note(self, module: object, arguments: tuple[Tensor, ...]) -> None:
        self.batches.append(tuple(arguments[0].shape))


def save_images(folder: Path) -> None:
    """Write scenes cut to `SIZES`, without loss."""
    for row, (height, width) in enumerate(SIZES):
        side = max(height, width)
        scene = render_scene(970_000 + row, SceneConfig(size=side, max_objects=5, pairs=PAIRS[:40]))
        PillowImage.fromarray(scene.image[:height, :width]).save(folder / f"{row}.png")


def label(detector: GroundingDinoDetector, folder: Path, batch_size: int) -> tuple[list[Detections], Recorder]:
    """Label the images of a folder without NMS, and say which batches the model got."""
    recorder = Recorder(detector)
    ontology = Ontology.from_names([f"class {number}" for number in range(40)])
    annotator = Annotator(recorder, BoxesOnly(), ontology, FilterSettings(nms_iou=1.0), batch_size)
    records = annotator(find_images(folder).refs, str(folder)).records
    annotator.close()
    assert all(isinstance(record, AnnotatedImage) for record in records), records
    return [record.instances.detections for record in records if isinstance(record, AnnotatedImage)], recorder


def largest_differences(one: Detections, other: Detections) -> tuple[float, float]:
    """Pair the boxes of each prompt so that they differ least; return how much their scores and places do at most."""
    assert one.image_hw == other.image_hw
    height, width = one.image_hw
    scores, places = [0.0], [0.0]
    for prompt in np.union1d(one.prompt_ids, other.prompt_ids):
        first, second = one[one.prompt_ids == prompt], other[other.prompt_ids == prompt]
        assert len(first) == len(second), f"prompt {prompt} has {len(first)} and {len(second)} boxes"
        sides = np.array([width, height, width, height], np.float64)
        apart = np.abs(first.boxes_xyxy[:, None] / sides - second.boxes_xyxy[None] / sides).max(axis=2)
        unlike = np.abs(first.scores[:, None].astype(np.float64) - second.scores[None])
        pairs = linear_sum_assignment(apart + unlike)
        scores.append(float(unlike[pairs].max()))
        places.append(float(apart[pairs].max()))
    return max(scores), max(places)


@pytest.mark.parametrize("make", [bundled, full_size])
def test_a_batch_equals_its_images_alone(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "images").mkdir()
    save_images(tmp_path / "images")
    detector = make(tmp_path)
    alone, singles = label(detector, tmp_path / "images", 1)
    together, batches = label(detector, tmp_path / "images", 4)
    assert sorted(singles.batches) == sorted((1, 3, *hw) for hw, count in GROUPS.items() for _ in range(count))
    assert sorted(batches.batches) == sorted((count, 3, *hw) for hw, count in GROUPS.items()), "nothing is padded"
    assert sum(map(len, alone)) > 10 * len(SIZES)
    for row, (one, other) in enumerate(zip(alone, together, strict=True)):
        scores, places = largest_differences(one, other)
        assert scores <= TOLERANCE, f"image {row}: scores differ by {scores}"
        assert places <= TOLERANCE, f"image {row}: boxes differ by {places} of a side"


def test_images_are_told_apart(tmp_path: Path) -> None:
    """What the comparison would say of mixed-up images."""
    save_images(tmp_path)
    found, _ = label(bundled(tmp_path), tmp_path, 4)
    same_size = sorted((boxes for boxes in found if boxes.image_hw == (96, 128)), key=len)
    fewest = len(same_size[-2])
    assert fewest
    first, second = (boxes[np.arange(fewest)] for boxes in same_size[-2:])
    second = Detections(second.image_hw, second.boxes_xyxy, second.scores, first.class_ids, first.prompt_ids)
    assert max(largest_differences(first, second)) > 100 * TOLERANCE
