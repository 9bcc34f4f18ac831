"""Objects as FiftyOne keeps them in MongoDB, and back.

Documents are written as they are, without a `fo.Detection` for each: that is what makes an ingest quick. Their keys are
FiftyOne's own (a test holds them against `fo.Detection`); masks are packed as FiftyOne packs arrays.

A detection's `bounding_box` is the tight box of its mask, as in COCO exports, because FiftyOne stretches the mask over
the box: so the mask is neither cut where it leaves the detector's box nor moved. The detector's own box is kept in
`detector_box`. An object whose mask is empty or absent has its box and no mask.
"""

import io
import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.boxes import check_image_hw
from models.mask_crops import crop_mask, crop_to_rle
from models.masks import Rle
from pipeline.reviewed.changes import BoxXyxy, ReviewedObject, encode_attributes

NUDGE = 1e-4
"""Added to boxes in pixels, so that a reader that multiplies by the side and truncates lands on the right pixel."""
UNNAMED = "unlabelled"
"""Class of a label that a person gave none."""
_ZLIB_LEVEL = 1
_OURS = frozenset(
    (
        *("_id", "_cls", "attributes", "tags", "label", "bounding_box", "mask", "mask_path", "confidence", "index"),
        *("object_id", "class_id", "prompt", "mask_score", "detector_box", "doubt", "found_by", "instance"),
        *("points", "closed", "filled"),
    )
)
"""Keys of a label that are not attributes which a person gave."""


def box_to_rel(box_xywh: Sequence[float] | NDArray[np.float64], image_hw: tuple[int, int]) -> list[float]:
    """Convert a pixel box to FiftyOne's relative one, such that truncating readers find the same pixels.

    Args:
        box_xywh: (4,) x, y, width, height in pixels, inside the image.
        image_hw: (height, width) in pixels.

    Returns:
        Left, top, width, height in [0, 1], with left + width <= 1 and top + height <= 1.

    Source: fiftyone/core/labels.py, Detection.bounding_box; eta/core/geometry.py, RelativePoint.coords_in truncates.
    """
    height, width = check_image_hw(image_hw)
    corner, extent = [], []
    for start, length, side in ((box_xywh[0], box_xywh[2], width), (box_xywh[1], box_xywh[3], height)):
        relative = min((float(start) + NUDGE) / side, 1.0)
        corner.append(relative)
        extent.append(min((float(length) + NUDGE) / side, 1.0 - relative))
    return corner + extent


def rel_to_box(bounding_box: Sequence[float], image_hw: tuple[int, int]) -> BoxXyxy:
    """Convert FiftyOne's relative box to pixels: the inverse of `box_to_rel`, clipped to the image.

    Args:
        bounding_box: Left, top, width, height; fractions of a pixel are kept.
        image_hw: (height, width) in pixels.
    """
    height, width = check_image_hw(image_hw)
    left, top, extent_x, extent_y = (float(value) for value in bounding_box)
    sides = (left * width, top * height, (left + extent_x) * width, (top + extent_y) * height)
    limits = (width, height, width, height)
    x1, y1, x2, y2 = (min(max(_snap(side), 0.0), float(limit)) for side, limit in zip(sides, limits, strict=True))
    return x1, y1, max(x1, x2), max(y1, y2)


def _snap(side: float) -> float:
    """Return the whole pixel that a nudged number stands for, any other number as it is."""
    whole = round(side)
    return float(whole) if abs(side - whole) <= 3 * NUDGE else side


@lru_cache(maxsize=4096)
def _npy_head(shape: tuple[int, int]) -> bytes:
    with io.BytesIO() as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|b1", "fortran_order": False, "shape": shape})
        return stream.getvalue()


def pack_mask(mask: NDArray[np.bool_]) -> bytes:
    """Pack a mask (height, width) bool as FiftyOne packs arrays: a .npy file, compressed by zlib.

    Source: fiftyone/core/utils.py, serialize_numpy_array.
    """
    height, width = mask.shape
    return zlib.compress(_npy_head((height, width)) + mask.tobytes(), _ZLIB_LEVEL)


