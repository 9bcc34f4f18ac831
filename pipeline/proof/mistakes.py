"""What kind of mistake each wrong label is, and how much average precision each kind costs.

Source: Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.proof.coco_scores import Matches
from pipeline.proof.label_set import Objects, pairwise_overlap
from pipeline.proof.pairing import Pair

FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.1
RIGHT, IGNORED = "right", "ignored"
MISTAKES = ("class", "localisation", "both", "duplicate", "background", "missed")
EXPLAINED = {
    "class": "on an object, but of another class",
    "localisation": f"right class, IoU {BACKGROUND_IOU} to {FOREGROUND_IOU}",
    "both": f"another class and IoU {BACKGROUND_IOU} to {FOREGROUND_IOU}",
    "duplicate": "on an object that a label with a higher score has found",
    "background": f"no object with IoU over {BACKGROUND_IOU}",
    "missed": "objects that no label found, and no class or localisation mistake is on",
}
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, eq=False)
class Mistakes:
    """The mistakes of a set of labels at IoU .5.

    Attributes:
        ap50: What they cost is counted from here.
        counts: Labels (for "missed": objects) by mistake.
        costs: AP50 that is gained where all mistakes of one kind are mended, and nothing else.
        false_positives: AP50 that is gained where every wrong label goes behind the right ones.
        false_negatives: AP50 that is gained where objects that were not found are not asked for.
        kinds: For each judged label, in the order of the matches: a mistake, RIGHT or IGNORED.
        missed_rows: Rows of the objects that were missed.
    """

    ap50: float
    counts: Mapping[str, int]
    costs: Mapping[str, float]
    false_positives: float
    false_negatives: float
    kinds: tuple[str, ...] = field(repr=False)
    missed_rows: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True, eq=False)
class _Points:
    """What an AP50 is computed from: a row for each judged label; the counted objects of each class."""

    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    right: NDArray[np.bool_]
    kept: NDArray[np.bool_]
    positives: NDArray[np.int64]

    def ap50(self) -> float:
        """Return the mean over the classes that had objects in the first place.

        A class all of whose objects are no longer asked for counts as 0, as in the authors' toolbox (tidecv 1.0.1).
        """
        values = []
        for row in np.flatnonzero(self.positives >= 0):
            mine = self.kept & (self.classes == row)
            values.append(average_precision(self.scores[mine], self.right[mine], int(self.positives[row])))
        return float(np.mean(values))


def average_precision(scores: NDArray[np.float64], right: NDArray[np.bool_], positives: int) -> float:
    """Return the mean precision at 101 recalls, as COCO has it.

    Args:
        scores: (N,); of equal ones, the first comes first. N may be 0.
        right: (N,) bool.
        positives: Objects to be found; where there are none, the result is 0.
    """
    if positives <= 0:
        return 0.0
    order = np.argsort(-scores, kind="mergesort")
    true = np.cumsum(right[order])
    precision = true / np.arange(1, len(order) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(true / positives, _RECALLS, side="left")
    reached = places < len(order)
    return float(envelope[places[reached]].sum() / len(_RECALLS))


def find_mistakes(pair: Pair, matches: Matches, by_masks: bool) -> Mistakes:
    """Name each wrong label's mistake and cost the kinds.

    A wrong label is looked at in this order: localisation, class, duplicate, background; what is left is both. A label
    that lies on a crowd is no mistake.

    Args:
        pair: The truth and the labels.
        matches: Of boxes or of masks.
        by_masks: Whether it is of masks.
    """
    found, truth = pair.found, pair.truth
    rows = matches.rows
    matched, ignored = matches.truth_rows[0], matches.ignored[0]
    right = (matched >= 0) & ~ignored
    used = np.zeros(len(truth), np.bool_)
    used[matched[right]] = True
    kinds, targets = _classify(pair, rows, right, ignored, used, by_masks)

    usable = np.zeros(len(truth), np.bool_)
    usable[targets[(targets >= 0) & ~used[targets]]] = True
    missed = np.flatnonzero(~used & ~usable & ~truth.crowd)
    points = _Points(
        found.scores[rows],
        found.class_rows[rows],
        right,
        ~ignored,
        np.where(matches.positives.sum(0) > 0, matches.positives.sum(0), -1),
    )
    ap50 = points.ap50()
    winners = _winners(found, rows, targets, used)
    counts = {kind: int((kinds == kind).sum()) for kind in MISTAKES} | {"missed": len(missed)}
    costs = {}
    for kind in MISTAKES:
        mended = (
            _without(points, truth, missed)
            if kind == "missed"
            else _mend(points, kinds == kind, winners, targets, truth)
        )
        costs[kind] = max(mended.ap50() - ap50, 0.0)
    perfect_order = _Points(right.astype(np.float64), points.classes, right, points.kept, points.positives)
    unfound = np.flatnonzero(~used & ~truth.crowd)
    return Mistakes(
        ap50,
        counts,
        costs,
        max(perfect_order.ap50() - ap50, 0.0),
        max(_without(points, truth, unfound).ap50() - ap50, 0.0),
        tuple(kinds.tolist()),
        missed,
    )


def _classify(
    pair: Pair,
    rows: NDArray[np.int64],
    right: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
    used: NDArray[np.bool_],
    by_masks: bool,
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return each judged label's kind, and the object that a class or localisation mistake is on (else -1)."""
    kinds = np.full(len(rows), RIGHT, dtype="U12")
    kinds[ignored] = IGNORED
    targets = np.full(len(rows), -1, np.int64)
    counted = np.flatnonzero(~pair.truth.crowd)
    truth_by_image = [counted[part] for part in _split(pair.truth.image_rows[counted], len(pair.images))]
    for image_row, places in enumerate(_split(pair.found.image_rows[rows], len(pair.images))):
        wrong = places[~right[places] & ~ignored[places]]
        if not len(wrong):
            continue
        there = truth_by_image[image_row]
        overlap = pairwise_overlap(pair.found, rows[wrong], pair.truth, there, by_masks)
        same = pair.found.class_rows[rows[wrong]][:, None] == pair.truth.class_rows[there][None]
        for line, place in enumerate(wrong):
            kinds[place], target = _kind(overlap[line], same[line], used[there])
            targets[place] = there[target] if target >= 0 else -1
    return kinds, targets


