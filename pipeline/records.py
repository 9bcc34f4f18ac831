"""One row an image: the record types and their Arrow schema, version 1.

Fields of a label row (`SCHEMA`):

| field | meaning |
| --- | --- |
| image_id | 16 hexadecimal digits, from the path relative to the image root (`pipeline.paths`) |
| path | stored form of that path, "/" between its parts |
| status | "ok" or "failed" |
| reason | why it failed; null when ok |
| width, height | pixels of the image with its EXIF orientation applied; null when failed |
| fingerprint | what made the row: models, prompts, thresholds (`pipeline.store.fingerprint`) |
| objects | a list, highest detector score first; empty when nothing was found or the image failed |

Fields of an object: `instance_id` (stable), `class_id` (from 1, the ontology's order), `class_name`, `prompt_id`
(from 0) and `prompt` (which prompt found it), `score` (the detector's), `mask_score` (the segmenter's predicted
IoU), `box_xyxy` (pixels), `area` (mask pixels), `mask_counts` (COCO's compressed RLE counts; its size is
height × width). An object that is a box alone has empty `mask_counts`, area 0 and mask_score 0. Seconds, host and
worker live in `TIMINGS_SCHEMA`, so that label rows are the same bytes whoever computed them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.detections import Detections, Instances
from models.masks import Rle, mask_areas
from models.ontology import Ontology
from pipeline.errors import UserError

SCHEMA_VERSION = "1"
_VERSION_KEY = b"groundlabel_schema"

_BOX = pa.list_(pa.field("element", pa.float32()), 4)
_OBJECT = pa.struct(
    [
        pa.field("instance_id", pa.string(), nullable=False),
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        pa.field("prompt_id", pa.int32(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("mask_score", pa.float32(), nullable=False),
        pa.field("box_xyxy", _BOX, nullable=False),
        pa.field("area", pa.int64(), nullable=False),
        pa.field("mask_counts", pa.binary(), nullable=False),
    ]
)

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("objects", pa.list_(pa.field("element", _OBJECT, nullable=False)), nullable=False),
    ],
    metadata={_VERSION_KEY: SCHEMA_VERSION.encode()},
)

TIMINGS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("seconds_decode", pa.float32(), nullable=False),
        pa.field("seconds_detect", pa.float32(), nullable=False),
        pa.field("seconds_segment", pa.float32(), nullable=False),
        pa.field("seconds_encode", pa.float32(), nullable=False),
        pa.field("host", pa.string(), nullable=False),
        pa.field("worker", pa.string(), nullable=False),
        pa.field("file_bytes", pa.int64(), nullable=False),
        pa.field("file_mtime_ns", pa.int64(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("image_feature", pa.list_(pa.float16())),
    ],
    metadata={_VERSION_KEY: SCHEMA_VERSION.encode()},
)


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image that was labelled; it may have no instances.

    Attributes:
        image_id: 16 hexadecimal digits.
        path: Stored path relative to the image root.
        instances: Boxes, scores, classes and masks; N rows, N may be 0.
        instance_ids: N ids, stable over runs with the same result.
        class_names: N names, one a row.
        prompts: N prompt texts, one a row.

    Raises:
        ValueError: The counts differ.
    """

    image_id: str
    path: str
    instances: Instances
    instance_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("instance_ids", "class_names", "prompts"):
            if len(getattr(self, name)) != len(self.instances):
                count = len(getattr(self, name))
                raise ValueError(f"{name} must be {len(self.instances)} to fit the instances, not {count}")

    @property
    def image_hw(self) -> tuple[int, int]:
        """(height, width) in pixels, with the EXIF orientation applied."""
        return self.instances.detections.image_hw

    @classmethod
    def from_instances(cls, image_id: str, path: str, instances: Instances, ontology: Ontology) -> "AnnotatedImage":
        """Build the record of one image; names and prompts are looked up in the ontology.

        Args:
            image_id: 16 hexadecimal digits.
            path: Stored path relative to the image root.
            instances: What was found; N may be 0.
            ontology: The classes and prompts that the instances' ids point into.
        """
        found = instances.detections
        ids = []
        for index in range(len(instances)):
            key = f"{image_id}/{index}/{found.class_ids[index]}/{found.prompt_ids[index]}/".encode()
            ids.append(hashlib.sha256(key + found.boxes_xyxy[index].astype("<f4").tobytes()).hexdigest()[:16])
        return cls(
            image_id,
            path,
            instances,
            tuple(ids),
            tuple(ontology.name_of(int(class_id)) for class_id in found.class_ids),
            tuple(ontology.prompts[int(prompt_id)].text for prompt_id in found.prompt_ids),
        )


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be labelled.

    Attributes:
        image_id: 16 hexadecimal digits.
        path: Stored path relative to the image root.
        reason: One line, the same for the same file whoever reads it.
    """

    image_id: str
    path: str
    reason: str


Record = AnnotatedImage | FailedImage


@dataclass(frozen=True, eq=False)
class ImageTiming:
    """What is known of one image besides its labels: seconds of each stage, where, its file's state, its feature.

    Attributes:
        image_id: 16 hexadecimal digits.
        seconds_decode: And so on for each stage.
        host: Name of the machine.
        worker: Its process.
        file_bytes: Size of the image file; -1 where there was none, 0 with file_mtime_ns 0 where it was not noted.
        file_mtime_ns: Time of its last change, nanoseconds since 1970.
        content: Hash of its content (`pipeline.file_state`); may be empty.
        image_feature: (D,), as in `Detections`, stored in half precision; None where the detector made none.
    """

    image_id: str
    seconds_decode: float
    seconds_detect: float
    seconds_segment: float
    seconds_encode: float
    host: str
    worker: str
    file_bytes: int = 0
    file_mtime_ns: int = 0
    content: str = ""
    image_feature: NDArray[np.float32] | None = None


def _objects_array(records: Sequence[Record]) -> pa.ListArray:
    """Return one list of object structs a record."""
    rows = [record for record in records if isinstance(record, AnnotatedImage) and len(record.instances)]
    counts = [len(record.instances) if isinstance(record, AnnotatedImage) else 0 for record in records]

    def column(values: list[Any], dtype: type) -> Any:
        return np.concatenate(values).astype(dtype) if values else np.zeros(0, dtype)

    found = [record.instances.detections for record in rows]
    masks = [mask for record in rows for mask in record.instances.masks]
    boxes = column([detections.boxes_xyxy.reshape(-1) for detections in found], np.float32)
    structs = pa.StructArray.from_arrays(
        [
            pa.array([text for record in rows for text in record.instance_ids], pa.string()),
            pa.array(column([detections.class_ids for detections in found], np.int32)),
            pa.array([text for record in rows for text in record.class_names], pa.string()),
            pa.array(column([detections.prompt_ids for detections in found], np.int32)),
            pa.array([text for record in rows for text in record.prompts], pa.string()),
            pa.array(column([detections.scores for detections in found], np.float32)),
            pa.array(column([record.instances.mask_scores for record in rows], np.float32)),
            pa.FixedSizeListArray.from_arrays(pa.array(boxes), type=_BOX),
            pa.array(mask_areas(masks)),
            pa.array([mask.counts for mask in masks], pa.binary()),
        ],
        fields=list(_OBJECT),
    )
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), structs, type=SCHEMA.field("objects").type)


def records_to_table(records: Sequence[Record], fingerprint: str) -> pa.Table:
    """Return label rows, in the order of the records.

    Args:
        records: May be empty.
        fingerprint: Of the run that made them.
    """
    sizes = [record.image_hw if isinstance(record, AnnotatedImage) else (None, None) for record in records]
    failed = [isinstance(record, FailedImage) for record in records]
    return pa.Table.from_arrays(
        [
            pa.array([record.image_id for record in records], pa.string()),
            pa.array([record.path for record in records], pa.string()),
            pa.array(["failed" if bad else "ok" for bad in failed], pa.string()),
            pa.array([r.reason if isinstance(r, FailedImage) else None for r in records], pa.string()),
            pa.array([width for _, width in sizes], pa.int32()),
            pa.array([height for height, _ in sizes], pa.int32()),
            pa.array([fingerprint] * len(records), pa.string()),
            _objects_array(records),
        ],
        schema=SCHEMA,
    )


def check_schema(table_schema: pa.Schema, source: str) -> None:
    """Refuse a table of another schema version.

    Raises:
        UserError: The table was not written by this version of the schema.
    """
    found = (table_schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if found != SCHEMA_VERSION:
        raise UserError(
            f"{source}: label schema version {found}, but this groundlabel reads version {SCHEMA_VERSION}; "
            "use the groundlabel that wrote it, or annotate again into another folder"
        )


def table_to_records(table: pa.Table) -> Iterator[Record]:
    """Yield the records of label rows, in their order.

    Args:
        table: Of `SCHEMA`; may have no rows.

    Raises:
        UserError: The table is of another schema version.
    """
    check_schema(table.schema, "label table")
    for batch in table.combine_chunks().to_batches():
        yield from _batch_to_records(batch)


def _batch_to_records(batch: pa.RecordBatch) -> Iterator[Record]:
    ids, paths, statuses, reasons, widths, heights = (
        batch.column(name).to_pylist() for name in ("image_id", "path", "status", "reason", "width", "height")
    )
    objects = batch.column("objects")
    ends = np.cumsum(objects.value_lengths().to_numpy(zero_copy_only=False))
    fields = dict(zip(_OBJECT.names, objects.flatten().flatten(), strict=True))
    arrays = {name: fields[name].to_numpy() for name in ("class_id", "prompt_id", "score", "mask_score")}
    boxes = fields["box_xyxy"].flatten().to_numpy().reshape(-1, 4)
    texts = {name: fields[name].to_pylist() for name in ("instance_id", "class_name", "prompt", "mask_counts")}
    start = 0
    for row, end in enumerate(ends.tolist()):
        if statuses[row] == "failed":
            yield FailedImage(ids[row], paths[row], reasons[row])
        else:
            image_hw = (heights[row], widths[row])
            part = slice(start, end)
            found = Detections(
                image_hw,
                boxes[part].copy(),
                arrays["score"][part].copy(),
                arrays["class_id"][part].astype(np.int64),
                arrays["prompt_id"][part].astype(np.int64),
            )
            masks = tuple(Rle(image_hw, counts) for counts in texts["mask_counts"][part])
            yield AnnotatedImage(
                ids[row],
                paths[row],
                Instances(found, masks, arrays["mask_score"][part].copy()),
                tuple(texts["instance_id"][part]),
                tuple(texts["class_name"][part]),
                tuple(texts["prompt"][part]),
            )
        start = end


def timings_to_table(timings: Sequence[ImageTiming]) -> pa.Table:
    """Return timing rows, in the order given; may be empty."""
    columns = {name: [getattr(timing, name) for timing in timings] for name in TIMINGS_SCHEMA.names}
    columns["image_feature"] = [
        None if feature is None else feature.astype(np.float16) for feature in columns["image_feature"]
    ]
    arrays = [pa.array(columns[field.name], field.type) for field in TIMINGS_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=TIMINGS_SCHEMA)