def unpack_mask(packed: bytes) -> NDArray[np.bool_]:
    """Unpack a mask as FiftyOne, its App or a plugin stores it: any number type, any size, one channel or more."""
    with io.BytesIO(zlib.decompress(packed)) as stream:
        array = np.load(stream, allow_pickle=False)
    return np.asarray(array.reshape(*array.shape[:2], -1).max(axis=-1) > 0) if array.ndim > 2 else array > 0


def object_to_document(
    found: ReviewedObject, image_hw: tuple[int, int], class_id: int | None, label_id: Any
) -> dict[str, Any]:
    """Return an object as FiftyOne stores a detection.

    Args:
        found: The object.
        image_hw: (height, width) of its image.
        class_id: The run's id of its class; None for a class that the run does not have.
        label_id: A new `bson.ObjectId`.
    """
    cropped = crop_mask(found.mask) if found.mask is not None else None
    left, top, right, bottom = found.box_xyxy
    document: dict[str, Any] = {
        "_id": label_id,
        "_cls": "Detection",
        "attributes": {},
        "tags": list(found.tags),
        "label": found.class_name,
        "bounding_box": box_to_rel(cropped[0] if cropped else (left, top, right - left, bottom - top), image_hw),
        "object_id": found.object_id,
    }
    optional = {
        "mask": pack_mask(cropped[1]) if cropped else None,
        "confidence": found.score,
        "class_id": class_id,
        "prompt": found.prompt,
        "mask_score": found.mask_score,
        "detector_box": list(found.detector_box) if found.detector_box is not None else None,
    }
    document.update((name, value) for name, value in optional.items() if value is not None)
    if found.attributes != "{}":
        document.update(json.loads(found.attributes))
    return document


def document_key(document: dict[str, Any]) -> str:
    """Return the id of a stored label's object: ours, or FiftyOne's where a person drew it."""
    return str(document.get("object_id") or document["_id"])


