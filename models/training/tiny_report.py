"""What the bundled models reach, row by row: seen pairs, unseen pairs, full vocabulary, expressions, cells, masks.

All scenes have seeds below 1,000,000, which training never uses.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from models.batch_sizes import FIRST
from models.boxes import cxcywh_rel_to_xyxy, pairwise_iou
from models.grounding_dino.detector import DetectorSettings, GroundingDinoDetector
from models.grounding_dino.load import complete_settings, load_grounding_dino, read_grounding_dino
from models.interfaces import Segmenter
from models.masks import encode_mask
from models.ontology import Ontology
from models.training.augment import Labelled
from models.training.evaluate import EVALUATION, MakeDetector, Precision, average_precision, evaluate_detector, suppress
from models.training.scenes import HELD_OUT_PAIRS, PAIRS, TRAINED_PAIRS, Scene, SceneConfig, render_scene
from models.training.segmenter_eval import evaluate_segmenter
from models.training.sources import CocoSource, scene_to_labelled

FIRST_SEED = 900_000
ABSENT_ASKED = 8
"""Absent classes that an image is asked for when false boxes are counted."""
SPEED_PROMPTS = 16
"""Prompts that images are asked for when the speed is measured."""
_UNSEEN = tuple(sorted(HELD_OUT_PAIRS))


@dataclass(frozen=True)
class Row:
    """A line of the report: what was measured, the figures, and the bar each should reach."""

    setting: str
    figures: dict[str, float]
    bars: dict[str, float]

    def __str__(self) -> str:
        parts = [f"{name} {value:.3f} (bar {self.bars[name]:g})" for name, value in self.figures.items()]
        return f"{self.setting}: {', '.join(parts)}"


def bench_scenes(count: int, pairs: tuple[str, ...]) -> Iterator[Scene]:
    """Render `count` scenes of these pairs, from seed 900,000 on."""
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        yield render_scene(seed, SceneConfig(pairs=pairs))


def ask_present_and_absent(labelled: Labelled) -> list[str]:
    """Return what an image holds plus as many absent names, at least one, drawn by its content."""
    present = sorted(set(labelled.names))
    absent = [name for name in PAIRS if name not in labelled.names]
    rng = np.random.default_rng(int(labelled.image.sum()))
    return [*present, *rng.permutation(absent)[: max(len(present), 1)].tolist()]


def false_boxes(make: MakeDetector, scenes: Iterator[Scene]) -> float:
    """Return boxes an image when asked only for absent names that share a word with a present one."""
    counts = []
    for scene in scenes:
        words = {word for name in scene.labels for word in name.split()}
        similar = [name for name in PAIRS if name not in scene.labels and words & set(name.split())]
        if not similar:
            continue
        rng = np.random.default_rng(int(scene.image.sum()))
        detector = make(Ontology.from_names(rng.permutation(similar)[:ABSENT_ASKED].tolist()))
        counts.append(len(suppress(detector([scene.image])[0])))
    return float(np.mean(counts))


def referring_accuracy(make: MakeDetector, scenes: Iterator[Scene]) -> float:
    """Return the share of expressions, each asked alone, whose best box has IoU .5 or more with its object."""
    right = []
    for scene in scenes:
        for expression in scene.expressions:
            detector = make(Ontology.from_names([expression.text]))
            scores, _, boxes = detector.score([scene.image])
            best = cxcywh_rel_to_xyxy(boxes[0, scores[0, :, 0].argmax()][None], scene.image.shape[:2])
            truth = scene.boxes_xyxy[expression.object_index][None]
            right.append(float(pairwise_iou(best, truth)[0, 0]) >= 0.5)
    return float(np.mean(right))


def mask_precision(make: MakeDetector, segmenter: Segmenter, scenes: Iterator[Scene]) -> Precision:
    """Return the mask AP of detector and segmenter together, every image asked for all pairs."""
    detector = make(Ontology.from_names(list(PAIRS)))
    truth, found, true_masks, found_masks = [], [], [], []
    for scene in scenes:
        instances = segmenter(scene.image, suppress(detector([scene.image])[0]))
        truth.append((scene.image.shape[:2], scene.boxes_xyxy, scene.labels))
        found.append((instances.detections, [PAIRS[i - 1] for i in instances.detections.class_ids]))
        true_masks.append([encode_mask(mask) for mask in scene.masks])
        found_masks.append(list(instances.masks))
    return average_precision(truth, found, PAIRS, (true_masks, found_masks))


def images_per_second(detector: GroundingDinoDetector, scenes: Sequence[Scene]) -> float:
    """Return how many images a second the detector does in batches as a run's, on the threads that torch has.

    It works in a thread of its own, as a run's worker does: the main thread's malloc gives memory back after each batch
    and faults it in again.
    """
    images = [scene.image for scene in scenes]

    def detect() -> float:
        detector(images[:FIRST])
        started = time.perf_counter()
        for start in range(0, len(images), FIRST):
            detector(images[start : start + FIRST])
        return len(images) / (time.perf_counter() - started)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(detect).result()


def report(detector_folder: Path, segmenter: Segmenter, data: Path, count: int = 300) -> Iterator[Row]:
    """Measure the tiny models row by row.

    Args:
        detector_folder: The detector, as `save_pretrained` writes it.
        segmenter: What makes the masks.
        data: Folder of `bccd/` and `coco_photos/`.
        count: Scenes a row.
    """
    model, processor = read_grounding_dino(detector_folder)

    def make(ontology: Ontology, settings: DetectorSettings = EVALUATION) -> GroundingDinoDetector:
        return GroundingDinoDetector(model, processor, ontology, complete_settings(detector_folder, settings))

    def scenes(pairs: tuple[str, ...]) -> Iterator[Scene]:
        return bench_scenes(count, pairs)

    def precision(pairs: tuple[str, ...], ask: Callable[[Labelled], Sequence[str]] | None) -> Precision:
        return evaluate_detector(make, map(scene_to_labelled, scenes(pairs)), PAIRS, ask)

    def row(setting: str, result: Precision, ap50: float, ap: float) -> Row:
        return Row(setting, {"AP50": result.ap50, "AP": result.ap}, {"AP50": ap50, "AP": ap})

    sampled = ask_present_and_absent
    yield row("asked for what it holds, as many absent", precision(TRAINED_PAIRS, sampled), 0.97, 0.86)
    yield row("the same, pairs never trained on", precision(_UNSEEN, sampled), 0.95, 0.82)
    yield row("full vocabulary, trained pairs", precision(TRAINED_PAIRS, None), 0.96, 0.84)
    yield row("full vocabulary, pairs never trained on", precision(_UNSEEN, None), 0.90, 0.78)
    strict = partial(make, settings=DetectorSettings())
    boxes = false_boxes(strict, scenes(TRAINED_PAIRS))
    yield Row(f"asked for {ABSENT_ASKED} absent that share a word", {"false boxes": boxes}, {"false boxes": 0.08})
    accuracy = referring_accuracy(make, scenes(TRAINED_PAIRS))
    yield Row("referring expressions, right box first", {"accuracy": accuracy}, {"accuracy": 0.80})
    cells = CocoSource(data / "bccd" / "val.json", data / "bccd" / "images")
    blood = evaluate_detector(make, map(cells.labelled, range(len(cells))), cells.names)
    yield row("blood cells, validation split", blood, 0.89, 0.58)
    for name, measured, bar in zip(
        ("scenes", "photos"), evaluate_segmenter(segmenter, data / "coco_photos", count), (0.90, 0.64), strict=True
    ):
        yield Row(f"masks from true boxes, {name}", {"mean IoU": measured.iou}, {"mean IoU": bar})
    masks = mask_precision(make, segmenter, scenes(TRAINED_PAIRS))
    yield Row("detector to segmenter, full vocabulary", {"mask AP": masks.ap}, {"mask AP": 0.68})
    loaded = load_grounding_dino(detector_folder, Ontology.from_names(TRAINED_PAIRS[:SPEED_PROMPTS]))
    speed = images_per_second(loaded, list(bench_scenes(64, TRAINED_PAIRS)))
    yield Row(
        f"speed on torch's threads, {SPEED_PROMPTS} prompts, batches of {FIRST}", {"images/s": speed}, {"images/s": 10}
    )
