"""Labels of one side of an evaluation, whatever they were read from: struct-of-arrays over all images."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from models.masks import Rle

Kind = str
"""What two objects are compared by: "boxes", "masks" or "boundaries"."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of all images; N rows, N may be 0.

    Attributes:
        image_rows: (N,) int64, rows of the set's images.
        class_rows: (N,) int64, rows of the set's class names.
        boxes_xywh: (N, 4) float64, pixels.
        areas: (N,) float64, square pixels, as the labels give them: what COCO's sizes go by.
        scores: (N,) float64; 1 where the labels have none.
        crowd: (N,) bool, COCO's `iscrowd`: neither to be found nor wrong to find.
        masks: N masks of their image's size, None where there is none.
    """

    image_rows: NDArray[np.int64]
    class_rows: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    areas: NDArray[np.float64]
    scores: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    masks: tuple[Rle | None, ...]

    def __len__(self) -> int:
        return len(self.image_rows)

    def take(self, rows: NDArray[np.int64], image_rows: NDArray[np.int64], class_rows: NDArray[np.int64]) -> "Objects":
        """Return some rows, in the order given, with the numbers that their image and class have elsewhere.

        Args:
            rows: (K,) which.
            image_rows: (K,) their new image rows.
            class_rows: (K,) their new class rows.
        """
        return Objects(
            image_rows,
            class_rows,
            self.boxes_xywh[rows],
            self.areas[rows],
            self.scores[rows],
            self.crowd[rows],
            tuple(self.masks[row] for row in rows),
        )

    def rows_of_images(self, count: int) -> list[NDArray[np.int64]]:
        """Return the rows of each of `count` images, in their order."""
        order = np.argsort(self.image_rows, kind="stable")
        ends = np.cumsum(np.bincount(self.image_rows, minlength=count))
        return np.split(order, ends[:-1]) if count else []


@dataclass(frozen=True)
class LabelledImage:
    """An image: its path as the labels name it, "/" between the parts, and (height, width) in pixels."""

    path: str
    image_hw: tuple[int, int]


@dataclass(frozen=True, eq=False)
class LabelSet:
    """Labels as they were read.

    Attributes:
        origin: The file or folder, for messages.
        names: The classes, each once, in lower case with single spaces.
        images: Each once.
        objects: Of these images and classes.
        has_scores: Every object has a score of its own.
        image_root: Folder that the images' paths start from, or None where it is not known.
        failed: (path, reason) of each image that could not be labelled.
        lists_images: False for a list of results, where an image without a result is not named.
        coco_images: COCO image id -> row of `images`; empty for a run.
        coco_classes: COCO category id -> row of `names`; empty for a run.
    """

    origin: Path
    names: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    objects: Objects
    has_scores: bool
    image_root: Path | None
    failed: tuple[tuple[str, str], ...]
    lists_images: bool
    coco_images: dict[Any, int]
    coco_classes: dict[Any, int]


def pairwise_overlap(
    labels: Objects, label_rows: NDArray[np.int64], truth: Objects, truth_rows: NDArray[np.int64], by_masks: bool
) -> NDArray[np.float64]:
    """Return the IoU of labels and objects of one image; over a crowd it is the share of the label that lies in it.

    Args:
        labels: What was found.
        label_rows: (N,) rows of it; N may be 0.
        truth: What is there.
        truth_rows: (M,) rows of it; M may be 0.
        by_masks: Compare masks, which all of them have; else boxes.

    Returns:
        (N, M) float64 in [0, 1].

    Source: pycocotools, mask.iou.
    """
    if not len(label_rows) or not len(truth_rows):
        return np.zeros((len(label_rows), len(truth_rows)))
    sides: list[Any] = []
    for objects, rows in ((labels, label_rows), (truth, truth_rows)):
        if by_masks:
            sides.append([mask.to_pycocotools() for row in rows if (mask := objects.masks[row]) is not None])
        else:
            sides.append(objects.boxes_xywh[rows])
    crowd = truth.crowd[truth_rows].astype(np.uint8).tolist()
    return np.asarray(coco_mask.iou(sides[0], sides[1], crowd), dtype=np.float64)
