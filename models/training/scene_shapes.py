"""Geometry of the scene shapes: a unit polygon a name, drawn as an antialiased stamp."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

SHAPES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "diamond",
    "heart",
    "crescent",
    "ring",
    "arrow",
)

RING_HOLE = 0.55
DIAMOND_RATIO = 1.7


@dataclass(frozen=True)
class Stamp:
    """One drawn shape on its own tight canvas.

    Attributes:
        alpha: (h, w) uint8, coverage of each pixel by the shape, outline included.
        outline: (h, w) uint8, how far the outline colour replaces the fill; all 0 without outline.
    """

    alpha: ByteArray
    outline: ByteArray

    @cached_property
    def mask(self) -> BoolArray:
        """(h, w) bool: the pixels that the shape covers by half or more."""
        return self.alpha >= 128

    @cached_property
    def area_px(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))


def _circle(radius: float = 1.0, start: float = 0.0, stop: float = 2 * math.pi) -> FloatArray:
    count = max(8, round(56 * abs(stop - start) / (2 * math.pi)))
    angles = np.linspace(start, stop, count, endpoint=abs(stop - start) < 6.28)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * radius


def _regular(corners: int) -> FloatArray:
    angles = -math.pi / 2 + 2 * math.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _star() -> FloatArray:
    points = _regular(10)
    points[1::2] *= 0.42
    return points


def _cross() -> FloatArray:
    a, b = 1.0, 0.34
    return np.array(
        [
            [-b, -a], [b, -a], [b, -b], [a, -b], [a, b], [b, b],
            [b, a], [-b, a], [-b, b], [-a, b], [-a, -b], [-b, -b],
        ],
        dtype=np.float32,
    )  # fmt: skip


def _heart() -> FloatArray:
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1).astype(np.float32)


def _crescent() -> FloatArray:
    radius, shift = 0.85, 0.48
    x = (1 - radius**2 + shift**2) / (2 * shift)
    y = math.sqrt(1 - x**2)
    outer = math.atan2(y, x)
    inner = math.atan2(y, x - shift)
    back = _circle(1.0, outer, 2 * math.pi - outer)
    bite = _circle(radius, 2 * math.pi - inner, inner) + np.array([shift, 0], dtype=np.float32)
    return np.concatenate([back, bite[1:-1]])


def _arrow() -> FloatArray:
    return np.array(
        [[-1, -0.2], [0.05, -0.2], [0.05, -0.62], [1, 0], [0.05, 0.62], [0.05, 0.2], [-1, 0.2]],
        dtype=np.float32,
    )


@lru_cache(maxsize=len(SHAPES))
def shape_polygon(shape: str) -> FloatArray:
    """Give a shape's outer contour, upright, in units of its own.

    Args:
        shape: One of SHAPES.

    Returns:
        (K, 2) float32, x y, y downwards, around the origin. A ring's is its outer circle; its hole
        is the same contour scaled by RING_HOLE.

    Raises:
        ValueError: shape is not one of SHAPES.
    """
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float32)
    rhombus = np.array([[0, -DIAMOND_RATIO], [1, 0], [0, DIAMOND_RATIO], [-1, 0]], dtype=np.float32)
    if shape in ("circle", "ring"):
        return _circle()
    if shape == "square":
        return square
    if shape == "diamond":
        return rhombus
    makers = {"star": _star, "cross": _cross, "heart": _heart}
    makers |= {"crescent": _crescent, "arrow": _arrow, "triangle": lambda: _regular(3)}
    if shape not in makers:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, not {shape!r}")
    return makers[shape]()


def fit_polygon(points: FloatArray, extent_px: float, angle: float, stretch: float = 1.0) -> FloatArray:
    """Stretch, rotate and scale a contour so that its longest upright extent is as asked.

    Args:
        points: (K, 2) float32, K at least 3.
        extent_px: Longer side of the result's upright bounding box, pixels.
        angle: Rotation, radians.
        stretch: Factor on x before rotation.

    Returns:
        (K, 2) float32, pixels; its bounding box starts at (0, 0).
    """
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = points[:, 0] * stretch, points[:, 1]
    turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)
    turned -= turned.min(axis=0)
    scaled: FloatArray = (turned * (extent_px / turned.max())).astype(np.float32)
    return scaled


def stamp_polygon(points: FloatArray, hole: float = 0.0, outline_px: float = 0.0) -> Stamp:
    """Draw a contour, supersampled on its own canvas.

    Args:
        points: (K, 2) float32, pixels, its bounding box starting at (0, 0).
        hole: Scale of the contour, about the centre of its box, that is cut out; 0 for none.
        outline_px: Width of the outline inside the contour, pixels; 0 for none.

    Returns:
        The stamp, a pixel of margin on each side.
    """
    extents = points.max(axis=0)
    width, height = math.ceil(extents[0]) + 2, math.ceil(extents[1]) + 2
    factor = 3 if max(width, height) <= 80 else 2
    # Pillow puts coordinate 0 at the centre of pixel 0, hence the half pixel.
    centre = np.array([width, height], dtype=np.float32) * (factor / 2) - 0.5
    around = (points - extents / 2) * factor
    rings = [around, around * hole] if hole > 0 else [around]
    canvas = Image.new("L", (width * factor, height * factor))
    draw = ImageDraw.Draw(canvas)
    for ring, value in zip(rings, (255, 0), strict=False):
        draw.polygon((ring + centre).ravel().tolist(), fill=value)
    alpha = np.asarray(canvas.reduce(factor))
    if outline_px <= 0:
        return Stamp(alpha, np.zeros_like(alpha))
    edge = Image.new("L", canvas.size)
    draw = ImageDraw.Draw(edge)
    # The line is centred on the contour and the shape hides its outer half.
    line_px = max(2, round(2 * outline_px * factor))
    for ring in rings:
        closed = np.concatenate([ring, ring[:2]]) + centre
        draw.line(closed.ravel().tolist(), fill=255, width=line_px)
    return Stamp(alpha, np.asarray(edge.reduce(factor)))


def stamp_shape(shape: str, extent_px: float, angle: float, stretch: float = 1.0, outline_px: float = 0.0) -> Stamp:
    """Draw one of SHAPES.

    Args:
        shape: One of SHAPES.
        extent_px: Longer side of the upright bounding box, pixels, at least 3.
        angle: Rotation, radians.
        stretch: Factor on the upright shape's width.
        outline_px: Width of the outline, pixels; 0 for none.

    Returns:
        The stamp.

    Raises:
        ValueError: shape is unknown or extent_px is below 3.
    """
    if extent_px < 3:
        raise ValueError(f"extent_px must be at least 3, not {extent_px}")
    points = fit_polygon(shape_polygon(shape), extent_px, angle, stretch)
    return stamp_polygon(points, RING_HOLE if shape == "ring" else 0.0, outline_px)
