"""What a person should look at first: how doubtful each label is, by several signs, and the images in that order.

Scores, boxes and run lengths of masks are compared with those of their class and of their folder; where the images were
looked at (`pipeline.looks`), also what is under the masks. The weights were chosen on generated scenes with errors put
in (`groundlabel bench queues`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from models.boxes import pairwise_iou
from models.class_spec import normalise_prompt
from models.mask_crops import run_lengths
from models.masks import mask_areas, mask_boxes_xywh
from pipeline.looks import NUMBERS, misplaced, strangers
from pipeline.reviewed.changes import ReviewedObject
from pipeline.reviewed.proposals import SAME_IOU, boxes_of

Column = NDArray[np.float64]

SIGNS = {
    "score": "a score near the lowest of its class",
    "mask": "a mask that the segmenter doubts, or that does not fit its box",
    "conflict": "two objects of different classes in one place",
    "duplicate": "the same object twice",
    "odd": "a shape that is unlike its class",
    "misplaced": "an outline that follows nothing in the image",
    "stranger": "an object that looks like those of another class",
}
"""Sign of a doubtful label -> what it means, for people."""
_WEIGHTS = {
    "score": 0.2,
    "mask": 0.3,
    "conflict": 0.95,
    "duplicate": 0.95,
    "odd": 0.4,
    "misplaced": 0.9,
    "stranger": 0.9,
}
"""How far each sign at its strongest is taken as proof that a label is wrong."""
_NOTABLE = 0.25
_FEWEST = 8
"""Objects that a class must have before its shapes are compared."""
_FEWEST_IMAGES = 3
_SCORE_LEAD = 0.08
"""Score by which one of two rivals must lead to be right in about three of four cases."""
_LOOK = 0.2
"""What a look at one object costs, where opening an image costs 1."""


@dataclass(frozen=True, eq=False)
class ObjectDoubts:
    """How doubtful objects are.

    Attributes:
        signs: For each of `SIGNS`, (N,) in [0, 1].
        doubt: (N,) in [0, 1], all signs together.
    """

    signs: Mapping[str, Column]
    doubt: Column


@dataclass(frozen=True)
class ImageScore:
    """What the queues say of one image.

    Attributes:
        image_id: Which one.
        order: Place in the review, from 1; None where there is nothing to look at: accepted, failed.
        gain: Wrong labels to be expected, for the time that the image takes.
        uncertain: Highest doubt by the models' own scores.
        conflict: Highest overlap of two objects, or 1 where a proposal contradicts a label.
        odd_shape: Oddest shape.
        likely_missed: How likely an object was missed.
        why: One sentence; empty where nothing is notable.
        doubts: Doubt of each object, by its id.
    """

    image_id: str
    order: int | None
    gain: float
    uncertain: float
    conflict: float
    odd_shape: float
    likely_missed: float
    why: str
    doubts: Mapping[str, float]


@dataclass(frozen=True)
class _Image:
    image_id: str
    folder: str
    object_ids: tuple[str, ...]
    disputed: int
    accepted: bool
    failed: bool


class QueueColumns:
    """Numbers of all objects and images, collected while they are ingested: about 400 bytes an object."""

    def __init__(self) -> None:
        self.images: list[_Image] = []
        self._classes: dict[str, int] = {}
        self._class_ids: list[int] = []
        self._rows: list[NDArray[np.float32]] = []
        self._looks: list[NDArray[np.float32]] = []

    def add(
        self,
        image_id: str,
        path: str,
        image_hw: tuple[int, int] | None,
        objects: Sequence[ReviewedObject],
        proposals: Sequence[ReviewedObject] = (),
        accepted: bool = False,
        failed: bool = False,
        looks: NDArray[np.float32] | None = None,
    ) -> None:
        """Add one image.

        Args:
            image_id: Its id.
            path: Its stored path; images of one folder are compared.
            image_hw: (height, width); None where it is not known.
            objects: Its labels; those that a person drew or corrected are not doubted.
            proposals: What a later run found besides.
            accepted: A person said that all is right.
            failed: It could not be labelled.
            looks: (N, `looks.NUMBERS`), how the objects look; None where nobody looked.
        """
        kept = [found for found in objects if not found.is_rejected] if image_hw is not None else []
        ids = tuple(found.object_id for found in kept)
        folder = str(PurePosixPath(path).parent)
        self.images.append(_Image(image_id, folder, ids, _disputes(kept, proposals), accepted, failed))
        names = [normalise_prompt(found.class_name) for found in kept]
        classes = [self._classes.setdefault(name, len(self._classes)) for name in names]
        self._class_ids += classes
        if kept and image_hw is not None:
            self._rows.append(_measure(kept, np.array(classes), image_hw).astype(np.float32))
            seen = [place for place, found in enumerate(objects) if not found.is_rejected]
            self._looks.append(np.full((len(kept), NUMBERS), np.nan, np.float32) if looks is None else looks[seen])

    def doubts(self) -> ObjectDoubts:
        """Return how doubtful each object is, in the order in which they were added."""
        measured = np.concatenate([np.zeros((0, 10), np.float32), *self._rows]).astype(np.float64)
        looks = np.concatenate([np.zeros((0, NUMBERS), np.float32), *self._looks])
        return _judge(measured, looks, np.array(self._class_ids, np.int64))


def _disputes(objects: Sequence[ReviewedObject], proposals: Sequence[ReviewedObject]) -> int:
    """Count the proposals that lie on a label."""
    if not objects or not proposals:
        return 0
    overlaps = pairwise_iou(boxes_of(proposals), boxes_of(objects))
    return int((overlaps.max(axis=1) >= SAME_IOU).sum())


def _measure(objects: Sequence[ReviewedObject], classes: NDArray[np.int64], image_hw: tuple[int, int]) -> Column:
    """Return (N, 10): score, mask score, misfit, rivalry with other and own class, four numbers of shape, trusted."""
    boxes = boxes_of(objects).astype(np.float64)
    present = np.array([found.mask is not None for found in objects])
    masks = [found.mask for found in objects if found.mask is not None]
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.5)
    areas, breaks = sides.prod(axis=1), np.ones(len(objects))
    fills = np.ones(len(objects))
    if masks:
        tight = mask_boxes_xywh(masks).astype(np.float64)
        pixels = mask_areas(masks).astype(np.float64)
        areas[present] = np.maximum(pixels, 0.5)
        fills[present] = pixels / np.maximum(tight[:, 2] * tight[:, 3], 1)
        runs = np.array([len(run_lengths(mask.counts)) // 2 for mask in masks])
        breaks[present] = runs / np.maximum(tight[:, 2], 1)
    detected = np.array([found.detector_box or found.box_xyxy for found in objects], np.float32)
    misfit = 1 - np.diag(pairwise_iou(boxes, detected))
    scores = np.array([1.0 if found.score is None else found.score for found in objects])
    rivals = _rivalry(boxes, scores)
    same = classes[:, None] == classes[None, :]
    columns = [
        scores,
        np.array(
            [
                1.0 if found.mask_score is None or not has else found.mask_score
                for found, has in zip(objects, present, strict=True)
            ]
        ),
        misfit,
        (rivals * ~same).max(axis=1),
        (rivals * same).max(axis=1),
        np.log(areas / (image_hw[0] * image_hw[1])),
        np.log(sides[:, 0] / sides[:, 1]),
        fills,
        np.log(np.maximum(breaks, 0.1)),
        np.array([found.origin != "model" for found in objects], float),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _rivalry(boxes: Column, scores: Column) -> Column:
    """Return (N, N): how far each object shares its place with another, and how likely it is the wrong one."""
    shared = np.clip((pairwise_iou(boxes, boxes).astype(np.float64) - 0.3) / 0.5, 0, 1)
    np.fill_diagonal(shared, 0)
    ahead = (scores[:, None] - scores[None, :]) / _SCORE_LEAD
    return np.asarray(shared / (1 + np.exp(np.clip(ahead, -30, 30))))


def _judge(measured: Column, looks: NDArray[np.float32], classes: NDArray[np.int64]) -> ObjectDoubts:
    trusted = measured[:, 9] > 0
    lowest = _per_class(measured[:, 0], classes, _floor)
    room = np.maximum(1 - lowest, 1e-6)
    signs = {
        "score": np.clip(1 - (measured[:, 0] - lowest) / room, 0, 1) ** 2,
        "mask": np.clip(np.maximum((1 - measured[:, 1]) * 1.5, (measured[:, 2] - 0.15) * 2), 0, 1),
        "conflict": measured[:, 3],
        "duplicate": measured[:, 4],
        "odd": np.max([_oddness(measured[:, column], classes) for column in (5, 6, 7, 8)], axis=0, initial=0.0),
        "misplaced": misplaced(looks),
        "stranger": strangers(looks, classes),
    }
    signs = {name: np.where(trusted, 0.0, values) for name, values in signs.items()}
    right = np.prod([1 - _WEIGHTS[name] * values for name, values in signs.items()], axis=0)
    return ObjectDoubts(signs, np.asarray(1 - right))


def _floor(scores: Column) -> Column:
    """Return the score that counts as lowest: near that of the class, unless all of the class's scores are high."""
    return np.full(len(scores), min(float(np.quantile(scores, 0.02)), 0.5 * float(scores.max())))


