"""Instance masks as COCO run-length encodings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

_MOST_AREAS = 255
"""pycocotools 2.0.11 with numpy 2 raises OverflowError when it is asked for the areas of 256 masks or more."""


@dataclass(frozen=True)
class Rle:
    """One mask, compressed as COCO does it (column-major runs, packed to ASCII).

    An object that is a box alone has an absent mask (`Rle.absent`): no runs at all, area 0. A mask that was looked for
    and came out without a pixel has one run of zeros, and is not absent.

    Attributes:
        size: (height, width) of the image in pixels.
        counts: The packed runs as pycocotools writes them; empty for an absent mask.

    Source: pycocotools, maskApi.c rleToString.
    """

    size: tuple[int, int]
    counts: bytes

    @classmethod
    def absent(cls, size: tuple[int, int]) -> "Rle":
        """Return what stands for the mask of an object that has only a box."""
        return cls(size, b"")

    @property
    def is_absent(self) -> bool:
        """Whether the object has only a box."""
        return not self.counts

    def to_coco(self) -> dict[str, Any]:
        """Return COCO's `segmentation` value: {"size": [height, width], "counts": str}; an absent mask has none."""
        return {"size": [int(side) for side in self.size], "counts": self.counts.decode("ascii")}

    def to_pycocotools(self) -> dict[str, Any]:
        """Return what pycocotools' functions take: as `to_coco`, with the counts as bytes."""
        return {"size": list(self.size), "counts": self.counts}

    @classmethod
    def from_coco(cls, segmentation: dict[str, Any]) -> "Rle":
        """Read COCO's compressed (`counts` str or bytes) or uncompressed (`counts` list) form.

        Raises:
            ValueError: `size` or `counts` is missing.
        """
        if "size" not in segmentation or "counts" not in segmentation:
            raise ValueError(f"an RLE needs size and counts, not {sorted(segmentation)}")
        height, width = (int(side) for side in segmentation["size"])
        counts = segmentation["counts"]
        if isinstance(counts, list):
            counts = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)["counts"]
        return cls((height, width), counts.encode("ascii") if isinstance(counts, str) else bytes(counts))


def encode_mask(mask: NDArray[np.bool_]) -> Rle:
    """Encode one mask.

    Args:
        mask: (H, W) bool or 0/1, both sides positive.

    Raises:
        ValueError: The mask is not two-dimensional or a side is 0.
    """
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"a mask must be (H, W) with positive sides, not {mask.shape}")
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return Rle((mask.shape[0], mask.shape[1]), encoded["counts"])


def decode_mask(rle: Rle) -> NDArray[np.bool_]:
    """Decode one mask to (H, W) bool; an absent one has no pixel."""
    if rle.is_absent:  # pycocotools would return memory that nobody has written to
        return np.zeros(rle.size, dtype=bool)
    return np.asarray(coco_mask.decode(rle.to_pycocotools()), dtype=bool)


def mask_areas(rles: tuple[Rle, ...] | list[Rle]) -> NDArray[np.int64]:
    """Return the areas of masks in pixels; (N,) int64, 0 for an absent mask; N may be 0."""
    parts = [
        coco_mask.area([rle.to_pycocotools() for rle in rles[start : start + _MOST_AREAS]])
        for start in range(0, len(rles), _MOST_AREAS)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def mask_boxes_xywh(rles: tuple[Rle, ...] | list[Rle]) -> NDArray[np.float32]:
    """Return the tight boxes of masks as COCO has them.

    Returns:
        (N, 4) float32: x, y, width, height in pixels; all 0 for an empty or absent mask; N may be 0.

    Source: pycocotools, toBbox.
    """
    if not rles:
        return np.zeros((0, 4), np.float32)
    return np.asarray(coco_mask.toBbox([rle.to_pycocotools() for rle in rles]), dtype=np.float32).reshape(-1, 4)


def mask_iou(first: list[Rle] | tuple[Rle, ...], second: list[Rle] | tuple[Rle, ...]) -> NDArray[np.float64]:
    """Return the IoU of every pair of masks; (N, M) float64, N and M may be 0."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(
        coco_mask.iou([r.to_pycocotools() for r in first], [r.to_pycocotools() for r in second], [0] * len(second))
    )
