"""`groundlabel bench queues`: how many wrong labels a person finds in the first fifth of the queue."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

if TYPE_CHECKING:
    from models.training.scenes import Scene
    from pipeline.reviewed.changes import ReviewedObject

HELP = "Measure how many of the wrong labels the review's order shows first."
EXAMPLE = """
groundlabel bench queues --n 100
groundlabel bench queues --n 300 --noise 0.05
"""
_SHARE = 0.2
_RIGHT_IOU = 0.5
_SHUFFLES = 50
_SIZE = 256
_COLOURS = ("red", "green", "blue", "yellow")
_SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
_FIRST_SEED = 960_000
"""Training uses no seed below 1,000,000, and the weights of the signs were chosen on others."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this bench."""
    parser.add_argument("--n", type=int, default=200, metavar="N", help="scenes (default: 200)")
    parser.add_argument(
        "--noise", type=float, default=0.1, metavar="X", help="share of labels made wrong (default: .1)"
    )
    parser.add_argument("--detector", default="tiny", metavar="NAME", help="zoo name or model folder (default: tiny)")
    parser.add_argument("--segmenter", default="tiny-sam", metavar="NAME", help="likewise (default: tiny-sam)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")


@dataclass(frozen=True)
class _Labelled:
    """A scene with its labels, and which of them are wrong."""

    scene: "Scene"
    objects: tuple["ReviewedObject", ...]
    noisy: frozenset[str]


def run(arguments: argparse.Namespace) -> int:
    """Print the share of wrong labels in the first fifth by each order; returns 0."""
    if arguments.n < 1 or not 0 <= arguments.noise < 1:
        raise UserError("--n must be at least 1, --noise from 0 to below 1")
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from pipeline.looks import look_at
    from pipeline.queues import QueueColumns

    random = np.random.default_rng(0)
    labelled = [_add_noise(row, arguments.noise, random) for row in _label(arguments)]
    columns = QueueColumns()
    wrong, noisy = [], []
    for number, row in enumerate(labelled):
        looks = look_at(row.scene.image, row.objects)
        columns.add(f"{number:016x}", f"{number}.png", (_SIZE, _SIZE), row.objects, looks=looks)
        wrong += _is_wrong(row.scene, row.objects)
        noisy += [found.object_id in row.noisy for found in row.objects]
    bad, put_in = np.array(wrong), np.array(noisy)
    if not bad.any():
        raise UserError("no label is wrong; more scenes (--n) or more --noise are needed")
    judged = columns.doubts()
    scores = np.array([found.score for row in labelled for found in row.objects])
    print(
        f"{arguments.n} scenes, {len(bad)} labels, {bad.sum()} of them wrong: {(bad & put_in).sum()} put in, "
        f"{(bad & ~put_in).sum()} the models' own"
    )
    shares = {
        "queue": _found(-judged.doubt, bad),
        "lowest score": _found(scores, bad),
        "random": float(np.mean([_found(random.random(len(bad)), bad) for _ in range(_SHUFFLES)])),
        **{f"only {name}": _found(-values, bad) for name, values in judged.signs.items()},
    }
    for name, share in shares.items():
        print(f"{name:>14}: the first {_SHARE:.0%} of the labels hold {share:.3f} of the wrong ones")
    return 0


def _found(order: NDArray[np.float64], bad: NDArray[np.bool_]) -> float:
    """Return the share of the wrong labels among the first ones of an order, lowest number first."""
    first = np.argsort(order, kind="stable")[: round(_SHARE * len(bad))]
    return float(bad[first].sum() / bad.sum())