def _per_class(values: Column, classes: NDArray[np.int64], function: Callable[[Column], Column]) -> Column:
    result = np.zeros_like(values)
    for row in np.unique(classes):
        result[classes == row] = function(values[classes == row])
    return result


def _oddness(values: Column, classes: NDArray[np.int64]) -> Column:
    """Return how far each value is from the median of its class, in robust deviations, as a number in [0, 1]."""

    def judge(own: Column) -> Column:
        if len(own) < _FEWEST:
            return np.zeros(len(own))
        away = np.abs(own - np.median(own))
        spread = max(1.4826 * float(np.median(away)), 0.02)
        return np.asarray(np.clip((away / spread - 2) / 4, 0, 1))

    return _per_class(values, classes, judge)


def score_images(columns: QueueColumns) -> list[ImageScore]:
    """Return what the queues say of each image, in the order in which they were added."""
    judged = columns.doubts()
    missed = _likely_missed(columns.images)
    scores, start = [], 0
    for image, likely_missed in zip(columns.images, missed, strict=True):
        part = slice(start, start + len(image.object_ids))
        start = part.stop
        signs = {name: values[part] for name, values in judged.signs.items()}
        doubt = judged.doubt[part]
        cost = 1 + _LOOK * len(doubt)
        over = image.accepted or image.failed
        gain = 0.0 if over else (float(doubt.sum()) + likely_missed + image.disputed) / cost
        conflict = max(_most(signs["conflict"]), _most(signs["duplicate"]), float(image.disputed > 0))
        scores.append(
            ImageScore(
                image.image_id,
                None,
                gain,
                max(_most(signs["score"]), _most(signs["mask"])),
                conflict,
                _most(signs["odd"]),
                likely_missed,
                "" if over else _why(signs, likely_missed, image.disputed),
                dict(zip(image.object_ids, doubt.tolist(), strict=True)),
            )
        )
    return _with_order(scores, [image.accepted or image.failed for image in columns.images])


