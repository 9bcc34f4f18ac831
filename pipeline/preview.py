"""A contact sheet of labelled images: mask fills, boxes, class and score, and a legend."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from models.masks import decode_mask
from models.ontology import Ontology
from pipeline.errors import UserError
from pipeline.export.labels import Labels
from pipeline.images import UnreadableImageError, prepare_decoding, read_image
from pipeline.records import AnnotatedImage

Rgb = tuple[int, int, int]
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_BACKGROUND: Rgb = (24, 26, 31)
_PANEL: Rgb = (38, 41, 48)
_TEXT: Rgb = (240, 242, 245)
_DIM_TEXT: Rgb = (160, 166, 176)
_GAP = 14
_CAPTION = 26
_FILL = 0.28
_CROWD = 12
_MAX_COLUMNS = 4
_MAX_LEGEND = 40
_WIDEST_SIDE = {1: 960, 2: 640, 3: 520, 4: 420}
"""Columns -> side of a cell in pixels."""


@dataclass(frozen=True)
class PreviewResult:
    """What a contact sheet shows.

    Attributes:
        output: The file.
        images: Images on it.
        objects: Objects drawn on them.
    """

    output: Path
    images: int
    objects: int


def make_preview(labels: Labels, output: str | Path, count: int = 24, class_name: str | None = None) -> PreviewResult:
    """Draw a contact sheet of some images of a run.

    The images are a fixed sample that does not depend on the order of the run; those with objects come first.

    Args:
        labels: The run; read once, only the chosen records are held.
        output: A .jpg or .png file.
        count: How many images at most, at least 1.
        class_name: Show only images and objects of this class; letter case does not matter.

    Raises:
        UserError: No such class, nothing to show, an image is gone, or the file name has another ending.
    """
    output = Path(output)
    if output.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError(f"{output}: the preview is a .jpg or .png file")
    if count < 1:
        raise UserError(f"--n must be at least 1, not {count}")
    chosen = _choose(labels, count, class_name)
    if not chosen:
        what = f"no image with the class {class_name!r}" if class_name else "no labelled image"
        raise UserError(f"{labels.folder}: {what} to show")
    prepare_decoding()
    columns = min(_MAX_COLUMNS, math.ceil(math.sqrt(len(chosen))))
    side = _WIDEST_SIDE[columns]
    rows = []
    for start in range(0, len(chosen), columns):
        records = chosen[start : start + columns]
        pictures = [_draw_picture(labels, record, side) for record in records]
        size = side, max(picture.height for picture in pictures)
        rows.append([frame_picture(*pair, size) for pair in zip(pictures, records, strict=True)])
    sheet = arrange_sheet(rows, sheet_width(columns, side), _legend(labels.ontology, chosen))
    output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(output, quality=90)
    return PreviewResult(output, len(chosen), sum(len(record.instances) for record in chosen))


def draw_labels(image: NDArray[np.uint8], record: AnnotatedImage, colors: Sequence[Rgb], side: int) -> Image.Image:
    """Draw the labels of one image on it.

    Args:
        image: (H, W, 3) uint8 RGB, of the record's size.
        record: N objects, N may be 0.
        colors: One (red, green, blue) a class, in the order of the class ids.
        side: The longer side of the result, pixels.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    found = record.instances.detections
    largest_first = np.argsort(-np.prod(found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2], axis=1), kind="stable")
    pixels = np.asarray(picture, dtype=np.float32).copy()
    for row in largest_first:
        tint_mask(pixels, decode_mask(record.instances.masks[row]), colors[found.class_ids[row] - 1], size)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    line = 2 if len(record.instances) <= _CROWD else 1
    for row in largest_first:
        box = [float(edge) for edge in found.boxes_xyxy[row] * scale]
        box[2:] = [max(box[0], min(box[2], size[0] - 1)), max(box[1], min(box[3], size[1] - 1))]
        draw.rectangle(box, outline=colors[found.class_ids[row] - 1], width=line)
    _tag_objects(draw, record, colors, scale, size)
    return picture


