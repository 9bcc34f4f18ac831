"""How labelled objects look in their image: numbers by which labels that do not fit their class or place stand out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.mask_crops import crop_mask
from pipeline.reviewed.changes import ReviewedObject

GRID = 8
"""Cells a side into which an object's form and colours are summed up."""
NUMBERS = 3 + 3 + 3 + GRID * GRID + 1 + 1
"""Numbers an object: mean and deviation of its colour, mean of the ring around it, form, aspect, edge."""
LONGEST_SIDE = 512
"""Pixels to which images are made small."""
_FEWEST_PIXELS = 4
_FEWEST = 8
_BLOCK = 512
_FLAT = 4.0
"""Change of colour, 0 to 255, that counts as none."""
_RING = 3

Floats = NDArray[np.float32]


def read_looks(path: Path, image_hw: tuple[int, int], objects: Sequence[ReviewedObject]) -> Floats | None:
    """Read an image, small, and measure how its objects look.

    Args:
        path: The image file.
        image_hw: (height, width) of the upright image, which the labels are of.
        objects: Its labels; N may be 0.

    Returns:
        As `look_at`; None where the file cannot be read, or holds an image of other sides than the labels say.
    """
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
            upright = ImageOps.exif_transpose(opened).convert("RGB")
            upright.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    image = np.asarray(upright)
    scale = image.shape[1] / image_hw[1]
    if abs(image.shape[0] - image_hw[0] * scale) > 1.5:
        return None
    return look_at(image, objects, scale)


def look_at(image: NDArray[np.uint8], objects: Sequence[ReviewedObject], scale: float = 1.0) -> Floats:
    """Measure how objects look.

    Args:
        image: (H, W, 3) uint8 RGB.
        objects: Labels of it; N may be 0.
        scale: Side of the image over that of the one which was labelled.

    Returns:
        (N, NUMBERS) float32; a row of NaN for an object of less than 4 pixels.
    """
    gradient = _gradient(image)
    rows = [_look_at_one(image, gradient, found, scale) for found in objects]
    return np.array(rows, np.float32).reshape(-1, NUMBERS)


def _gradient(image: NDArray[np.uint8]) -> Floats:
    """Return (H, W): how strongly the colour changes at each pixel."""
    pixels = image.astype(np.float32)
    down, right = np.zeros(image.shape[:2], np.float32), np.zeros(image.shape[:2], np.float32)
    down[:-1] = np.abs(np.diff(pixels, axis=0)).max(axis=-1)
    right[:, :-1] = np.abs(np.diff(pixels, axis=1)).max(axis=-1)
    return np.asarray(np.maximum(down, right))


def _look_at_one(image: NDArray[np.uint8], gradient: Floats, found: ReviewedObject, scale: float) -> Floats:
    left, top, mask = _place(found, scale)
    window, inner = _windows(left, top, mask.shape, image.shape[:2])
    padded = np.pad(mask, _RING)
    inside = padded[inner]
    if inside.sum() < _FEWEST_PIXELS:
        return np.full(NUMBERS, np.nan, np.float32)
    pixels = image[window].astype(np.float32) / 255
    around = _grow(_grow(_grow(padded)))[inner] & ~inside
    border = (_grow(padded) & ~_shrink(padded))[inner]
    colours = pixels[inside]
    ring = pixels[around].mean(axis=0) if around.any() else colours.mean(axis=0)
    edges = gradient[window]
    edge = float(edges[border].mean()) / (float(edges[inside | around].mean()) + _FLAT) if border.any() else np.nan
    aspect = np.log(mask.shape[1] / mask.shape[0])
    return np.concatenate(
        [colours.mean(axis=0), colours.std(axis=0), ring, _to_grid(mask).ravel(), [aspect, edge]]
    ).astype(np.float32)


