"""Where the objects of a scene go: size, place and occlusion, so that each can still be named."""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from models.training.scene_fills import sample_fill, sample_outline_rgb
from models.training.scene_shapes import Stamp, stamp_shape

ByteArray = npt.NDArray[np.uint8]

OUTLINE_SHARE = 0.35
EXTENT_RANGE = (0.08, 0.6)
MIN_VISIBLE = 0.65
MIN_INSIDE = 0.85
MAX_SAME_COLOUR_OVERLAP = 0.03
MAX_STRETCH = 1.15


def _inside(stamp: Stamp, left: int, top: int, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the image and of the stamp where the two meet."""
    height, width = stamp.alpha.shape
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, size), min(top + height, size)
    source = (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
    return (slice(y1, y2), slice(x1, x2)), source


@dataclass
class Canvas:
    """The picture so far, who owns each pixel, and how much of each object is left to see.

    Attributes:
        image: (S, S, 3) uint8 RGB, drawn on in place.
        owners: (S, S) int8, 1 + index of the object seen at each pixel, 0 for the background.
        labels: Name of each object, back to front.
        full_px: Pixels of each object's whole mask, those outside the image too.
        seen_px: Pixels of each object that are visible.
    """

    image: ByteArray
    owners: npt.NDArray[np.int8]
    labels: list[str] = field(default_factory=list)
    full_px: list[int] = field(default_factory=list)
    seen_px: list[int] = field(default_factory=list)

    def room_for(self, label: str, stamp: Stamp, left: int, top: int) -> bool:
        """Tell whether the stamp, there, and every object under it stay visible and nameable.

        Args:
            label: Name of the new object, of PAIRS.
            stamp: Its drawing.
            left: Column of the stamp's first pixel; may be negative.
            top: Row of the stamp's first pixel; may be negative.

        Returns:
            True where MIN_INSIDE, MIN_VISIBLE and MAX_SAME_COLOUR_OVERLAP all hold.
        """
        target, source = _inside(stamp, left, top, self.owners.shape[0])
        mask = stamp.mask[source]
        own = int(np.count_nonzero(mask))
        if own < MIN_INSIDE * stamp.area_px:
            return False
        covered = np.bincount(self.owners[target][mask], minlength=len(self.labels) + 1)[1:]
        colour = label.split(maxsplit=1)[0]
        for index in np.flatnonzero(covered):
            if self.seen_px[index] - covered[index] < MIN_VISIBLE * self.full_px[index]:
                return False
            same = self.labels[index].split(maxsplit=1)[0] == colour
            if same and covered[index] > MAX_SAME_COLOUR_OVERLAP * min(own, self.full_px[index]):
                return False
        return True

    def paint(self, label: str, stamp: Stamp, left: int, top: int, rng: np.random.Generator) -> None:
        """Draw the stamp in a fill of its colour and take its pixels over.

        Args:
            label: Name of the new object, of PAIRS.
            stamp: Its drawing.
            left: Column of the stamp's first pixel; may be negative.
            top: Row of the stamp's first pixel; may be negative.
            rng: Source of chance.
        """
        target, source = _inside(stamp, left, top, self.owners.shape[0])
        colour = label.split(maxsplit=1)[0]
        height, width = stamp.alpha.shape
        fill = sample_fill(colour, height, width, rng)
        if stamp.outline.any():
            edge = stamp.outline[:, :, None] * np.float32(1 / 255)
            fill = fill + edge * (sample_outline_rgb(colour, rng) - fill)
        alpha = stamp.alpha[source][:, :, None] * np.float32(1 / 255)
        fill = fill if fill.shape[:2] == (1, 1) else fill[source]
        below = self.image[target]
        self.image[target] = (below + alpha * (fill - below)).astype(np.uint8)
        mask = stamp.mask[source]
        window = self.owners[target]
        covered = np.bincount(window[mask], minlength=len(self.labels) + 1)[1:]
        self.seen_px = [seen - int(lost) for seen, lost in zip(self.seen_px, covered, strict=True)]
        self.labels.append(label)
        self.full_px.append(stamp.area_px)
        self.seen_px.append(int(np.count_nonzero(mask)))
        window[mask] = len(self.labels)


def place_object(canvas: Canvas, label: str, rng: np.random.Generator) -> None:
    """Find a place for one more object, smaller each time there is none; give up in the end.

    Args:
        canvas: What is drawn on and kept account in.
        label: Name of the new object, of PAIRS.
        rng: Source of chance.
    """
    size = canvas.owners.shape[0]
    low, high = EXTENT_RANGE
    share = math.exp(rng.uniform(math.log(low), math.log(high)))
    angle = rng.uniform(0, 2 * math.pi)
    stretch = math.exp(rng.uniform(-1, 1) * math.log(MAX_STRETCH))
    outlined = rng.random() < OUTLINE_SHARE
    thickness = rng.uniform(0.02, 0.05)
    shape = label.split()[1]
    for _ in range(4):
        extent = share * size
        outline_px = min(4.0, max(1.0, thickness * extent)) if outlined else 0.0
        stamp = stamp_shape(shape, extent, angle, stretch, outline_px)
        height, width = stamp.alpha.shape
        for _ in range(6):
            left = round(rng.uniform(-0.15 * width, size - 0.85 * width))
            top = round(rng.uniform(-0.15 * height, size - 0.85 * height))
            if canvas.room_for(label, stamp, left, top):
                canvas.paint(label, stamp, left, top, rng)
                return
        share = max(low, share * 0.65)