def _split(image_rows: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
    order = np.argsort(image_rows, kind="stable")
    return np.split(order, np.cumsum(np.bincount(image_rows, minlength=count))[:-1])


def _kind(overlap: NDArray[np.float64], same: NDArray[np.bool_], used: NDArray[np.bool_]) -> tuple[str, int]:
    """Name the mistake of one wrong label.

    Args:
        overlap: (M,) IoU with each object of its image; M may be 0.
        same: (M,) the object has the label's class.
        used: (M,) a label was matched with the object.

    Returns:
        The kind, and for class and localisation the index of the object that it is on; else -1.
    """
    if not len(overlap):
        return "background", -1
    own, other = np.where(same, overlap, 0.0), np.where(same, 0.0, overlap)
    if BACKGROUND_IOU <= own.max() <= FOREGROUND_IOU:
        return "localisation", int(own.argmax())
    if other.max() >= FOREGROUND_IOU:
        return "class", int(other.argmax())
    if np.where(used, own, 0.0).max() >= FOREGROUND_IOU:
        return "duplicate", -1
    return ("background" if overlap.max() <= BACKGROUND_IOU else "both"), -1


def _winners(
    found: Objects, rows: NDArray[np.int64], targets: NDArray[np.int64], used: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which labels would find their target: the one with the highest score, if the object is not found yet."""
    winners = np.zeros(len(rows), np.bool_)
    taken = used.copy()
    for place in np.argsort(-found.scores[rows], kind="mergesort"):
        target = targets[place]
        if target >= 0 and not taken[target]:
            winners[place] = taken[target] = True
    return winners


def _mend(
    points: _Points,
    chosen: NDArray[np.bool_],
    winners: NDArray[np.bool_],
    targets: NDArray[np.int64],
    truth: Objects,
) -> _Points:
    """Make the chosen labels right where they win their target, and take the others away."""
    mended = chosen & winners
    classes = points.classes.copy()
    classes[mended] = truth.class_rows[targets[mended]]
    return _Points(points.scores, classes, points.right | mended, points.kept & (~chosen | mended), points.positives)


def _without(points: _Points, truth: Objects, rows: NDArray[np.int64]) -> _Points:
    """Do not ask for some of the objects."""
    positives = points.positives - np.bincount(truth.class_rows[rows], minlength=len(points.positives))
    return _Points(
        points.scores, points.classes, points.right, points.kept, np.where(points.positives < 0, -1, positives)
    )
