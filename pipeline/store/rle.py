"""What may be wrong with a stored mask."""

from models.mask_crops import run_lengths


def check_mask(counts: bytes, image_hw: tuple[int, int], area: int) -> str:
    """Return what is wrong with a mask, empty when nothing is.

    Args:
        counts: COCO's packed form; empty for an object that is a box alone.
        image_hw: Height and width that the runs must fill, pixels.
        area: Pixels that it should have.
    """
    try:
        runs = run_lengths(counts)
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
