"""The runs of COCO's RLE masks, checked before anything is computed from them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Unpack counts: groups of 5 bits, 0x20 for "goes on", from the fourth on the difference to the last but one.

    Source: pycocotools, maskApi.c rleFrString.
    """
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise ValueError("its counts have characters that packed runs have not") from error
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or codes[-1] & 0x20:
        raise ValueError("its counts are cut off or have characters that packed runs have not")
    ends = np.flatnonzero(codes & 0x20 == 0)
    starts = np.r_[0, ends[:-1] + 1]
    lengths = ends - starts + 1
    if lengths.max() > 8:
        raise ValueError("a run is longer than any image")
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 0x1F) << shifts, starts)
    values -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
