"""Masks as polygons along the edges of their pixels, and back.

Coordinates are pixel edges: a mask of the one pixel in the corner is the square (0, 0) (1, 0) (1, 1) (0, 1). Drawn
again by pycocotools, such polygons give the same mask to the pixel, while polygons through pixel centres lose half a
pixel all around. Holes and further parts are joined by cut lines: the outline goes to the hole and comes back the
same way.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from models.mask_crops import crop_mask
from models.masks import Rle, mask_iou

Points = NDArray[np.float64]
"""(K, 2) x and y in pixels, K at least 3; the last point is followed by the first."""


@dataclass(frozen=True, eq=False)
class Part:
    """A connected part of a mask: its outline and those of its holes."""

    outline: Points
    holes: tuple[Points, ...]

    @property
    def area(self) -> float:
        """Square pixels inside of the outline, holes included."""
        x, y = self.outline.T
        return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)

    def with_cuts(self) -> Points:
        """Return one polygon that leaves the holes out."""
        return join_rings([self.outline, *self.holes])


def mask_to_parts(mask: Rle, epsilon: float = 0.0) -> list[Part]:
    """Return the connected parts of a mask, the largest first.

    Pixels that touch at a corner are connected.

    Args:
        mask: Of the image's size; without a pixel it has no parts.
        epsilon: Most pixels by which an outline may be simplified (Douglas-Peucker); 0 keeps every corner.

    Source: OpenCV's findContours on a mask with doubled pixels, so that contour points fall on pixel edges.
    """
    cropped = crop_mask(mask)
    if cropped is None:
        return []
    box, inside = cropped
    doubled = np.repeat(np.repeat(inside.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = tree[0][:, 3].tolist()
    rings = [_simplify(_to_edges(np.asarray(contour[:, 0], dtype=np.int32)), epsilon) + box[:2] for contour in contours]
    holes: dict[int, list[Points]] = {}
    for ring, parent in zip(rings, parents, strict=True):
        if parent >= 0:
            holes.setdefault(parent, []).append(ring)
    outlines = [row for row, parent in enumerate(parents) if parent < 0]
    parts = [Part(rings[row], tuple(holes.get(row, []))) for row in outlines]
    return sorted(parts, key=lambda part: (-part.area, part.outline[:, 1].min(), part.outline[:, 0].min()))


def join_rings(rings: list[Points]) -> Points:
    """Return one polygon of several: each next ring is entered and left by a cut line between the nearest corners.

    Args:
        rings: At least one.
    """
    joined = rings[0]
    for ring in rings[1:]:
        gaps = ((joined[:, None, :] - ring[None]) ** 2).sum(axis=2)
        leave, enter = np.unravel_index(int(gaps.argmin()), gaps.shape)
        tour = np.roll(ring, -int(enter), axis=0)
        joined = np.concatenate([joined[: leave + 1], tour, tour[:1], joined[leave:]])
    return joined


def mask_to_polygon(mask: Rle, epsilon: float = 0.0) -> Points:
    """Return one polygon for a whole mask, holes and all parts joined by cut lines.

    Args:
        mask: With at least one pixel.
        epsilon: As in `mask_to_parts`.
    """
    return join_rings([part.with_cuts() for part in mask_to_parts(mask, epsilon)])


def polygons_iou(polygons: list[Points], mask: Rle) -> float:
    """Return the IoU of polygons, as pycocotools draws them, with a mask."""
    drawn = coco_mask.merge(coco_mask.frPyObjects([polygon.ravel().tolist() for polygon in polygons], *mask.size))
    return float(mask_iou([Rle.from_coco(drawn)], [mask])[0, 0])


def min_area_corners(mask: Rle) -> Points:
    """Return the corners of the smallest rectangle, turned as it may be, around all pixels of a mask.

    Returns:
        (4, 2) pixels, clockwise as seen on the screen, from the corner nearest to the image's top-left.
    """
    outline = np.concatenate([part.outline for part in mask_to_parts(mask)]).astype(np.float32)
    return order_corners(np.asarray(cv2.boxPoints(cv2.minAreaRect(outline)), dtype=np.float64))


def order_corners(corners: Points) -> Points:
    """Return four corners clockwise as seen on the screen, from the one nearest to the image's top-left."""
    angles = np.arctan2(*(corners - corners.mean(axis=0)).T[::-1])
    clockwise = corners[np.argsort(angles)]
    sums = clockwise.sum(axis=1).round(6)
    first = np.lexsort((clockwise[:, 1], sums))[0]
    return np.asarray(np.roll(clockwise, -int(first), axis=0))


def box_corners(box_xyxy: tuple[float, float, float, float]) -> Points:
    """Return the corners of an upright box, clockwise from the top-left."""
    left, top, right, bottom = box_xyxy
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def _to_edges(contour: NDArray[np.int32]) -> Points:
    """Turn a contour through doubled pixels into the corners of the pixels' edges, without points on a straight line.

    Column 2x of the doubled mask is the left half of pixel x and stands for its left edge, x; column 2x + 1 stands for
    its right edge, x + 1.
    """
    edges = (contour + 1) // 2
    edges = edges[np.any(edges != np.roll(edges, 1, axis=0), axis=1)]
    before, after = edges - np.roll(edges, 1, axis=0), np.roll(edges, -1, axis=0) - edges
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return np.asarray(edges[turns], dtype=np.float64)


def _simplify(ring: Points, epsilon: float) -> Points:
    if epsilon == 0:
        return ring
    fewer = cv2.approxPolyDP(ring.astype(np.float32)[:, None], epsilon, True)[:, 0]
    return np.asarray(fewer, dtype=np.float64) if len(fewer) >= 3 else ring
