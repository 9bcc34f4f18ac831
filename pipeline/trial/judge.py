"""How good the labels of each ontology are, by the side of a truth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.export.labels import open_labels
from pipeline.proof.coco_scores import coco_scores
from pipeline.proof.intervals import Difference, Interval, Weights, difference, draw_weights, interval, weighted_ap
from pipeline.proof.label_set import LabelSet
from pipeline.proof.pairing import match_paths, pair_labels
from pipeline.proof.read_labels import collect_labels, read_label_set
from pipeline.reviewed.layer import has_layer
from pipeline.sources import ImageRef
from pipeline.store.run import is_run
from pipeline.trial.arms import Arm


@dataclass(frozen=True)
class Judgement:
    """Every ontology by the truth.

    Attributes:
        classes: Those that were judged: of the truth, and asked for by at least one ontology.
        objects: How many of them are in the sampled images.
        precisions: AP of the boxes, one an ontology, with a 95 % interval over images.
        best: Place of the ontology with the highest AP.
        leads: By how much the best is ahead of each; None for itself.
    """

    classes: tuple[str, ...]
    objects: int
    precisions: tuple[Interval, ...]
    best: int
    leads: tuple[Difference | None, ...]


def read_truth(path: Path) -> LabelSet:
    """Read a truth: a COCO file or export, or a run, of which only accepted images count where people reviewed it.

    Raises:
        UserError: It cannot be read, or no image is accepted.
    """
    if not (path.is_dir() and is_run(path) and has_layer(path)):
        return read_label_set(path)
    truth = collect_labels(open_labels(path, only="accepted"))
    if not truth.images:
        raise UserError(f"--truth {path}: no image is accepted; tag images `accepted` in `groundlabel review`")
    return truth


def known_refs(truth: LabelSet, refs: Sequence[ImageRef]) -> list[ImageRef]:
    """Return the images that a truth has.

    Raises:
        UserError: It has none of them.
    """
    rows = match_paths([image.path for image in truth.images], [ref.path for ref in refs])
    known = [ref for ref, row in zip(refs, rows, strict=True) if row >= 0]
    if not known:
        raise UserError(f"--truth {truth.origin}: it has none of the {len(refs)} images (matched by their paths)")
    return known


def judge_arms(truth: LabelSet, arms: Sequence[Arm]) -> Judgement:
    """Compute the AP of each ontology, and whether the best is told apart from the others.

    Args:
        truth: Has all images of the arms.
        arms: At least one.

    Raises:
        UserError: The truth has no object of the classes that are asked for.
    """
    found = [collect_labels(arm) for arm in arms]
    asked = {name for side in found for name in side.names}
    classes = tuple(name for name in truth.names if name in asked)
    if not classes:
        raise UserError(
            f"--truth {truth.origin}: its classes are {', '.join(truth.names[:10])}; no ontology asks for one"
        )
    rows = match_paths([image.path for image in truth.images], [row.path for row in arms[0].rows])
    sampled = _only_images(truth, sorted(row for row in rows if row >= 0))
    pairs = [pair_labels(sampled, side, classes) for side in found]
    matches = [coco_scores(pair, "boxes").matches for pair in pairs]
    weights = draw_weights(len(sampled.images))
    once = np.ones((1, len(sampled.images)))

    def precision(place: int, drawn: Weights) -> NDArray[np.float64]:
        return weighted_ap(pairs[place], matches[place], drawn, slice(None))

    precisions = [
        interval(float(precision(place, once)[0]), precision(place, weights), most=1.0) for place in range(len(arms))
    ]
    best = int(np.argmax([one.value for one in precisions]))
    leads = [
        None if place == best else difference(partial(precision, best), partial(precision, place), weights)
        for place in range(len(arms))
    ]
    objects = int((~pairs[0].truth.crowd).sum())
    return Judgement(classes, objects, tuple(precisions), best, tuple(leads))


def _only_images(truth: LabelSet, rows: Sequence[int]) -> LabelSet:
    """Return some of a truth's images, with their objects."""
    places = {row: place for place, row in enumerate(rows)}
    mine = np.flatnonzero(np.isin(truth.objects.image_rows, rows))
    images = np.array([places[int(row)] for row in truth.objects.image_rows[mine]], np.int64)
    objects = truth.objects.take(mine, images, truth.objects.class_rows[mine])
    return replace(truth, images=tuple(truth.images[row] for row in rows), objects=objects, coco_images={})
