"""Reading COCO's compressed run lengths without trusting them; pycocotools writes past its memory for wrong ones."""

import numpy as np
from numpy.typing import NDArray

_FIRST, _LAST = 48, 48 + 63
_MORE, _SIGN, _BITS = 0x20, 0x10, 5
_MOST_PARTS = 12


def counts_to_runs(counts: bytes) -> NDArray[np.int64]:
    """Return the run lengths, of zeros and ones in turn, zeros first.

    Args:
        counts: COCO's packed form; empty gives no runs.

    Raises:
        ValueError: They are not in that form.

    Source: pycocotools, maskApi.c rleFrString.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64)
    if not len(codes):
        return codes
    if codes.min() < _FIRST or codes.max() > _LAST:
        raise ValueError("the counts hold a character that stands for nothing")
    codes -= _FIRST
    last = (codes & _MORE) == 0
    if not last[-1]:
        raise ValueError("the counts end in the middle of a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MOST_PARTS:
        raise ValueError("the counts hold a number that is too large")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & (_MORE - 1)) << (_BITS * place), starts)
    negative = (codes[ends] & _SIGN) != 0
    numbers = np.where(negative, numbers - (np.int64(1) << (_BITS * lengths)), numbers)
    # From the fourth on, each is the difference to the one two before it.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return np.asarray(numbers, np.int64)


def check_mask(counts: bytes, image_hw: tuple[int, int], area: int) -> str:
    """Return what is wrong with a mask, empty when nothing is.

    Args:
        counts: COCO's packed form; empty for an object that is a box alone.
        image_hw: Height and width that the runs must fill, pixels.
        area: Pixels that it should have.
    """
    try:
        runs = counts_to_runs(counts)
    except ValueError as error:
        return f"its mask cannot be read: {error}"
    if not len(runs):
        return "" if area == 0 else f"it has no mask and an area of {area} pixels"
    if (runs < 0).any():
        return "its mask has a run of negative length"
    if runs.sum() != image_hw[0] * image_hw[1]:
        return f"its mask fills {runs.sum()} pixels, and the image has {image_hw[0] * image_hw[1]}"
    if runs[1::2].sum() != area:
        return f"its mask has {runs[1::2].sum()} pixels and its area says {area}"
    return ""
