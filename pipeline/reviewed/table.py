"""Changes as Parquet: one row a change.

| field | meaning |
| --- | --- |
| time | when the change was found, UTC |
| image_id, path, width, height | which image; pixels of the upright image, 0 where they are not known |
| kind | `pipeline.reviewed.changes.Kind` |
| object_id | which object; empty for changes of an image |
| before, after | the object, in fields of its own; null where there is none |
| tags_before, tags_after | tags of the image |
| base | for "labels taken": digest of the run's row that the labels are of |

Fields of an object: `class_name`, `box_xyxy` (pixels), `mask_counts` (COCO's compressed RLE counts of the image's size;
null for a box alone), `score`, `mask_score`, `prompt`, `detector_box`, `tags`, `attributes` (JSON) and `origin`.
"""

from collections.abc import Iterable
from datetime import UTC
from typing import Any

import pyarrow as pa

from models.masks import Rle
from pipeline.errors import UserError
from pipeline.reviewed.changes import Change, ImageRef, Kind, ReviewedObject

LAYER_VERSION = "1"
_VERSION_KEY = b"groundlabel_reviewed"
_BOX = pa.list_(pa.field("element", pa.float64()))
_OBJECT = pa.struct(
    [
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("box_xyxy", _BOX, nullable=False),
        pa.field("mask_counts", pa.binary()),
        pa.field("score", pa.float64()),
        pa.field("mask_score", pa.float64()),
        pa.field("prompt", pa.string()),
        pa.field("detector_box", _BOX),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("attributes", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("object_id", pa.string(), nullable=False),
        pa.field("before", _OBJECT),
        pa.field("after", _OBJECT),
        pa.field("tags_before", pa.list_(pa.string()), nullable=False),
        pa.field("tags_after", pa.list_(pa.string()), nullable=False),
        pa.field("base", pa.string(), nullable=False),
    ],
    metadata={_VERSION_KEY: LAYER_VERSION.encode()},
)


def changes_to_table(changes: Iterable[Change]) -> pa.Table:
    """Return one row a change, in order; there may be none."""
    rows = [
        {
            "time": change.time,
            "image_id": change.image.image_id,
            "path": change.image.path,
            "width": change.image.image_hw[1],
            "height": change.image.image_hw[0],
            "kind": str(change.kind),
            "object_id": change.object_id,
            "before": _object_to_row(change.before),
            "after": _object_to_row(change.after),
            "tags_before": list(change.tags_before),
            "tags_after": list(change.tags_after),
            "base": change.base,
        }
        for change in changes
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def table_to_changes(table: pa.Table, source: str) -> list[Change]:
    """Return the changes of a table, in order.

    Args:
        table: Of `SCHEMA`.
        source: The file, for the message.

    Raises:
        UserError: It is of another version.
    """
    found = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if found != LAYER_VERSION:
        raise UserError(
            f"{source}: a reviewed layer of version {found}, but this groundlabel reads version {LAYER_VERSION}; "
            "use the groundlabel that wrote it"
        )
    return [_row_to_change(row) for row in table.to_pylist()]


def _object_to_row(found: ReviewedObject | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "class_name": found.class_name,
        "box_xyxy": list(found.box_xyxy),
        "mask_counts": found.mask.counts if found.mask is not None else None,
        "score": found.score,
        "mask_score": found.mask_score,
        "prompt": found.prompt,
        "detector_box": list(found.detector_box) if found.detector_box is not None else None,
        "tags": list(found.tags),
        "attributes": found.attributes,
        "origin": found.origin,
    }


def _row_to_change(row: dict[str, Any]) -> Change:
    image = ImageRef(row["image_id"], row["path"], (row["height"], row["width"]))
    return Change(
        image,
        Kind(row["kind"]),
        row["object_id"],
        _row_to_object(row["before"], row["object_id"], image.image_hw),
        _row_to_object(row["after"], row["object_id"], image.image_hw),
        tuple(row["tags_before"]),
        tuple(row["tags_after"]),
        row["base"],
        row["time"].astimezone(UTC),
    )


def _row_to_object(row: dict[str, Any] | None, object_id: str, image_hw: tuple[int, int]) -> ReviewedObject | None:
    if row is None:
        return None
    counts, box = row["mask_counts"], row["detector_box"]
    return ReviewedObject(
        object_id,
        row["class_name"],
        tuple(row["box_xyxy"]),
        Rle(image_hw, counts) if counts is not None else None,
        row["score"],
        row["mask_score"],
        row["prompt"],
        tuple(box) if box is not None else None,
        tuple(row["tags"]),
        row["attributes"],
        row["origin"],
    )