def _label(arguments: argparse.Namespace) -> list[_Labelled]:
    """Label scenes with the models, as `groundlabel annotate --agnostic-nms-iou .7` does."""
    from models.devices import use_threads
    from models.ontology import Ontology
    from models.training.scenes import TRAINED_PAIRS, SceneConfig, render_scene
    from models.zoo import load_detector, load_segmenter
    from pipeline.config import AnnotateConfig
    from pipeline.filters import filter_detections
    from pipeline.records import AnnotatedImage
    from pipeline.reviewed.convert import record_to_objects

    use_threads(arguments.threads)
    config = AnnotateConfig(agnostic_nms_iou=0.7)
    pairs = tuple(f"{colour} {shape}" for colour in _COLOURS for shape in _SHAPES)
    names = tuple(pair for pair in TRAINED_PAIRS if pair in pairs)
    ontology = Ontology.from_names(names)
    detector = load_detector(
        arguments.detector,
        ontology,
        box_threshold=config.box_threshold,
        text_threshold=config.text_threshold,
        device="cpu",
    )
    segmenter = load_segmenter(arguments.segmenter, device="cpu")
    labelled = []
    for number in range(arguments.n):
        scene = render_scene(_FIRST_SEED + number, SceneConfig(size=_SIZE, pairs=names))
        found, _ = filter_detections(detector([scene.image])[0], config.filters)
        record = AnnotatedImage.from_instances(
            f"{number:016x}", f"{number}.png", segmenter(scene.image, found), ontology
        )
        labelled.append(_Labelled(scene, record_to_objects(record), frozenset()))
    return labelled


def _add_noise(row: _Labelled, share: float, random: np.random.Generator) -> _Labelled:
    """Spoil a share of the labels: another class, a shifted shape, the same object once more, or one where none is."""
    objects, noisy = list(row.objects), set()
    names = sorted({found.class_name for found in row.objects})
    for place, found in enumerate(row.objects):
        if random.random() >= share:
            continue
        kind = random.integers(4)
        if kind == 0 and len(names) > 1:
            other = str(random.choice([name for name in names if name != found.class_name]))
            spoiled = replace(found, class_name=other)
        elif kind == 1:
            spoiled = _shifted(found, random, 0.6)
        else:
            spoiled = replace(_shifted(found, random, 0.1 if kind == 2 else 3.0), object_id=f"{found.object_id}+")
        noisy.add(spoiled.object_id)
        if spoiled.object_id == found.object_id:
            objects[place] = spoiled
        else:
            objects.append(spoiled)
    return _Labelled(row.scene, tuple(objects), frozenset(noisy))


def _shifted(found: "ReviewedObject", random: np.random.Generator, far: float) -> "ReviewedObject":
    """Return an object moved by a share of its own size, with its mask, kept inside the image."""
    from models.mask_crops import crop_mask, crop_to_rle

    cropped = crop_mask(found.mask) if found.mask is not None else None
    if cropped is None:
        return found
    left, top, width, height = (int(value) for value in cropped[0])
    angle = random.uniform(0, 2 * np.pi)
    x = int(np.clip(left + far * width * np.cos(angle), 0, _SIZE - width))
    y = int(np.clip(top + far * height * np.sin(angle), 0, _SIZE - height))
    box = (float(x), float(y), float(x + width), float(y + height))
    return replace(found, box_xyxy=box, detector_box=box, mask=crop_to_rle(cropped[1], x, y, (_SIZE, _SIZE)))


def _is_wrong(scene: "Scene", objects: Sequence["ReviewedObject"]) -> list[bool]:
    """Tell which labels are wrong: no object of their class under them, or one that a better label has already."""
    from models.boxes import pairwise_iou
    from pipeline.reviewed.proposals import boxes_of

    overlaps = pairwise_iou(boxes_of(objects), scene.boxes_xyxy)
    same = np.array([[label == found.class_name for label in scene.labels] for found in objects], bool)
    overlaps = np.where(same.reshape(overlaps.shape), overlaps, 0.0)
    wrong = [True] * len(objects)
    while overlaps.size and overlaps.max() >= _RIGHT_IOU:
        row, column = np.unravel_index(int(overlaps.argmax()), overlaps.shape)
        wrong[row] = False
        overlaps[row, :] = overlaps[:, column] = 0
    return wrong
