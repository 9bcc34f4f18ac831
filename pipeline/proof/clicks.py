"""How many clicks a reviewer needs from these labels, against starting from nothing: a model, stated in `RULES`."""

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks import Rle, decode_mask, mask_boxes_xywh, mask_iou
from pipeline.proof.boundary import rim_of_rle
from pipeline.proof.pairing import Pair
from pipeline.proof.pairs_of_objects import PairedObjects, pair_objects

GOOD_IOU = 0.9
"""A label that overlaps its object this much is left as it is."""
PICK_CLASS = 1
DRAW_BOX = 2
DELETE = 1
SELECT = 1
SIDE_TOLERANCE = 0.05
"""Part of an object's width or height that a side of its box may be off."""
OUTLINE_TOLERANCE = 0.01
"""Part of an outline's length that its polygon may be off: OpenCV's usual choice for approxPolyDP."""
LEAST_VERTICES = 3
RULES = (
    f"An object that is drawn: {PICK_CLASS} click for its class; its box {DRAW_BOX} clicks (two corners), "
    f"its mask one click for each vertex of the polygon around it (within {OUTLINE_TOLERANCE:.0%} of the "
    f"outline's length, at least {LEAST_VERTICES}).",
    f"A label that goes: {DELETE} click.",
    f"A label of another class: {SELECT} click to select it and {PICK_CLASS} to pick its class.",
    f"A label whose IoU with its object is {GOOD_IOU} or more is left as it is. Below that, a box takes one click for "
    f"each corner that is dragged (one corner mends two sides; a side is off by more than {SIDE_TOLERANCE:.0%} of "
    "the object), a mask as many of its polygon's vertices as the part of its rim that is wrong (1 − boundary IoU).",
    "No label costs more to mend than to delete and draw anew. Labels and objects belong together from IoU .5 on. "
    "Looking at an image and going to the next one cost the same either way and are not counted.",
)
_TRIED_SCORES = 16


@dataclass(frozen=True)
class ScoreChoice:
    """Clicks if only the labels with at least this score were kept."""

    min_score: float
    clicks: int


@dataclass(frozen=True, eq=False)
class Clicks:
    """The clicks that labels cost and save.

    Attributes:
        by_masks: Masks are drawn and mended; else boxes.
        from_nothing: All objects drawn by hand.
        from_labels: Deleting, mending and drawing what is missing.
        deleted: Labels that go.
        reclassed: Labels that get another class.
        mended: Labels whose shape is mended.
        drawn: Objects that are drawn.
        untouched: Labels that stay as they are.
        choices: What other score thresholds would have cost, lowest score first; one entry where scores do not differ.
        nothing_by_image: (images,) clicks from nothing.
        labels_by_image: (images,) clicks from the labels.
    """

    by_masks: bool
    from_nothing: int
    from_labels: int
    deleted: int
    reclassed: int
    mended: int
    drawn: int
    untouched: int
    choices: tuple[ScoreChoice, ...]
    nothing_by_image: NDArray[np.int64] = field(repr=False)
    labels_by_image: NDArray[np.int64] = field(repr=False)

    @property
    def saved(self) -> float:
        """The part of the clicks that the labels save; negative where they cost more than they bring."""
        return 1 - self.from_labels / self.from_nothing


def polygon_vertices(mask: NDArray[np.bool_]) -> int:
    """Return how many clicks the outlines of a mask take: its parts and its holes.

    Args:
        mask: (H, W) bool.

    Returns:
        At least LEAST_VERTICES for each outline; 0 for an empty mask.
    """
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return sum(
        max(LEAST_VERTICES, len(cv2.approxPolyDP(outline, OUTLINE_TOLERANCE * cv2.arcLength(outline, True), True)))
        for outline in outlines
    )


def corners_to_drag(box_xywh: NDArray[np.float64], truth_xywh: NDArray[np.float64]) -> int:
    """Return how many corners of a box are dragged until no side is off: 0, 1 or 2.

    Args:
        box_xywh: (4,) the label's.
        truth_xywh: (4,) the object's.
    """
    sides = np.array([box_xywh[:2], box_xywh[:2] + box_xywh[2:]])
    targets = np.array([truth_xywh[:2], truth_xywh[:2] + truth_xywh[2:]])
    off = np.abs(sides - targets) > SIDE_TOLERANCE * truth_xywh[2:]
    return 2 if off.all(0).any() else int(off.any())