def _windows(
    left: int, top: int, crop_hw: tuple[int, int], image_hw: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return where a crop with a ring around it lies in the image, and the same part of the crop with its ring."""
    image_part, crop_part = [], []
    for start, length, side in ((top, crop_hw[0], image_hw[0]), (left, crop_hw[1], image_hw[1])):
        low, high = max(start - _RING, 0), max(min(start + length + _RING, side), 0)
        image_part.append(slice(low, high))
        crop_part.append(slice(low - start + _RING, high - start + _RING))
    return (image_part[0], image_part[1]), (crop_part[0], crop_part[1])


def _place(found: ReviewedObject, scale: float) -> tuple[int, int, NDArray[np.bool_]]:
    """Return left, top and the crop of an object's mask in an image of another scale; a box alone counts as filled."""
    cropped = crop_mask(found.mask) if found.mask is not None else None
    left, top, right, bottom = found.box_xyxy
    if cropped is not None:
        left, top, width, height = (float(value) for value in cropped[0])
        right, bottom = left + width, top + height
    x, y = max(int(left * scale), 0), max(int(top * scale), 0)
    columns, rows = max(round(right * scale) - x, 1), max(round(bottom * scale) - y, 1)
    if cropped is None:
        return x, y, np.ones((rows, columns), bool)
    return x, y, resample(cropped[1], rows, columns)


def resample(mask: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.bool_]:
    """Return a mask (h, w) at another size, by nearest neighbours; all sides positive."""
    down = ((np.arange(rows) + 0.5) * mask.shape[0] / rows).astype(np.int64)
    right = ((np.arange(columns) + 0.5) * mask.shape[1] / columns).astype(np.int64)
    return np.asarray(mask[down[:, None], right[None, :]], bool)


def _grow(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _shrink(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return ~_grow(~mask)


def _to_grid(mask: NDArray[np.bool_]) -> Floats:
    """Return (GRID, GRID): the share of each cell of its box that a mask fills."""
    sampled = resample(mask, 3 * GRID, 3 * GRID).astype(np.float32)
    return np.asarray(sampled.reshape(GRID, 3, GRID, 3).mean(axis=(1, 3)))


def misplaced(looks: Floats) -> NDArray[np.float64]:
    """Return how little an object's outline lies on edges of the image; (N,) in [0, 1], 0 where it is not known."""
    edge = looks[:, -1].astype(np.float64)
    known = np.isfinite(edge)
    if known.sum() < _FEWEST:
        return np.zeros(len(edge))
    usual = float(np.median(edge[known]))
    low = np.clip(1 - edge / max(usual, 1e-6), 0, 1)
    return np.where(known, low, 0.0)


def strangers(looks: Floats, classes: NDArray[np.int64], neighbours: int = 9) -> NDArray[np.float64]:
    """Return how few of the objects that look most alike have the same class; (N,) in [0, 1], 0 where not known."""
    known = np.flatnonzero(np.isfinite(looks).all(axis=1))
    result = np.zeros(len(looks))
    counts = np.bincount(classes[known], minlength=1) if len(known) else np.zeros(1)
    if len(known) < 2 * neighbours:
        return result
    features = _features(looks[known])
    squares = (features**2).sum(axis=1)
    own = classes[known]
    for start in range(0, len(known), _BLOCK):
        part = slice(start, start + _BLOCK)
        distances = squares[part, None] + squares[None, :] - 2 * features[part] @ features.T
        distances[np.arange(len(distances)), np.arange(start, start + len(distances))] = np.inf
        nearest = np.argpartition(distances, neighbours, axis=1)[:, :neighbours]
        away = np.take_along_axis(distances, nearest, axis=1)
        weights = 1 / (np.maximum(away, 0) + 0.05 * np.median(away) + 1e-9)
        same = own[nearest] == own[part, None]
        result[known[part]] = 1 - (weights * same).sum(axis=1) / weights.sum(axis=1)
    rare = counts[classes] <= 2
    return np.where(rare, result * 0.5, result)


def _features(looks: Floats) -> Floats:
    """Weigh colour, form and aspect so that each counts about the same."""
    form = looks[:, 9 : 9 + GRID * GRID]
    parts = (looks[:, :3] * 4, looks[:, 3:6] * 2, form * (4 / GRID), looks[:, -2:-1] * 0.5)
    return np.asarray(np.concatenate(parts, axis=1), np.float32)
