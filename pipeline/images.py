"""Reading one image file as RGB, with the same result everywhere.

- Formats: those of `FORMATS`, told by content, not by name. EPS, PDF, WMF and whatever else may start another program
  or is only a stub are not among them. Targa has no signature and is tried for names in .tga alone.
- Only regular files are opened: a pipe, socket or device is a failure, and nothing waits for it.
- The EXIF orientation is applied, so width and height are those of the upright image.
- The first frame of an animation or of many pages is taken.
- Transparent pixels lie on white (`pipeline.colour`). CMYK, palette, grey and other colour modes become RGB.
- 16-bit grey is scaled, not clipped: 65535 becomes 255. Where the largest value is below 4096 (1024), the image is
  taken for 12 (10) bits and 4095 (1023) becomes 255. Floats in [0, 1] are multiplied by 255; other floats and 32-bit
  integers are stretched from their smallest to their largest finite value.
- More than `pixel_limit` pixels is a failure before anything is decoded.
"""

import io
import os
import re
import stat
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.interfaces import Image as RgbImage
from pipeline.colour import LARGE_BYTES, hold_in_one_piece, to_rgb

FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF"),
    *("PCX", "SGI", "QOI", "DDS", "PSD"),
)
"""Pillow's names of the formats that are read."""

DEFAULT_PIXEL_LIMIT = 100_000_000
"""Pixels; an image of this size takes 400 MB, and some formats take as much again while they are decoded."""

_ORIENTATION_TAG = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
"""EXIF orientation -> the view of an upright image; 1 is upright."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_ADDRESS = re.compile(r"\s*(<[^<>]*0x[0-9a-f]+[^<>]*>|0x[0-9a-f]{6,})")


class UnreadableImageError(ValueError):
    """An image file cannot be read; the message is the reason, the same for the same file."""


def prepare_decoding(pixel_limit: int = DEFAULT_PIXEL_LIMIT) -> None:
    """Load all of Pillow's readers and set its own bomb guard, once a process and before threads decode.

    Args:
        pixel_limit: Pixels. Pillow refuses twice as many by itself, also for images inside of other formats.
    """
    Image.init()
    hold_in_one_piece()
    Image.MAX_IMAGE_PIXELS = max(pixel_limit, 1)
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(path: str | os.PathLike[str], pixel_limit: int = DEFAULT_PIXEL_LIMIT) -> RgbImage:
    """Read an image file.

    Args:
        path: Any local path.
        pixel_limit: Most pixels that are decoded.

    Returns:
        (H, W, 3) uint8 RGB with the EXIF orientation applied; a view that cannot be written to where the image is
        large (`pipeline.colour.to_rgb`).

    Raises:
        UnreadableImageError: The file cannot be opened, is no image or not a whole one, or has too many pixels.
    """
    try:
        with _open_regular(path) as file, Image.open(file, formats=_formats_for(path)) as image:
            width, height = image.size
            if width * height > pixel_limit:
                raise UnreadableImageError(_too_many_pixels(f"{width} × {height}", pixel_limit))
            image.load()
            turn = _find_turn(image)
            if image.mode == "LAB":
                raise UnreadableImageError("the colour mode LAB is not supported; convert the file to RGB")
            pixels = to_rgb(image)
        upright = pixels if turn is None else turn(pixels)
        return upright if pixels.nbytes > LARGE_BYTES else np.ascontiguousarray(upright)
    except UnreadableImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(_too_many_pixels("it", pixel_limit)) from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image in a format that is read") from error
    except MemoryError as error:
        raise UnreadableImageError("not enough memory to decode it") from error
    except Exception as error:  # broken files make Pillow raise nearly anything
        raise UnreadableImageError(describe_error(error, path)) from error


def measure_image(path: str | os.PathLike[str]) -> int:
    """Return how many bytes an image will have once it is read, from its header; 0 where that cannot be read."""
    try:
        with _open_regular(path) as file, Image.open(file, formats=_formats_for(path)) as image:
            return 3 * image.size[0] * image.size[1]
    except Exception:  # broken files make Pillow raise nearly anything; reading the image will say what is wrong
        return 0


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return an image's (width, height) in pixels, its EXIF orientation applied, from the header alone.

    Raises:
        OSError: It cannot be opened, or is no image.
        ValueError: Its header is broken.
        SyntaxError: Likewise; Pillow raises all three.
        Image.DecompressionBombError: It is larger than Pillow opens.
    """
    with Image.open(path) as image:
        width, height = image.size
        turned = image.getexif().get(_ORIENTATION_TAG, 1) in _SIDEWAYS
    return (height, width) if turned else (width, height)


def describe_error(error: BaseException, path: str | os.PathLike[str] = "") -> str:
    """Return one line for an exception, without memory addresses and without the path in front of it."""
    text = _ADDRESS.sub("", str(error)).replace(os.fspath(path), "it") if os.fspath(path) else str(error)
    text = " ".join(_ADDRESS.sub("", text).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


def _too_many_pixels(size: str, pixel_limit: int) -> str:
    return f"too many pixels: {size} is over the limit of {pixel_limit / 1e6:g} million (--pixel-limit)"


def _formats_for(path: str | os.PathLike[str]) -> tuple[str, ...]:
    return (*FORMATS, "TGA") if os.fspath(path).lower().endswith(".tga") else FORMATS


def _open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file that is not empty; never waits for a pipe."""
    try:
        _check_regular(os.stat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UnreadableImageError(f"cannot be opened: {error.strerror}") from error
    file = io.BufferedReader(io.FileIO(descriptor, closefd=True))
    try:
        _check_regular(os.fstat(descriptor))
    except UnreadableImageError:
        file.close()
        raise
    return file


def _check_regular(status: os.stat_result) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise UnreadableImageError(f"not a file but {_KINDS.get(kind, 'something else')}")
    if status.st_size == 0:
        raise UnreadableImageError("empty file (0 bytes)")


def _find_turn(image: Image.Image) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
    """Return how a loaded image is turned upright; broken EXIF counts as none, as it does in browsers."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # Pillow's EXIF reader raises nearly anything on broken data
        return None
