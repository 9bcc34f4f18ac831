"""All boxes of a run of which is known whether they are right, class by class, and what each prompt found."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import ks_2samp

from models.class_spec import normalise_prompt
from pipeline.calibration.judged import JudgedImage, KnownImage, judge_image, known_from_review, known_from_truth
from pipeline.calibration.prompt_wins import PromptWins
from pipeline.calibration.thresholds import JudgedBoxes
from pipeline.errors import UserError
from pipeline.export.coco_labels import CocoLabels
from pipeline.records import FailedImage
from pipeline.reviewed.changes import ReviewedImage, ReviewedObject
from pipeline.reviewed.convert import record_to_objects
from pipeline.reviewed.from_file import find_image_id, image_ids_by_name
from pipeline.reviewed.layer import ReviewedLayer, has_layer
from pipeline.store.run import Run

_LEAST_COMPARED = 10
"""Images of each side from which their scores are compared."""
_CHANCE = 0.01
"""Probability below which two sets of scores are said to differ."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What is known of a run's boxes.

    Attributes:
        boxes: By class name as the run writes it, in its order; a class that the truth does not have is not in it.
        images: Images that were judged.
        all_images: Images of the run that were labelled.
        prompts: What each prompt of the run found.
        notes: What a person should know of how the images were chosen.
    """

    boxes: dict[str, JudgedBoxes]
    images: int
    all_images: int
    prompts: PromptWins
    notes: tuple[str, ...]


@dataclass
class _Column:
    """The judged boxes of a class while they are gathered."""

    scores: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    missed: int = 0

    def close(self) -> JudgedBoxes:
        scores, images = np.array(self.scores, np.float64), np.array(self.images, np.int64)
        return JudgedBoxes(scores, np.array(self.right, np.bool_), images, self.missed)


class _Reviews:
    """What people accepted in a run; an image that was only changed may not be done yet and does not count."""

    def __init__(self, run: Run) -> None:
        self._states = ReviewedLayer(run.folder).images
        self.names: frozenset[str] | None = None
        if not any(_is_done(state) for state in self._states.values()):
            how = "has been reviewed, but no image is accepted" if has_layer(run.folder) else "has not been reviewed"
            raise UserError(
                f"{run.folder}: {how}; tag images `accepted` when all of their labels are right "
                "(`groundlabel review`), or give a truth with --truth"
            )
        half_done = sum(state.objects is not None and not _is_done(state) for state in self._states.values())
        self.notes = (
            [f"images that were changed and are not accepted, and so left out: {half_done}"] if half_done else []
        )

    def known(self, image_id: str, found: Sequence[ReviewedObject]) -> KnownImage | None:
        """Return what is there in an image; None where that is not known."""
        state = self._states.get(image_id)
        return known_from_review(state, found) if state is not None and _is_done(state) else None


class _Truth:
    """A COCO file, in whose images all objects of its classes are labelled."""

    def __init__(self, run: Run, file: Path) -> None:
        labels = CocoLabels.open(file)
        ids = image_ids_by_name(run)
        found = {image_id: image for image in labels.records() if (image_id := find_image_id(image, ids)) is not None}
        if not found:
            raise UserError(
                f"{file}: none of its images is in {run.folder}; file_name must be the path below {run.images_root}"
            )
        self._images = found
        self.names: frozenset[str] | None = frozenset(normalise_prompt(spec.name) for spec in labels.ontology.classes)
        self.notes: list[str] = []

    def known(self, image_id: str, found: Sequence[ReviewedObject]) -> KnownImage | None:
        """Return what is there in an image; None where that is not known."""
        image = self._images.get(image_id)
        return known_from_truth(image) if image is not None else None


def _is_done(state: ReviewedImage) -> bool:
    return state.is_accepted and not state.deleted


def gather(run: Run, truth: Path | None = None) -> Judged:
    """Judge the boxes of a run.

    Args:
        run: The run; its rows are read once.
        truth: A COCO file; None judges by the images that people accepted in the review.

    Raises:
        UserError: No image is accepted, or the truth cannot be read or has no image of the run.
    """
    source = _Reviews(run) if truth is None else _Truth(run, truth)
    columns: defaultdict[str, _Column] = defaultdict(_Column)
    prompts = PromptWins(run.ontology)
    means: tuple[list[float], list[float]] = ([], [])
    judged_images = images = 0
    for record in run.records():
        if isinstance(record, FailedImage):
            continue
        images += 1
        found = record_to_objects(record)
        known = source.known(record.image_id, found)
        judged = None
        if known is not None:
            judged = judge_image(found, known)
            _add(columns, found, judged, judged_images)
            judged_images += 1
        prompts.add(record.prompts, judged.rights if judged is not None else None)
        if found:
            means[judged is not None].append(float(record.instances.detections.scores.mean()))
    if not judged_images:
        raise UserError(f"{run.folder}: the run has labelled none of the images that are judged; annotate again")
    names = {normalise_prompt(spec.name): spec.name for spec in run.ontology.classes}
    boxes = {name: columns[key].close() for key, name in names.items() if source.names is None or key in source.names}
    notes = [*source.notes, *_selection_notes(means[True], means[False]), *_class_notes(names, source.names)]
    return Judged(boxes, judged_images, images, prompts, tuple(notes))


def _add(
    columns: defaultdict[str, _Column], found: Sequence[ReviewedObject], judged: JudgedImage, image_row: int
) -> None:
    for label, right in zip(found, judged.rights, strict=True):
        if right is not None and label.score is not None:
            column = columns[normalise_prompt(label.class_name)]
            column.scores.append(label.score)
            column.right.append(right)
            column.images.append(image_row)
    for name, count in judged.missed.items():
        columns[name].missed += count


def _selection_notes(judged: Sequence[float], others: Sequence[float]) -> Iterator[str]:
    """Yield a line where the judged images have other scores than the rest, so that they are no fair sample."""
    if min(len(judged), len(others)) < _LEAST_COMPARED or ks_2samp(judged, others).pvalue >= _CHANCE:
        return
    here, there = float(np.mean(judged)), float(np.mean(others))
    effect = "too high: more is thrown away than needed" if here < there else "too low: more mistakes stay than asked"
    yield (
        f"the judged images are no fair sample: their mean score is {here:.2f}, that of the others {there:.2f}. "
        "Images from the head of a queue are harder or easier than the rest, and thresholds from them probably come "
        f"out {effect}; accept some images drawn at random as well"
    )


def _class_notes(names: dict[str, str], known: frozenset[str] | None) -> Iterator[str]:
    lacking = [name for key, name in names.items() if known is not None and key not in known]
    if lacking:
        yield f"classes that the truth does not have keep their threshold: {', '.join(lacking)}"