def _choose(labels: Labels, count: int, class_name: str | None) -> list[AnnotatedImage]:
    class_id = None
    if class_name is not None:
        wanted = " ".join(class_name.lower().split())
        ids = {spec.name.lower(): spec.id for spec in labels.ontology.classes}
        if wanted not in ids:
            known = ", ".join(spec.name for spec in labels.ontology.classes[:20])
            raise UserError(f"{labels.folder} has no class {class_name!r}; its classes are {known}")
        class_id = ids[wanted]
    records = (record for record in labels.records() if isinstance(record, AnnotatedImage))
    if class_id is not None:
        only = (_of_class(record, class_id) for record in records)
        records = (record for record in only if len(record.instances))
    # An image id is a hash, so the smallest ids are a sample that is spread over the run.
    sample = heapq.nsmallest(count, records, key=lambda record: (len(record.instances) == 0, record.image_id))
    return sorted(sample, key=lambda record: record.path)


def _of_class(record: AnnotatedImage, class_id: int) -> AnnotatedImage:
    keep = np.flatnonzero(record.instances.detections.class_ids == class_id)
    texts = (tuple(column[row] for row in keep) for column in (record.instance_ids, record.class_names, record.prompts))
    return AnnotatedImage(record.image_id, record.path, record.instances[keep], *texts)


def _draw_picture(labels: Labels, record: AnnotatedImage, side: int) -> Image.Image:
    path = labels.image_path(record)
    try:
        image = read_image(path)
    except UnreadableImageError as error:
        raise UserError(f"{path}: cannot be shown: {error}") from error
    if image.shape[:2] != record.image_hw:
        raise UserError(f"{path}: the image is not the one that was labelled (another size); annotate it again")
    return draw_labels(image, record, labels.ontology.colors, side)


def frame_picture(
    picture: Image.Image, record: AnnotatedImage, size: tuple[int, int], title: str | None = None
) -> Image.Image:
    """Put a picture into a cell of this (width, height), above its caption: a title, or the image's path."""
    width, height = size
    cell = Image.new("RGB", (width, height + _CAPTION), _PANEL)
    cell.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    count = len(record.instances)
    draw, font = ImageDraw.Draw(cell), _font(14)
    tail = f"{count} object{'' if count == 1 else 's'}" if count else "nothing found"
    draw.text((width - 8, height + 5), tail, _DIM_TEXT, font, anchor="ra")
    room = width - 24 - int(draw.textlength(tail, font))
    draw.text((8, height + 5), _shorten(record.path if title is None else title, font, room), _TEXT, font)
    return cell


def _shorten(text: str, font: Font, width: int) -> str:
    """Return the text, or its end after an ellipsis where it is wider than `width` pixels."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    if font.getlength(printable) <= width:
        return printable
    while printable and font.getlength("…" + printable) > width:
        printable = printable[1:]
    return "…" + printable


def tint_mask(pixels: NDArray[np.float32], mask: NDArray[np.bool_], color: Rgb, size: tuple[int, int]) -> None:
    """Tint the mask's pixels in place and draw its outline."""
    smooth = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    inside = np.asarray(smooth) >= 128
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    tint = np.array(color, dtype=np.float32)
    pixels[inside] = (1 - _FILL) * pixels[inside] + _FILL * tint
    pixels[inside & ~core] = 0.25 * pixels[inside & ~core] + 0.75 * tint


def _tag_objects(
    draw: ImageDraw.ImageDraw, record: AnnotatedImage, colors: Sequence[Rgb], scale: float, size: tuple[int, int]
) -> None:
    """Write class and score at each box where no other tag stands; only the score where there is little room."""
    found = record.instances.detections
    font = _font(15 if len(record.instances) <= _CROWD else 12)
    taken: list[tuple[float, float, float, float]] = []
    for row in np.argsort(-found.scores, kind="stable"):
        score = f"{found.scores[row]:.2f}"
        for text in (f"{record.class_names[row]} {score}", score):
            place = free_place(found.boxes_xyxy[row] * scale, draw.textbbox((0, 0), text, font), taken, size)
            if place is not None:
                color = colors[found.class_ids[row] - 1]
                draw.rectangle(place, fill=color)
                draw.text((place[0] + 3, place[3] - 3), text, ink_on(color), font, anchor="ls")
                taken.append(place)
                break


