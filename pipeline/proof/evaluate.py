"""`evaluate`: all that can be said about labels by the side of a truth, and what changed against other labels."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.masks import mask_iou
from pipeline.box_source import BoxSource
from pipeline.errors import UserError
from pipeline.proof.boundary import rim_of_rle
from pipeline.proof.clicks import Clicks, count_clicks
from pipeline.proof.coco_scores import KINDS, Scores, coco_scores
from pipeline.proof.confusion import confusion_matrix
from pipeline.proof.intervals import Difference, Interval, Weights, difference, draw_weights, interval, weighted_ap
from pipeline.proof.label_set import Kind, LabelSet
from pipeline.proof.mistakes import Mistakes, find_mistakes
from pipeline.proof.pairing import Pair, pair_labels
from pipeline.proof.pairs_of_objects import PairedObjects, pair_objects
from pipeline.proof.read_labels import read_label_set
from pipeline.proof.score_calibration import Calibration, calibrate_scores

PREFIXES: dict[Kind, str] = {"boxes": "", "masks": "mask_", "boundaries": "boundary_"}
"""What stands before the name of a figure, by what was compared."""
_LEVELS: dict[str, slice] = {"AP": slice(None), "AP50": slice(1)}


@dataclass(frozen=True)
class Outlines:
    """How well the masks of labels fit the objects that they were paired with (IoU .5 and more).

    Attributes:
        pairs: How many.
        mask_iou: Mean IoU of the masks; NaN without pairs.
        boundary_iou: Mean IoU of their rims.
    """

    pairs: int
    mask_iou: float
    boundary_iou: float


@dataclass(frozen=True)
class Comparison:
    """These labels against others.

    Attributes:
        origin: The others.
        figures: Figure -> difference.
        notes: What a person should know of the others.
    """

    origin: Path
    figures: Mapping[str, Difference]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was found out about labels.

    Attributes:
        truth: The file or folder of the truth.
        predictions: The file or folder of the labels.
        min_score: Labels with a lower score did not count for confusion, outlines and clicks.
        pair: Both, on the same images and classes.
        scores: COCO's figures by what was compared.
        figures: All figures by the names that `--fail-under` takes.
        intervals: Figure -> its 95 % interval over images.
        mistakes: By what was compared: boxes, and masks where there are some.
        partners: Who is who, for confusion and pictures.
        confusion: (C + 1, C + 1), see `confusion_matrix`.
        calibration: None where the labels have no scores.
        outlines: None without masks.
        clicks: What a reviewer does.
        comparison: With other labels, where they were given.
    """

    truth: Path
    predictions: Path
    min_score: float
    pair: Pair
    scores: Mapping[Kind, Scores]
    figures: Mapping[str, float]
    intervals: Mapping[str, Interval]
    mistakes: Mapping[Kind, Mistakes]
    partners: PairedObjects
    confusion: NDArray[np.int64]
    calibration: Calibration | None
    outlines: Outlines | None
    clicks: Clicks
    comparison: Comparison | None


def evaluate(
    truth: str | Path,
    predictions: str | Path,
    against: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    images: str | Path | None = None,
    min_score: float = 0.0,
    boxes: BoxSource = "mask",
) -> Evaluation:
    """Judge labels by a truth.

    Args:
        truth: A run folder, the folder of a COCO export, or a COCO JSON.
        predictions: Likewise, or a COCO list of results.
        against: Other labels of the same images, to compare with.
        classes: Judge only these; None means all that either side has.
        images: Folder that the paths of the truth's images start from; None looks where exports have it.
        min_score: Labels with a lower score do not count for confusion, outlines and clicks; average precision takes
            all.
        boxes: Whose boxes the objects of `predictions` have, which must be a run where it is not "mask"; those of
            `against` have their masks'.

    Raises:
        UserError: Something cannot be read, or an image or class of one side has no counterpart.
    """
    if images is not None and not Path(images).is_dir():
        raise UserError(f"{images}: no such folder of images")
    if not 0 <= min_score <= 1:
        raise UserError(f"--min-score must be from 0 to 1, not {min_score}")
    root = Path(images) if images is not None else None
    truth_set = read_label_set(truth, images=root)
    found_set = read_label_set(predictions, truth_set, boxes=boxes)
    pair = pair_labels(truth_set, found_set, classes)
    scores = _scores(pair)
    clicks = count_clicks(pair, min_score)
    partners = pair_objects(pair, pair.has_masks, min_score)
    outlines = _outlines(pair, partners) if pair.has_masks else None
    calibration = calibrate_scores(pair, scores["boxes"].matches) if pair.has_scores else None
    weights = draw_weights(len(pair.images))
    return Evaluation(
        Path(truth),
        Path(predictions),
        min_score,
        pair,
        scores,
        _figures(scores, clicks, outlines, calibration),
        _intervals(pair, scores, clicks, weights),
        {
            kind: find_mistakes(pair, scores[kind].matches, kind == "masks")
            for kind in ("boxes", "masks")
            if kind in scores
        },
        partners,
        confusion_matrix(pair, partners),
        calibration,
        outlines,
        clicks,
        _compare(pair, scores, clicks, truth_set, Path(against), min_score, weights) if against is not None else None,
    )


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """Read what `--fail-under` takes: "AP50=.9", each for one figure.

    Raises:
        UserError: One is not of this form.
    """
    limits = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", value):
            raise UserError(f"--fail-under takes FIGURE=NUMBER, such as AP50=.9, not {text!r}")
        limits[name.strip()] = float(value)
    return limits


