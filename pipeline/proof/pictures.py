"""The images with the most work left, drawn with what is right, wrong and missed."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.masks import Rle, decode_mask
from pipeline.images import UnreadableImageError, prepare_decoding, read_image
from pipeline.preview import Rgb, free_place, ink_on, tint_mask
from pipeline.proof.evaluate import Evaluation
from pipeline.proof.mistakes import IGNORED, MISTAKES, RIGHT
from pipeline.proof.pairing import Pair

MOST_PICTURES = 12
COLORS: Mapping[str, Rgb] = {
    RIGHT: (46, 170, 80),
    "class": (240, 150, 20),
    "localisation": (250, 210, 40),
    "both": (200, 120, 60),
    "duplicate": (160, 90, 220),
    "background": (225, 45, 45),
    "missed": (30, 140, 255),
}
"""Colour of a mistake, in pictures and in the report."""
_ROOM = (560, 420)
"""Width and height in pixels that a picture has."""
_GREY: Rgb = (96, 100, 108)
_NO_TINT = (RIGHT,)


@dataclass(frozen=True)
class Mark:
    """Something to draw: a box in pixels of the image (x1 y1 x2 y2), its mask or None, and what it is."""

    box_xyxy: NDArray[np.float64]
    mask: Rle | None
    kind: str
    text: str


@dataclass(frozen=True)
class Picture:
    """One image of the report.

    Attributes:
        path: Of the image.
        clicks: That it needs.
        counts: Marks by kind.
        data: A JPEG as a data URI.
        size: (width, height) of the picture in pixels.
        note: Why the image itself is not shown; empty where it is.
    """

    path: str
    clicks: int
    counts: Mapping[str, int]
    data: str
    size: tuple[int, int]
    note: str


def draw_worst(evaluation: Evaluation, most: int = MOST_PICTURES) -> list[Picture]:
    """Draw the images that need the most clicks; of equal ones, the first come first. Images that need none are not.

    Args:
        evaluation: What was found out.
        most: How many at most.
    """
    prepare_decoding()
    clicks = evaluation.clicks.labels_by_image
    worst = [int(row) for row in np.argsort(-clicks, kind="stable")[:most] if clicks[row] > 0]
    marks = _marks(evaluation, set(worst))
    return [_draw(evaluation.pair, row, int(clicks[row]), marks[row]) for row in worst]


def _marks(evaluation: Evaluation, images: set[int]) -> dict[int, list[Mark]]:
    """Return what to draw in each of some images; right labels first, so that mistakes lie on top."""
    pair = evaluation.pair
    kind = "masks" if "masks" in evaluation.mistakes else "boxes"
    mistakes, matches = evaluation.mistakes[kind], evaluation.scores[kind].matches
    marks: dict[int, list[Mark]] = {row: [] for row in images}
    for row, what in zip(matches.rows, mistakes.kinds, strict=True):
        image, score = int(pair.found.image_rows[row]), float(pair.found.scores[row])
        if image in marks and what != IGNORED and score >= evaluation.min_score:
            name = pair.names[pair.found.class_rows[row]]
            text = f"{what}: {name} {score:.2f}" if pair.has_scores else f"{what}: {name}"
            marks[image].append(Mark(_corners(pair.found.boxes_xywh[row]), pair.found.masks[row], what, text))
    too_low = pair.found.scores[matches.rows] < evaluation.min_score
    lost = matches.truth_rows[0][too_low & (np.array(mistakes.kinds) == RIGHT)]
    for row in np.concatenate([mistakes.missed_rows, lost]):
        if (image := int(pair.truth.image_rows[row])) in marks:
            text = f"missed: {pair.names[pair.truth.class_rows[row]]}"
            marks[image].append(Mark(_corners(pair.truth.boxes_xywh[row]), pair.truth.masks[row], "missed", text))
    order = {kind: place for place, kind in enumerate((RIGHT, *MISTAKES))}
    return {image: sorted(some, key=lambda mark: order[mark.kind]) for image, some in marks.items()}


def _corners(box_xywh: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([box_xywh[:2], box_xywh[:2] + box_xywh[2:]])


def _draw(pair: Pair, row: int, clicks: int, marks: list[Mark]) -> Picture:
    image, note = _read(pair, row)
    scale = min(_ROOM[0] / image.width, _ROOM[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS), dtype=np.float32).copy()
    for mark in marks:
        if mark.mask is not None and mark.kind not in _NO_TINT:
            tint_mask(pixels, decode_mask(mark.mask), COLORS[mark.kind], size)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    taken: list[tuple[float, float, float, float]] = []
    for mark in marks:
        left, top, right, bottom = (float(edge) for edge in mark.box_xyxy * scale)
        left, top = min(max(left, 0.0), size[0] - 2.0), min(max(top, 0.0), size[1] - 2.0)
        edges = (left, top, max(left + 1, min(right, size[0] - 1.0)), max(top + 1, min(bottom, size[1] - 1.0)))
        draw.rectangle(edges, outline=COLORS[mark.kind], width=1 if mark.kind == RIGHT else 2)
    for mark in reversed(marks):
        if mark.kind == RIGHT:
            continue
        box = (mark.box_xyxy * scale).astype(np.float32)
        place = free_place(box, draw.textbbox((0, 0), mark.text, font), taken, size)
        if place is not None:
            draw.rectangle(place, fill=COLORS[mark.kind])
            draw.text((place[0] + 3, place[3] - 3), mark.text, ink_on(COLORS[mark.kind]), font, anchor="ls")
            taken.append(place)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80, subsampling=0)
    data = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    counts = {kind: sum(mark.kind == kind for mark in marks) for kind in COLORS}
    return Picture(pair.images[row].path, clicks, counts, data, size, note)


def _read(pair: Pair, row: int) -> tuple[Image.Image, str]:
    """Return an image, or a grey one of its size and why."""
    height, width = pair.images[row].image_hw
    file = pair.image_file(row)
    if file is None:
        return Image.new("RGB", (width, height), _GREY), "the image file was not found; say where with --images"
    try:
        image = read_image(file)
    except UnreadableImageError as error:
        return Image.new("RGB", (width, height), _GREY), f"the image cannot be read: {error}"
    if image.shape[:2] != (height, width):
        return Image.new("RGB", (width, height), _GREY), "the image file has another size than the labels say"
    return Image.fromarray(image), ""