def keyed(documents: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return stored labels by the id of their object; of a copy with the same id, FiftyOne's own id counts."""
    found: dict[str, dict[str, Any]] = {}
    for document in documents:
        key = document_key(document)
        found[str(document["_id"]) if key in found else key] = document
    return found


def signature(document: dict[str, Any]) -> str:
    """Return four checksums of a stored label, by which a change is seen: of class, box, mask and all else."""
    box = document.get("bounding_box") or document.get("points") or ()
    # Unpacked, as FiftyOne packs all masks of an image anew, and in another way, when one of its labels changes.
    mask = zlib.decompress(document["mask"]) if document.get("mask") else str(document.get("mask_path") or "").encode()
    rest = [sorted(document.get("tags") or ()), *sorted(_attributes(document).items())]
    parts = (str(document.get("label")).encode(), _pack_numbers(box), mask, repr(rest).encode(errors="replace"))
    return " ".join(f"{zlib.crc32(part):08x}" for part in parts)


def _pack_numbers(values: Any) -> bytes:
    if len(values) == 4 and all(isinstance(value, int | float) for value in values):
        return struct.pack("<4d", *values)
    return repr(values).encode()


def _attributes(document: dict[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in document.items() if name not in _OURS and value not in (None, [], {})}
    return own | {name: value for name, value in (document.get("attributes") or {}).items() if name not in own}


def document_to_object(
    document: dict[str, Any], key: str, image_hw: tuple[int, int], known: ReviewedObject | None, shape_is_known: bool
) -> ReviewedObject | None:
    """Return a stored detection or polyline as an object.

    Args:
        document: As MongoDB has it.
        key: The id that its object gets.
        image_hw: (height, width) of its image.
        known: The object as it was before; its score, prompt and detector's box stay.
        shape_is_known: Box and mask are as they were.

    Returns:
        None where it has no area: a line, or a box without sides.
    """
    tags, attributes = tuple(sorted(document.get("tags") or ())), encode_attributes(_attributes(document))
    label = str(document.get("label") or UNNAMED)
    if known is not None and shape_is_known:
        return replace(known, class_name=label, tags=tags, attributes=attributes)
    shape = _polyline_shape(document, image_hw) if "points" in document else _detection_shape(document, image_hw)
    if shape is None:
        return None
    box, mask = shape
    if known is not None:
        mask_score = document.get("mask_score", known.mask_score)
        shown = replace(known, class_name=label, box_xyxy=box, mask=mask, mask_score=mask_score)
        return replace(shown, tags=tags, attributes=attributes)
    score = document.get("confidence")
    detector_box = document.get("detector_box")
    return ReviewedObject(
        key,
        label,
        box,
        mask,
        float(score) if score is not None and math.isfinite(score) else None,
        document.get("mask_score"),
        document.get("prompt"),
        tuple(map(float, detector_box)) if detector_box else None,  # type: ignore[arg-type]
        tags,
        attributes,
        "human" if score is None else "model",
    )


def _detection_shape(document: dict[str, Any], image_hw: tuple[int, int]) -> tuple[BoxXyxy, Rle | None] | None:
    bounding_box = document.get("bounding_box") or ()
    if len(bounding_box) != 4 or not all(math.isfinite(value) for value in bounding_box):
        return None
    box = rel_to_box(bounding_box, image_hw)
    if box[2] <= box[0] or box[3] <= box[1]:
        return None
    mask = _stored_mask(document)
    return box, (place_mask(mask, box, image_hw) if mask is not None and mask.size else None)


def _stored_mask(document: dict[str, Any]) -> NDArray[np.bool_] | None:
    if document.get("mask"):
        return unpack_mask(bytes(document["mask"]))
    if document.get("mask_path"):
        from PIL import Image

        with Image.open(document["mask_path"]) as opened:
            return np.asarray(opened.convert("L")) > 0
    return None


def place_mask(mask: NDArray[np.bool_], box_xyxy: BoxXyxy, image_hw: tuple[int, int]) -> Rle:
    """Stretch a mask of any size over its box, as FiftyOne shows it, and encode it in its image.

    Args:
        mask: (h, w), not the box's size where a person brushed it.
        box_xyxy: Pixels, inside the image, with fractions: the App's brush leaves a box a little beside whole pixels. A
            pixel belongs to the box where its middle does; at least one is left.
        image_hw: (height, width) in pixels.
    """
    left, columns = _stretch(mask.shape[1], box_xyxy[0], box_xyxy[2], image_hw[1])
    top, rows = _stretch(mask.shape[0], box_xyxy[1], box_xyxy[3], image_hw[0])
    return crop_to_rle(mask[rows[:, None], columns[None, :]], left, top, image_hw)


def _stretch(cells: int, start: float, stop: float, side: int) -> tuple[int, NDArray[np.int64]]:
    """Return the first pixel under a stretch of an image's side, and which cell of a mask each pixel there shows."""
    first, end = max(math.ceil(start - 0.5), 0), min(math.ceil(stop - 0.5), side)
    if end <= first:
        first = min(int(start), side - 1)
        end = first + 1
    middles = np.arange(first, end) + 0.5
    shown = np.floor((middles - start) * cells / max(stop - start, 1e-9)).clip(0, cells - 1)
    return first, shown.astype(np.int64)


def _polyline_shape(document: dict[str, Any], image_hw: tuple[int, int]) -> tuple[BoxXyxy, Rle] | None:
    """Return the box and filled mask of all of a polyline's shapes together."""
    from pycocotools import mask as coco_mask

    height, width = image_hw
    shapes = [shape for shape in document.get("points") or () if len(shape) >= 3]
    if not shapes:
        return None
    points = [
        [min(max(value, 0.0), 1.0) * side for x, y in shape for value, side in ((x, width), (y, height))]
        for shape in shapes
    ]
    merged = coco_mask.merge(coco_mask.frPyObjects(points, height, width))
    rle = Rle(image_hw, merged["counts"])
    cropped = crop_mask(rle)
    if cropped is None:
        return None
    left, top, extent_x, extent_y = (float(value) for value in cropped[0])
    return (left, top, left + extent_x, top + extent_y), rle
