"""What a detector and a segmenter return: struct-of-arrays, validated where they are made."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.boxes import as_boxes, check_image_hw
from models.masks import Rle


def _column(values: ArrayLike, dtype: type, count: int, name: str) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(values, dtype=dtype)
    if array.size == 0:
        array = array.reshape(-1)
    if array.shape != (count,):
        raise ValueError(f"{name} must have the shape ({count},) to fit the boxes, not {array.shape}")
    return array


def _scores(values: ArrayLike, count: int, name: str) -> NDArray[np.float32]:
    array = np.asarray(_column(values, np.float32, count, name), dtype=np.float32)
    if count and not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"{name} must lie in [0, 1]")
    return array


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes of one image, each with a score, a class and the prompt that found it.

    Attributes:
        image_hw: (height, width) of the image in pixels.
        boxes_xyxy: (N, 4) float32, pixels, x1 y1 x2 y2; N may be 0.
        scores: (N,) float32 in [0, 1], the detector's.
        class_ids: (N,) int64, ids of `Ontology.classes`, from 1; 0 for a box that a negative prompt took.
        prompt_ids: (N,) int64, indices into `Ontology.prompts`, from 0.
        image_feature: (D,) float32 of unit length, what the detector makes of the whole image: like images have
            features of like direction. None where it makes nothing of it.

    Raises:
        ValueError: A shape does not fit, a number is not finite or a score is outside [0, 1].
    """

    image_hw: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    prompt_ids: NDArray[np.int64]
    image_feature: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        boxes = as_boxes(self.boxes_xyxy)
        count = len(boxes)
        object.__setattr__(self, "image_hw", check_image_hw(self.image_hw))
        object.__setattr__(self, "boxes_xyxy", boxes)
        object.__setattr__(self, "scores", _scores(self.scores, count, "scores"))
        object.__setattr__(self, "class_ids", _column(self.class_ids, np.int64, count, "class_ids"))
        object.__setattr__(self, "prompt_ids", _column(self.prompt_ids, np.int64, count, "prompt_ids"))

    @classmethod
    def empty(cls, image_hw: tuple[int, int]) -> Self:
        """Return the detections of an image in which nothing was found."""
        nothing = np.zeros(0)
        return cls(image_hw, np.zeros((0, 4), np.float32), nothing, nothing, nothing)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.integer]) -> "Detections":
        """Return the rows that a boolean mask (N,) or an index array (K,) keeps, in its order."""
        columns = (self.boxes_xyxy[keep], self.scores[keep], self.class_ids[keep], self.prompt_ids[keep])
        return Detections(self.image_hw, *columns, self.image_feature)


@dataclass(frozen=True, eq=False)
class Instances:
    """Detections with a mask each.

    Attributes:
        detections: What the masks belong to; N rows, N may be 0.
        masks: N run-length encodings, each of the size `detections.image_hw`; `Rle.absent` where an object is a box
            alone.
        mask_scores: (N,) float32 in [0, 1], the segmenter's predicted IoU, clipped to the range; 0 for an absent mask.

    Raises:
        ValueError: The counts differ, or a mask is not of the image's size.
    """

    detections: Detections
    masks: tuple[Rle, ...]
    mask_scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        count = len(self.detections)
        masks = tuple(self.masks)
        if len(masks) != count:
            raise ValueError(f"masks must be {count} to fit the boxes, not {len(masks)}")
        for mask in masks:
            if mask.size != self.detections.image_hw:
                raise ValueError(f"a mask of size {mask.size} does not fit the image {self.detections.image_hw}")
        object.__setattr__(self, "masks", masks)
        object.__setattr__(self, "mask_scores", _scores(self.mask_scores, count, "mask_scores"))

    @classmethod
    def boxes_only(cls, detections: Detections) -> Self:
        """Return detections as instances with absent masks."""
        mask = Rle.absent(detections.image_hw)
        return cls(detections, (mask,) * len(detections), np.zeros(len(detections), np.float32))

    def __len__(self) -> int:
        return len(self.detections)

    def __getitem__(self, keep: NDArray[np.bool_] | NDArray[np.integer]) -> "Instances":
        """Return the rows that a boolean mask (N,) or an index array (K,) keeps, in its order."""
        rows = np.arange(len(self))[keep]
        return Instances(self.detections[keep], tuple(self.masks[row] for row in rows), self.mask_scores[keep])