def free_place(
    box: NDArray[np.float32],
    text_box: tuple[float, float, float, float],
    taken: Sequence[tuple[float, float, float, float]],
    size: tuple[int, int],
) -> tuple[float, float, float, float] | None:
    """Return where a tag fits on the picture without covering another: above, inside, or below its box."""
    width, height = text_box[2] + 6, text_box[3] + 4
    left, top, right, bottom = (float(edge) for edge in box)
    inside_left = min(max(left, 0.0), size[0] - 1 - width)
    for x, y in (
        (inside_left, top - height),
        (inside_left, top),
        (max(0.0, right - width), top - height),
        (inside_left, bottom - height),
        (inside_left, bottom),
    ):
        place = (x, y, x + width, y + height)
        on_picture = place[0] >= 0 and place[1] >= 0 and place[2] < size[0] and place[3] < size[1]
        apart = all(
            place[2] < other[0] or other[2] < place[0] or place[3] < other[1] or other[3] < place[1] for other in taken
        )
        if on_picture and apart:
            return place
    return None


def _legend(ontology: Ontology, chosen: Sequence[AnnotatedImage]) -> list[tuple[str, Rgb]]:
    """Return "name  count" and colour of each class that is on the sheet, in the order of the ids."""
    counts = np.zeros(len(ontology.classes), dtype=np.int64)
    for record in chosen:
        np.add.at(counts, record.instances.detections.class_ids - 1, 1)
    entries = [(f"{spec.name}  {counts[row]}", ontology.colors[row]) for row, spec in enumerate(ontology.classes)]
    shown = [entry for entry, count in zip(entries, counts, strict=True) if count]
    left_out = len(shown) - _MAX_LEGEND
    return shown[:_MAX_LEGEND] + ([(f"and {left_out} more classes", _DIM_TEXT)] if left_out > 0 else [])


def arrange_sheet(rows: Sequence[Sequence[Image.Image]], width: int, legend: Sequence[tuple[str, Rgb]]) -> Image.Image:
    """Put rows of cells, of equal width all and of equal height each, below the legend.

    Args:
        rows: Not empty; cells as `frame_picture` makes them.
        width: Of the sheet, pixels: `sheet_width` of the cells'.
        legend: Text and colour of each entry; may be empty.
    """
    font = _font(17)
    places: list[tuple[int, int]] = []
    x, y = _GAP, _GAP
    for text, _ in legend:
        entry = 26 + int(font.getlength(text)) + 18
        if x > _GAP and x + entry > width - _GAP:
            x, y = _GAP, y + 28
        places.append((x, y))
        x += entry
    top = y + 28 + _GAP if legend else _GAP
    sheet = Image.new("RGB", (width, top + sum(row[0].height + _GAP for row in rows)), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for (text, color), (x, y) in zip(legend, places, strict=True):
        draw.rounded_rectangle((x, y + 3, x + 18, y + 21), radius=4, fill=color)
        draw.text((x + 26, y + 18), text, _TEXT, font, anchor="ls")
    for row in rows:
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * (cell.width + _GAP), top))
        top += row[0].height + _GAP
    return sheet


def sheet_width(columns: int, side: int) -> int:
    """Return the width of a sheet with so many cells of this width in a row, pixels."""
    return columns * (side + _GAP) + _GAP


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def ink_on(color: Rgb) -> Rgb:
    """Return black or white, whichever is read better on a colour.

    Source: ITU-R BT.601 luma weights.
    """
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luma > 140 else (255, 255, 255)