def count_clicks(pair: Pair, min_score: float = 0.0) -> Clicks:
    """Count clicks for masks where all have one, else for boxes.

    Args:
        pair: The truth and the labels.
        min_score: Labels with a lower score do not count.
    """
    counter = _Counter(pair)
    partners = pair_objects(pair, pair.has_masks, min_score)
    mending, reclassing, touching = counter.of_partners(partners)
    nothing, labels = (np.zeros(len(pair.images), np.int64) for _ in range(2))
    np.add.at(nothing, pair.truth.image_rows, counter.drawing)
    np.add.at(labels, pair.found.image_rows[partners.label_rows], touching)
    np.add.at(labels, pair.found.image_rows[partners.spare_labels], DELETE)
    np.add.at(labels, pair.truth.image_rows[partners.spare_truth], counter.drawing[partners.spare_truth])
    return Clicks(
        pair.has_masks,
        int(nothing.sum()),
        int(labels.sum()),
        len(partners.spare_labels),
        int((reclassing > 0).sum()),
        int((mending > 0).sum()),
        len(partners.spare_truth),
        int((touching == 0).sum()),
        _choices(pair, counter, min_score),
        nothing,
        labels,
    )


class _Counter:
    """Counts the clicks of objects and labels, each once, because an outline takes a while.

    Attributes:
        drawing: (M,) clicks that draw each object of the truth; 0 for a crowd.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._mending: dict[tuple[int, int], int] = {}
        self.drawing = np.zeros(len(pair.truth), np.int64)
        for row in np.flatnonzero(~pair.truth.crowd):
            self.drawing[row] = PICK_CLASS + (_vertices(pair.truth.masks[row]) if pair.has_masks else DRAW_BOX)

    def of_partners(self, partners: PairedObjects) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the clicks for each paired label's shape, for its class, and for both or for drawing anew."""
        found, truth = self._pair.found, self._pair.truth
        mending = np.zeros(len(partners.label_rows), np.int64)
        for place in np.flatnonzero(partners.overlaps < GOOD_IOU):
            mending[place] = self._mend(int(partners.label_rows[place]), int(partners.truth_rows[place]))
        other_class = found.class_rows[partners.label_rows] != truth.class_rows[partners.truth_rows]
        reclassing = np.where(other_class, SELECT + PICK_CLASS, 0)
        return mending, reclassing, np.minimum(mending + reclassing, DELETE + self.drawing[partners.truth_rows])

    def _mend(self, label: int, truth: int) -> int:
        known = self._mending.get((label, truth))
        if known is None:
            known = self._mending[label, truth] = self._count_mending(label, truth)
        return known

    def _count_mending(self, label: int, truth: int) -> int:
        pair = self._pair
        one, other = pair.found.masks[label], pair.truth.masks[truth]
        if not pair.has_masks or one is None or other is None:
            return corners_to_drag(pair.found.boxes_xywh[label], pair.truth.boxes_xywh[truth])
        agreement = float(mask_iou([rim_of_rle(one)], [rim_of_rle(other)])[0, 0])
        return max(1, math.ceil(int(self.drawing[truth] - PICK_CLASS) * (1 - agreement)))


def _vertices(mask: Rle | None) -> int:
    if mask is None:
        return 0
    left, top, width, height = (int(side) for side in mask_boxes_xywh([mask])[0])
    return polygon_vertices(decode_mask(mask)[top : top + height, left : left + width]) if width and height else 0


def _choices(pair: Pair, counter: _Counter, min_score: float) -> tuple[ScoreChoice, ...]:
    """Try thresholds between which about as many labels lie."""
    scores = pair.found.scores[pair.found.scores >= min_score]
    if not len(scores):
        return ()
    choices = []
    for level in np.unique(np.quantile(scores, np.linspace(0, 1, _TRIED_SCORES), method="lower")):
        partners = pair_objects(pair, pair.has_masks, float(level))
        clicks = counter.of_partners(partners)[2].sum() + DELETE * len(partners.spare_labels)
        choices.append(ScoreChoice(float(level), int(clicks + counter.drawing[partners.spare_truth].sum())))
    return tuple(choices)
