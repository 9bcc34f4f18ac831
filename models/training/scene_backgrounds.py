"""What is in a scene besides its objects: background, unlabelled clutter, camera faults."""

import colorsys
import io
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from models.training.scene_fills import grid_noise, ramp, waves
from models.training.scene_shapes import fit_polygon, stamp_polygon

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

PHOTO_SHARE = 0.4
PHOTO_LONG_SIDE = 448


def _muted_rgb(rng: np.random.Generator, saturation: float = 0.14) -> FloatArray:
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, saturation), rng.uniform(0.06, 0.98))
    return np.array(rgb, dtype=np.float32) * 255


def _near(rgb: FloatArray, spread: float, rng: np.random.Generator) -> FloatArray:
    shift = np.float32(rng.uniform(0.3, 1.0) * spread * (-1 if rgb.mean() > 127 else 1))
    near: FloatArray = np.clip(rgb + shift, 0, 255)
    return near


@lru_cache(maxsize=512)
def _photo(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        opened.draft("RGB", (PHOTO_LONG_SIDE, PHOTO_LONG_SIDE))
        photo = ImageOps.exif_transpose(opened).convert("RGB")
    photo.thumbnail((PHOTO_LONG_SIDE, PHOTO_LONG_SIDE))
    return photo


def _photo_crop(path: Path, size: int, rng: np.random.Generator) -> ByteArray:
    photo = _photo(path)
    side = min(photo.size) * rng.uniform(0.5, 1.0)
    left = rng.uniform(0, photo.width - side)
    top = rng.uniform(0, photo.height - side)
    box = (left, top, left + side, top + side)
    crop = photo.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if rng.random() < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(crop)


def sample_background(size: int, photos: tuple[Path, ...], rng: np.random.Generator) -> ByteArray:
    """Draw a background: flat, gradient, noise or stripes of muted colours, or part of a photo.

    Args:
        size: Side of the square, pixels.
        photos: Image files to crop from, with a chance of PHOTO_SHARE; may be empty.
        rng: Source of chance.

    Returns:
        (size, size, 3) uint8 RGB.

    Raises:
        OSError: A photo cannot be read.
    """
    if photos and rng.random() < PHOTO_SHARE:
        return _photo_crop(photos[int(rng.integers(len(photos)))], size, rng)
    base = _muted_rgb(rng)
    kind, angle = rng.random(), rng.uniform(0, 2 * math.pi)
    if kind < 0.25:
        return np.broadcast_to(base.astype(np.uint8), (size, size, 3)).copy()
    if kind < 0.5:
        other, level = _muted_rgb(rng), ramp(size, size, angle)
    elif kind < 0.75:
        other = _near(base, 60, rng)
        level = grid_noise(size, size, math.exp(rng.uniform(0.2, math.log(size / 4))), rng)
    else:
        other = _near(base, 45, rng)
        period = size * rng.uniform(0.03, 0.3)
        level = waves(size, size, period, angle, 0.0, bool(rng.random() < 0.5))
    # A table of 256 shades is several times faster than three products a pixel.
    steps = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    shades = (base + steps * (other - base)).astype(np.uint8)
    return shades[(level * 255).astype(np.uint8)]


def _grey(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(channel) for channel in _muted_rgb(rng, 0.1))
    return red, green, blue


def _scribble(size: int, rng: np.random.Generator) -> list[float]:
    turns = np.cumsum(rng.normal(0, 0.7, int(rng.integers(6, 16)))) + rng.uniform(0, 6.28)
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * (size * rng.uniform(0.02, 0.06))
    walk: list[float] = (np.cumsum(steps, axis=0) + rng.uniform(0, size, 2)).ravel().tolist()
    return walk


def _blob(canvas: Image.Image, rng: np.random.Generator) -> None:
    corners = int(rng.integers(7, 12))
    angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
    radii = rng.uniform(0.35, 1.0, corners)
    points = np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1).astype(np.float32)
    extent = canvas.width * math.exp(rng.uniform(math.log(0.04), math.log(0.22)))
    stamp = stamp_polygon(fit_polygon(points, extent, 0.0))
    left, top = rng.uniform(-extent / 2, canvas.width - extent / 2, 2).astype(int).tolist()
    canvas.paste(_grey(rng), (left, top), Image.fromarray(stamp.alpha))


def add_clutter(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Draw unlabelled things that no colour or shape of the scenes names, all nearly grey.

    Args:
        image: (H, W, 3) uint8 RGB, square; left as it is.
        rng: Source of chance.

    Returns:
        (H, W, 3) uint8 RGB with thin lines, scribbles, specks and uneven blobs; often none.
    """
    if rng.random() < 0.35:
        return image
    canvas = Image.fromarray(image)
    draw, size = ImageDraw.Draw(canvas), canvas.width
    for _ in range(int(rng.integers(0, 4))):
        _blob(canvas, rng)
    for _ in range(int(rng.integers(0, 4))):
        ends = rng.uniform(-0.1 * size, 1.1 * size, 4).tolist()
        draw.line(ends, fill=_grey(rng), width=int(rng.integers(1, 3)))
    for _ in range(int(rng.integers(0, 3))):
        draw.line(_scribble(size, rng), fill=_grey(rng), width=int(rng.integers(1, 4)))
    for _ in range(int(rng.integers(0, 12))):
        (x, y), radius = rng.uniform(0, size, 2).tolist(), size * rng.uniform(0.002, 0.011)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_grey(rng))
    return np.asarray(canvas)


def degrade(image: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Pass an image through a mild camera: blur, exposure, noise and JPEG, each by chance.

    Args:
        image: (H, W, 3) uint8 RGB; left as it is.
        rng: Source of chance.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = Image.fromarray(image)
    if rng.random() < 0.2:
        canvas = canvas.filter(ImageFilter.BoxBlur(rng.uniform(0.25, 0.9)))
    if rng.random() < 0.4:
        gain, bias = rng.uniform(0.85, 1.12), rng.uniform(-12, 12)
        table = np.clip((np.arange(256) - 128) * gain + 128 + bias, 0, 255)
        canvas = canvas.point(table.astype(int).tolist() * 3)
    if rng.random() < 0.35:
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        noise *= np.float32(rng.uniform(2, 10))
        noise += np.asarray(canvas)
        canvas = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))
    if rng.random() < 0.4:
        stream = io.BytesIO()
        canvas.save(stream, "JPEG", quality=int(rng.integers(45, 93)))
        canvas = Image.open(stream)
    return np.array(canvas)