def below_limits(figures: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """Return a line for each figure that is below its limit; one that could not be computed is below.

    Raises:
        UserError: There is no such figure in this evaluation.
    """
    by_name = {name.lower(): name for name in figures}
    lines = []
    for asked, limit in limits.items():
        name = by_name.get(asked.lower())
        if name is None:
            raise UserError(f"--fail-under: no figure {asked!r} here; there are {', '.join(figures)}")
        if not figures[name] >= limit:
            lines.append(f"{name} is {figures[name]:.4f}, below {limit:g}")
    return lines


def _scores(pair: Pair) -> dict[Kind, Scores]:
    return {kind: coco_scores(pair, kind) for kind in (KINDS if pair.has_masks else KINDS[:1])}


def _figures(
    scores: Mapping[Kind, Scores], clicks: Clicks, outlines: Outlines | None, calibration: Calibration | None
) -> dict[str, float]:
    figures = {PREFIXES[kind] + name: value for kind, one in scores.items() for name, value in one.figures.items()}
    if outlines is not None:
        figures |= {"mask_iou": outlines.mask_iou, "boundary_iou": outlines.boundary_iou}
    figures["clicks_saved"] = clicks.saved
    if calibration is not None:
        figures["calibration_error"] = calibration.expected_error
    return figures


def _outlines(pair: Pair, partners: PairedObjects) -> Outlines:
    if not len(partners.label_rows):
        return Outlines(0, float("nan"), float("nan"))
    rims = []
    for label, truth in zip(partners.label_rows, partners.truth_rows, strict=True):
        one, other = pair.found.masks[label], pair.truth.masks[truth]
        if one is not None and other is not None:
            rims.append(mask_iou([rim_of_rle(one)], [rim_of_rle(other)])[0, 0])
    return Outlines(len(rims), float(partners.overlaps.mean()), float(np.mean(rims)))


def _resampled(
    pair: Pair, scores: Mapping[Kind, Scores], clicks: Clicks
) -> dict[str, Callable[[Weights], NDArray[np.float64]]]:
    """Return the figures that are computed on resamples of the images."""
    figures: dict[str, Callable[[Weights], NDArray[np.float64]]] = {}
    for kind, one in scores.items():
        for name, levels in _LEVELS.items():
            figures[PREFIXES[kind] + name] = _ap_of(pair, one, levels)
    figures["clicks_saved"] = lambda weights: (
        1 - (weights @ clicks.labels_by_image) / np.maximum(weights @ clicks.nothing_by_image, 1)
    )
    return figures


def _ap_of(pair: Pair, scores: Scores, levels: slice) -> Callable[[Weights], NDArray[np.float64]]:
    return lambda weights: weighted_ap(pair, scores.matches, weights, levels)


def _intervals(pair: Pair, scores: Mapping[Kind, Scores], clicks: Clicks, weights: Weights) -> dict[str, Interval]:
    once = np.ones((1, weights.shape[1]))
    return {
        name: interval(float(figure(once)[0]), figure(weights), most=1.0)
        for name, figure in _resampled(pair, scores, clicks).items()
    }


def _compare(
    pair: Pair,
    scores: Mapping[Kind, Scores],
    clicks: Clicks,
    truth: LabelSet,
    against: Path,
    min_score: float,
    weights: Weights,
) -> Comparison:
    other = pair_labels(truth, read_label_set(against, truth), pair.names)
    there = _resampled(other, _scores(other), count_clicks(other, min_score))
    figures = {
        name: difference(here, there[name], weights)
        for name, here in _resampled(pair, scores, clicks).items()
        if name in there and (name != "clicks_saved" or pair.has_masks == other.has_masks)
    }
    return Comparison(against, figures, other.notes)
