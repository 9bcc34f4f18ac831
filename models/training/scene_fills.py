"""Colours of the scene objects, and fills: flat, gradient, stripes, checks, noise."""

import colorsys
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

FloatArray = npt.NDArray[np.float32]

COLOURS: tuple[str, ...] = (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
)


# Below this extent, stripes and checks break a shape up: only flat and gradient are left.
FINEST_TEXTURE_PX = 28


@dataclass(frozen=True)
class Palette:
    """The range of HSV that a colour's name covers, and how far its shades go.

    Attributes:
        hue: Lowest and highest hue, degrees.
        saturation: Lowest and highest saturation, of 1.
        value: Lowest and highest value, of 1.
        darkest: Factor on the value in the darkest shade of a texture.
        whitest: Share of white in the lightest shade of a texture.
    """

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    darkest: float
    whitest: float


# Orange and yellow turn brown and olive when dark, red turns pink when light: narrow shades there.
PALETTES: dict[str, Palette] = {
    "red": Palette((-6, 4), (0.85, 1.0), (0.68, 0.95), 0.68, 0.08),
    "orange": Palette((23, 32), (0.88, 1.0), (0.94, 1.0), 0.86, 0.15),
    "yellow": Palette((52, 59), (0.75, 1.0), (0.9, 1.0), 0.85, 0.3),
    "green": Palette((105, 142), (0.6, 1.0), (0.42, 0.78), 0.65, 0.3),
    "cyan": Palette((178, 189), (0.6, 1.0), (0.85, 1.0), 0.75, 0.3),
    "blue": Palette((218, 234), (0.78, 1.0), (0.6, 1.0), 0.65, 0.2),
    "purple": Palette((268, 284), (0.6, 0.95), (0.5, 0.78), 0.75, 0.15),
    "pink": Palette((322, 340), (0.32, 0.5), (0.97, 1.0), 0.86, 0.25),
}


def sample_rgb(colour: str, rng: np.random.Generator) -> FloatArray:
    """Draw one RGB colour that deserves the name.

    Args:
        colour: One of COLOURS.
        rng: Source of chance.

    Returns:
        (3,) float32 in [0, 255].

    Raises:
        ValueError: colour is not one of COLOURS.
    """
    if colour not in PALETTES:
        raise ValueError(f"colour must be one of {', '.join(COLOURS)}, not {colour!r}")
    palette = PALETTES[colour]
    hue = rng.uniform(*palette.hue) % 360 / 360
    rgb = colorsys.hsv_to_rgb(hue, rng.uniform(*palette.saturation), rng.uniform(*palette.value))
    return np.array(rgb, dtype=np.float32) * 255


def grid_noise(height: int, width: int, cell_px: float, rng: np.random.Generator) -> FloatArray:
    """Make smooth noise: random cells, interpolated.

    Args:
        height: Rows, pixels, positive.
        width: Columns, pixels, positive.
        cell_px: Side of a cell, pixels, at least 1.
        rng: Source of chance.

    Returns:
        (height, width) float32 in [0, 1].
    """
    rows, columns = math.ceil(height / cell_px) + 1, math.ceil(width / cell_px) + 1
    cells = rng.random((rows, columns), dtype=np.float32)
    smooth = Image.fromarray(cells).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(smooth)


def waves(height: int, width: int, period_px: float, angle: float, phase: float, sharp: bool) -> FloatArray:
    """Make parallel stripes.

    Args:
        height: Rows, pixels, positive.
        width: Columns, pixels, positive.
        period_px: Distance from one light stripe to the next, pixels.
        angle: Direction across the stripes, radians.
        phase: Shift, radians.
        sharp: Whether the stripes have hard edges.

    Returns:
        (height, width) float32 in [0, 1].
    """
    x = np.arange(width, dtype=np.float32) * np.float32(2 * math.pi * math.cos(angle) / period_px)
    y = np.arange(height, dtype=np.float32) * np.float32(2 * math.pi * math.sin(angle) / period_px)
    turns = x[None, :] + y[:, None] + np.float32(phase)
    wave: FloatArray = np.sin(turns)
    return (wave > 0).astype(np.float32) if sharp else wave * np.float32(0.5) + np.float32(0.5)


def ramp(height: int, width: int, angle: float) -> FloatArray:
    """Make a linear gradient.

    Args:
        height: Rows, pixels, positive.
        width: Columns, pixels, positive.
        angle: Direction of the rise, radians.

    Returns:
        (height, width) float32 in [0, 1], from 0 to 1 over the rectangle.
    """
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(math.cos(angle))
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(math.sin(angle))
    half = np.float32((abs(math.cos(angle)) + abs(math.sin(angle))) / 2)
    rise: FloatArray = (x[None, :] + y[:, None] + half) / (2 * half)
    return rise


def sample_fill(colour: str, height: int, width: int, rng: np.random.Generator) -> FloatArray:
    """Draw the inside of an object: one colour, flat or textured by its own shades.

    Args:
        colour: One of COLOURS.
        height: Rows, pixels, positive.
        width: Columns, pixels, positive.
        rng: Source of chance.

    Returns:
        (1, 1, 3) float32 where flat, else (height, width, 3) float32; values in [0, 255].

    Raises:
        ValueError: colour is not one of COLOURS.
    """
    base = sample_rgb(colour, rng)
    kind = rng.random()
    if kind < 0.4:
        return base.reshape(1, 1, 3)
    palette = PALETTES[colour]
    depth = np.float32(rng.uniform(0.5, 1.0))
    dark = base * (1 - depth * np.float32(1 - palette.darkest))
    light = base + depth * np.float32(palette.whitest) * (255 - base)
    angle, phase = rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi)
    extent = max(height, width)
    if kind < 0.6 or extent < FINEST_TEXTURE_PX:
        level = ramp(height, width, angle)
    elif kind < 0.75:
        period = rng.uniform(max(4.0, extent / 8), max(7.0, extent / 3))
        level = waves(height, width, period, angle, phase, bool(rng.random() < 0.6))
    elif kind < 0.87:
        level = grid_noise(height, width, rng.uniform(1.5, max(3.0, extent / 8)), rng)
    else:
        period = rng.uniform(max(5.0, extent / 6), max(9.0, extent / 2.5))
        first = waves(height, width, period, angle, phase, True)
        level = np.abs(first - waves(height, width, period, angle + math.pi / 2, phase, True))
    filled: FloatArray = dark + level[:, :, None] * (light - dark)
    return filled


def sample_outline_rgb(colour: str, rng: np.random.Generator) -> FloatArray:
    """Draw the colour of an outline: near black, near white, or the object's own colour, dark.

    Args:
        colour: One of COLOURS.
        rng: Source of chance.

    Returns:
        (3,) float32 in [0, 255].

    Raises:
        ValueError: colour is not one of COLOURS.
    """
    kind = rng.random()
    if kind < 0.4:
        return np.full(3, rng.uniform(5, 55), dtype=np.float32)
    if kind < 0.7:
        return np.full(3, rng.uniform(215, 252), dtype=np.float32)
    return sample_rgb(colour, rng) * np.float32(rng.uniform(0.3, 0.5))
