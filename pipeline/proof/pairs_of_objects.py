"""Who is who in an image: each label with at most one object, as a person would pair them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.proof.label_set import pairwise_overlap
from pipeline.proof.pairing import Pair

PAIRED_IOU = 0.5


@dataclass(frozen=True, eq=False)
class PairedObjects:
    """Labels and objects, paired within their images.

    Attributes:
        label_rows: (P,) rows of the labels that have a partner.
        truth_rows: (P,) rows of their objects.
        overlaps: (P,) IoU of the two.
        spare_labels: Rows of the labels without a partner that lie on no crowd.
        spare_truth: Rows of the objects without a partner.
    """

    label_rows: NDArray[np.int64]
    truth_rows: NDArray[np.int64]
    overlaps: NDArray[np.float64]
    spare_labels: NDArray[np.int64]
    spare_truth: NDArray[np.int64]


def pair_objects(pair: Pair, by_masks: bool, min_score: float = 0.0) -> PairedObjects:
    """Pair the labels with the objects of each image.

    First those of the same class, then the rest; each time the two that overlap most, as long as their IoU is at least
    .5. So a right label is never taken from its object by a wrong one.

    Args:
        pair: The truth and the labels.
        by_masks: Compare masks, which all have; else boxes.
        min_score: Labels with a lower score do not count.
    """
    partners: list[tuple[int, int, float]] = []
    spare_labels: list[int] = []
    spare_truth: list[int] = []
    label_rows = pair.found.rows_of_images(len(pair.images))
    for labels, there in zip(label_rows, pair.truth.rows_of_images(len(pair.images)), strict=True):
        labels = labels[pair.found.scores[labels] >= min_score]
        crowd = pair.truth.crowd[there]
        overlap = pairwise_overlap(pair.found, labels, pair.truth, there, by_masks)
        over_crowd = (overlap[:, crowd] >= PAIRED_IOU).any(1)
        there, overlap = there[~crowd], overlap[:, ~crowd]
        same = pair.found.class_rows[labels][:, None] == pair.truth.class_rows[there][None]
        chosen = _greedy(overlap, same)
        partners += [(int(labels[row]), int(there[column]), float(overlap[row, column])) for row, column in chosen]
        with_partner = np.zeros(len(labels), np.bool_)
        with_partner[[row for row, _ in chosen]] = True
        spare_labels += labels[~with_partner & ~over_crowd].tolist()
        spare_truth += np.delete(there, [column for _, column in chosen]).tolist()
    return PairedObjects(
        np.array([row for row, _, _ in partners], np.int64),
        np.array([row for _, row, _ in partners], np.int64),
        np.array([overlap for _, _, overlap in partners], np.float64),
        np.array(spare_labels, np.int64),
        np.array(spare_truth, np.int64),
    )


def _greedy(overlap: NDArray[np.float64], same: NDArray[np.bool_]) -> list[tuple[int, int]]:
    rows, columns = np.nonzero(overlap >= PAIRED_IOU)
    order = np.lexsort((-overlap[rows, columns], ~same[rows, columns]))
    free_rows, free_columns = np.ones(overlap.shape[0], np.bool_), np.ones(overlap.shape[1], np.bool_)
    chosen = []
    for place in order:
        row, column = int(rows[place]), int(columns[place])
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            chosen.append((row, column))
    return chosen
