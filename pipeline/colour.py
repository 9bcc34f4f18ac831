"""Making RGB bytes of an image in any of Pillow's colour modes, without a second copy of a large one.

Pillow holds RGB in four bytes a pixel, in one piece (`hold_in_one_piece`). Of a large RGB image that memory is used as
it is; everything else is converted a band of rows at a time.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from models.interfaces import Image as RgbImage

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels: white."""
LARGE_BYTES = 96 * 1024**2
"""RGB images of more bytes are used as Pillow holds them."""

_BAND_PIXELS = 4_000_000
_TRANSPARENT = ("RGBA", "LA", "PA", "La", "RGBa")
_TOPS_16_BIT = (1023, 4095, 65535)


def hold_in_one_piece() -> None:
    """Let Pillow hold each image in one piece, for the whole process: numpy can then look at it where it is.

    The memory also goes back to the system with the image; Pillow's own blocks of 16 MB would stay with the thread.
    """
    Image.core.set_use_block_allocator(1)  # type: ignore[attr-defined]  # for __arrow_c_array__, without a stub


def to_rgb(image: Image.Image) -> RgbImage:
    """Return a loaded image as RGB; `pipeline.images` says what becomes of other colour modes. LAB is none that does.

    Returns:
        (H, W, 3) uint8. Of an RGB image of more than `LARGE_BYTES` it is a view that cannot be written to, of pixels
        that are four bytes apart; the pixels stay when the image is closed.
    """
    width, height = image.size
    see_through = image.mode in _TRANSPARENT or "transparency" in image.info
    if image.mode == "RGB" and not see_through and 3 * width * height > LARGE_BYTES:
        view = _look_at(image)
        if view is not None:
            return view
    pixels = np.empty((height, width, 3), np.uint8)
    grey = image.mode in ("I", "F") or image.mode.startswith("I;16")
    low, high = _grey_range(image) if grey else (0.0, 0.0)
    for top, band in _bands(image):
        rows = slice(top, top + band.height)
        if grey:
            pixels[rows] = _to_bytes(_grey_values(band), low, high)[:, :, None]
        elif see_through:
            layer = band.convert("RGBA")
            ground = Image.new("RGBA", layer.size, (*BACKGROUND, 255))
            pixels[rows] = np.asarray(Image.alpha_composite(ground, layer).convert("RGB"))
        else:
            pixels[rows] = np.asarray(band if band.mode == "RGB" else band.convert("RGB"))
    return pixels


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Cut an image into bands of rows, each with the row that it starts at."""
    width, height = image.size
    step = max(_BAND_PIXELS // width, 1)
    for top in range(0, height, step):
        yield top, image.crop((0, top, width, min(top + step, height)))


def _look_at(image: Image.Image) -> RgbImage | None:
    """Return the memory of an RGB image as an array; None where it is not in one piece."""
    width, height = image.size
    try:
        cells = pa.array(image)
    except ValueError:
        return None
    return np.asarray(cells.flatten().to_numpy(zero_copy_only=True).reshape(height, width, 4)[..., :3])


def _grey_values(band: Image.Image) -> NDArray[np.floating]:
    return np.asarray(band).astype(np.float32 if band.mode.startswith("I;16") else np.float64)


def _grey_range(image: Image.Image) -> tuple[float, float]:
    """Return the values of a grey image of more than 8 bits that become 0 and 255; equal ones for no contrast."""
    lows, highs = [], []
    for _, band in _bands(image):
        values = _grey_values(band)
        finite = values[np.isfinite(values)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    low, high = (min(lows), max(highs)) if lows else (0.0, 0.0)
    if image.mode == "F":
        return (0.0, 1.0) if lows and low >= 0 and high <= 1 else (low, high)
    if low >= 0 and high <= _TOPS_16_BIT[-1]:
        return 0.0, float(next(limit for limit in _TOPS_16_BIT if high <= limit))
    return low, high


def _to_bytes(values: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """Map low to 0 and high to 255, what is not a number to 0; no contrast gives 0."""
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    filled = np.clip(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high)
    return np.asarray(np.clip(np.rint((filled - low) * (255 / (high - low))), 0, 255), np.uint8)
