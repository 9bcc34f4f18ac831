"""Label Studio's JSON as images with objects: of each task the annotation that a person submitted last."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from models.masks import Rle, encode_mask
from pipeline.errors import UserError
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.paths import path_to_image_id
from pipeline.reviewed.file_shapes import (
    box_corners,
    box_object,
    ellipse_corners,
    mask_object,
    polygon_mask,
    turned,
)

_UPLOAD = re.compile(r"^[0-9a-f]{8}-(?=.)")
"""What Label Studio puts before the name of an uploaded file."""
_OPAQUE = 128
_ALPHA, _CHANNELS = 3, 4


def is_label_studio(tasks: Any) -> bool:
    """Tell whether a JSON is a list of tasks; there may be none."""
    return isinstance(tasks, list) and all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tasks
    )


def read_label_studio(file: Path, tasks: Sequence[Mapping[str, Any]]) -> Iterator[ExportImage]:
    """Yield the images of the tasks that have an annotation, in their order.

    Args:
        file: For messages.
        tasks: As exported (JSON, not JSON-MIN).

    Raises:
        UserError: A region has a shape that cannot be read, or a task no image.
    """
    for place, task in enumerate(tasks):
        done = [one for one in task.get("annotations") or () if not one.get("was_cancelled")]
        if not done:
            continue
        newest = max(done, key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""))
        path = _image_name(file, place, task["data"])
        image_id = str(task["data"].get("image_id") or path_to_image_id(path))
        try:
            yield _to_image(file, image_id, path, newest.get("result") or ())
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"{file}: the annotation of {path} cannot be read ({error!r})") from error


def _image_name(file: Path, place: int, data: Mapping[str, Any]) -> str:
    """Return an image's path: as our export noted it, else from the address that the task shows."""
    if isinstance(data.get("path"), str):
        return str(data["path"])
    address = next((value for name, value in data.items() if name == "image"), None)
    address = address or next((value for value in data.values() if isinstance(value, str) and "/" in value), None)
    if not isinstance(address, str):
        raise UserError(f"{file}: task {place} has no image in its data")
    parts = urlsplit(address)
    given = parse_qs(parts.query).get("d")
    folder, _, name = (given[0] if given else unquote(parts.path)).rpartition("/")
    name = _UPLOAD.sub("", name) if "/upload/" in address else name
    return f"{folder}/{name}".strip("/")


def _to_image(file: Path, image_id: str, path: str, regions: Sequence[Mapping[str, Any]]) -> ExportImage:
    shapes = [region for region in regions if _class_name(region) is not None]
    height, width = (int(shapes[0][f"original_{side}"]) for side in ("height", "width")) if shapes else (0, 0)
    found = (_to_object(file, path, region, (height, width)) for region in shapes)
    return ExportImage(image_id, path, (height, width), tuple(one for one in found if one is not None))


def _class_name(region: Mapping[str, Any]) -> str | None:
    """Return the class of a region; None for what labels the whole image."""
    value = region.get("value") or {}
    names = value.get(region.get("type")) or value.get("labels")
    return str(names[0]) if names and str(region.get("type")).endswith("labels") else None


def _to_object(file: Path, path: str, region: Mapping[str, Any], image_hw: tuple[int, int]) -> ExportObject | None:
    key, name, value = str(region["id"]), str(_class_name(region)), region["value"]
    height, width = image_hw
    degrees = float(value.get("rotation") or 0)
    if "rle" in value:
        return mask_object(key, name, _brush(value["rle"], image_hw))
    if "points" in value:
        points = [(float(x) * width / 100, float(y) * height / 100) for x, y in value["points"]]
    elif "radiusX" in value:
        centre = float(value["x"]) * width / 100, float(value["y"]) * height / 100
        radii = float(value["radiusX"]) * width / 100, float(value["radiusY"]) * height / 100
        points = ellipse_corners(centre, radii, degrees)
    elif "height" in value:
        left, top = float(value["x"]) * width / 100, float(value["y"]) * height / 100
        right, bottom = left + float(value["width"]) * width / 100, top + float(value["height"]) * height / 100
        box = left, top, right, bottom
        if not degrees:
            return box_object(key, name, box, image_hw)
        points = turned(box_corners(box), (left, top), degrees)
    else:
        raise UserError(f"{file}: {path} has a region of the type {region.get('type')!r}, which cannot become a label")
    mask = polygon_mask(points, image_hw, f"{file}: a region of {path}")
    return mask_object(key, name, mask) if mask is not None else None


def _brush(packed: Sequence[int], image_hw: tuple[int, int]) -> Rle:
    height, width = image_hw
    return encode_mask(unpack_brush(packed).reshape(height, width, _CHANNELS)[..., _ALPHA] >= _OPAQUE)


def unpack_brush(packed: Sequence[int]) -> NDArray[np.uint8]:
    """Unpack Label Studio's brush: the inverse of `pipeline.export.label_studio.pack_brush`, and single values.

    Args:
        packed: Bytes.

    Returns:
        (N,) uint8, the picture's channels pixel by pixel.

    Raises:
        ValueError: It ends before all values are there.

    Source: the packing of thi.ng/rle-pack, which Label Studio uses.
    """
    bits = "".join(f"{byte:08b}" for byte in packed)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    start = 0
    while start < total:
        is_run, size = read(1), sizes[read(2)]
        stop = start + read(size) + 1
        if is_run:
            values[start:stop] = read(word)
        else:
            values[start:stop] = [read(word) for _ in range(stop - start)]
        start = stop
    return values
