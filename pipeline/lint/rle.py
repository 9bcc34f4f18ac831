"""The runs of COCO's RLE masks, checked before anything is computed from them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.mask_crops import run_lengths

_MOST = 1 << 40
"""Pixels; more than any image has."""


@dataclass(frozen=True)
class Runs:
    """One mask as runs, column by column, the first of background.

    Attributes:
        size: (height, width) as the RLE has it.
        counts: (N,) int64 lengths.
    """

    size: tuple[int, int]
    counts: NDArray[np.int64]

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(self.counts[1::2].sum())

    @property
    def bounds_xywh(self) -> tuple[int, int, int, int]:
        """The tight box; all 0 for an empty mask."""
        ends = np.cumsum(self.counts)[1::2]
        lengths = self.counts[1::2]
        starts, ends = (ends - lengths)[lengths > 0], ends[lengths > 0] - 1
        if len(starts) == 0:
            return 0, 0, 0, 0
        height = self.size[0]
        left, right = int(starts[0] // height), int(ends[-1] // height)
        turns = bool((starts // height != ends // height).any())
        top = 0 if turns else int((starts % height).min())
        bottom = height - 1 if turns else int((ends % height).max())
        return left, top, right - left + 1, bottom - top + 1


def read_runs(segmentation: dict[str, Any]) -> Runs:
    """Read COCO's compressed or uncompressed RLE.

    Raises:
        ValueError: It is broken; the message says how.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"its size is {size!r} and not [height, width]")
    if isinstance(counts, str):
        runs = _unpack(counts)
    elif isinstance(counts, list) and all(type(count) is int and abs(count) < _MOST for count in counts):
        runs = np.array(counts, np.int64)
    else:
        raise ValueError("its counts are neither a text nor a list of lengths")
    if (runs < 0).any():
        raise ValueError("a run has a negative length")
    if int(runs.sum()) != size[0] * size[1]:
        raise ValueError(f"its runs have {int(runs.sum())} pixels in place of {size[0]} × {size[1]}")
    return Runs((size[0], size[1]), runs)


def _unpack(text: str) -> NDArray[np.int64]:
    if not text:
        raise ValueError("its counts are cut off: there are none")
    try:
        return run_lengths(text.encode("ascii"))
    except UnicodeEncodeError as error:
        raise ValueError("its counts have characters that packed runs have not") from error
