"""Where two sets of labels of the same images say the same."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.boxes import pairwise_iou
from models.class_spec import normalise_prompt
from pipeline.records import AnnotatedImage

SAME_IOU = 0.5
"""Overlap of boxes at which two labels of a class are the same."""


@dataclass(frozen=True)
class ClassAgreement:
    """One class, over all images.

    Attributes:
        name: In lower case.
        both: Labels that both have.
        only_first: Labels that only the first has.
        only_second: Likewise.
    """

    name: str
    both: int
    only_first: int
    only_second: int


@dataclass(frozen=True)
class Agreement:
    """Two sets of labels.

    Attributes:
        by_class: Of every class that either has a label of, by name.
        renamed: Pairs of boxes that overlap and have different classes.
        disputed: Labels that only one side has, by image id; images without one are not in it.
    """

    by_class: tuple[ClassAgreement, ...]
    renamed: int
    disputed: Mapping[str, int]

    @property
    def share(self) -> float:
        """Share of all labels that the other side has too; NaN without labels."""
        both = 2 * sum(one.both for one in self.by_class)
        alone = sum(one.only_first + one.only_second for one in self.by_class)
        return both / (both + alone) if both + alone else float("nan")


def compare_labels(first: Mapping[str, AnnotatedImage], second: Mapping[str, AnnotatedImage]) -> Agreement:
    """Match the labels of two sides; images that one side does not have are left out.

    Args:
        first: By image id.
        second: Likewise.
    """
    both: Counter[str] = Counter()
    alone: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    disputed: dict[str, int] = {}
    renamed = 0
    for image_id, one in first.items():
        other = second.get(image_id)
        if other is None:
            continue
        names = [np.array([normalise_prompt(name) for name in side.class_names], dtype=object) for side in (one, other)]
        overlaps = pairwise_iou(*(side.instances.detections.boxes_xyxy for side in (one, other))).astype(np.float64)
        same = (names[0][:, None] == names[1][None]).reshape(overlaps.shape)
        rows, columns = match_boxes(np.where(same, overlaps, 0.0))
        both.update(names[0][rows].tolist())
        left, right = (
            np.delete(np.arange(len(side)), taken) for side, taken in zip(names, (rows, columns), strict=True)
        )
        alone[0].update(names[0][left].tolist())
        alone[1].update(names[1][right].tolist())
        renamed += len(match_boxes(overlaps[np.ix_(left, right)])[0])
        if len(left) + len(right):
            disputed[image_id] = len(left) + len(right)
    known = sorted({*both, *alone[0], *alone[1]})
    by_class = tuple(ClassAgreement(name, both[name], alone[0][name], alone[1][name]) for name in known)
    return Agreement(by_class, renamed, disputed)


def match_boxes(overlaps: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair rows with columns, the largest overlap first, as long as it is at least .5.

    Args:
        overlaps: (N, M); either may be 0.

    Returns:
        Rows and columns of the pairs.
    """
    left = overlaps.copy()
    rows, columns = [], []
    while left.size and left.max() >= SAME_IOU:
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        rows.append(int(row))
        columns.append(int(column))
        left[row, :] = left[:, column] = 0
    return np.array(rows, np.int64), np.array(columns, np.int64)