def _with_order(scores: Sequence[ImageScore], over: Sequence[bool]) -> list[ImageScore]:
    todo = sorted((row for row, done in enumerate(over) if not done), key=lambda row: -scores[row].gain)
    ranks = {row: place for place, row in enumerate(todo, start=1)}
    return [replace(score, order=ranks.get(row)) for row, score in enumerate(scores)]


def _most(values: Column) -> float:
    return float(values.max()) if len(values) else 0.0


def _likely_missed(images: Sequence[_Image]) -> list[float]:
    """Return for an image without labels the share of its folder's other images that have some; else 0."""
    folders: dict[str, list[int]] = {}
    for image in images:
        if not image.failed:
            counts = folders.setdefault(image.folder, [0, 0])
            counts[0] += 1
            counts[1] += bool(image.object_ids)
    missed = []
    for image in images:
        total, labelled = folders.get(image.folder, (0, 0))
        compared = not (image.object_ids or image.failed or image.accepted) and total >= _FEWEST_IMAGES
        missed.append(labelled / (total - 1) if compared else 0.0)
    return missed


def _why(signs: Mapping[str, Column], likely_missed: float, disputed: int) -> str:
    """Return one sentence that names what is notable, strongest first."""
    parts = {meaning: _most(signs[name]) * _WEIGHTS[name] for name, meaning in SIGNS.items()}
    parts["no label, where other images of the folder have some"] = likely_missed
    parts["a later run contradicts a label"] = float(disputed > 0)
    notable = sorted((part for part in parts.items() if part[1] >= _NOTABLE), key=lambda part: -part[1])
    text = "; ".join(meaning for meaning, _ in notable)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
