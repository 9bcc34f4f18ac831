"""Hugging Face datasets: an ImageFolder whose metadata.parquet holds the objects of each image."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.export.objects import ExportImage
from pipeline.export.writer import SIDES, Context, Writer

_BATCH = 256
_NAMES = {"train": "train", "val": "validation", "test": "test"}
"""Side -> what the library calls it."""
_COLUMNS: dict[str, tuple[pa.DataType, Any]] = {
    "instance_id": (pa.string(), "string"),
    "bbox": (
        pa.list_(pa.float32(), 4),
        {"feature": {"dtype": "float32", "_type": "Value"}, "length": 4, "_type": "List"},
    ),
    "category": (pa.int64(), None),
    "area": (pa.float32(), "float32"),
    "iscrowd": (pa.bool_(), "bool"),
    "score": (pa.float32(), "float32"),
    "mask_score": (pa.float32(), "float32"),
    "mask_counts": (pa.string(), "string"),
}
"""Field of an object -> its Arrow type, and the library's name of it (None: the classes)."""


class HfDatasetsWriter(Writer):
    """Writes a folder for each side (train/ without a split) with images and metadata.parquet, and README.md.

    `load_dataset(FOLDER)` finds the sides by README.md and gives `image`, `image_id`, `path`, `width`, `height` and
    `objects`: lists of the same length, `bbox` as x y width height in pixels, `category` a ClassLabel, `mask_counts`
    COCO's compressed counts for height × width, null where there is no mask or score. Files are named by image id: the
    library would take a folder or file called "test" for a side.

    Raises:
        UserError: The images stay out, which an ImageFolder cannot do without.
    """

    side_folders = False

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        if context.options.images == "none":
            raise UserError("hf-datasets reads its images from the export; take --images link or copy")
        self._schema = _schema([spec.name for spec in context.classes.classes])
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._writers: dict[str, pq.ParquetWriter] = {}

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write an image and its row."""
        side = side or "train"
        suffix = PurePosixPath(image.path).suffix.lower()
        name = f"{image.image_id[:2]}/{image.image_id}{suffix}"
        self.context.place(image, self.folder / side, name)
        rows = self._rows.setdefault(side, [])
        rows.append(_row(image, name))
        if len(rows) >= _BATCH:
            self._flush(side)
        self.context.count(image, side if self.context.split else None)

    def finish(self) -> None:
        """Write what is left, and README.md."""
        for side in self._rows:
            self._flush(side)
        for writer in self._writers.values():
            writer.close()
        lines = [f"  - split: {_NAMES[side]}\n    path: {side}/**" for side in SIDES if side in self._writers]
        head = "\n".join(["---", "configs:", "- config_name: default", "  data_files:", *lines, "---"])
        names = ", ".join(spec.name for spec in self.context.classes.classes)
        self.write_text("README.md", f"{head}\n\nLabels made by groundlabel. Classes: {names}.\n")

    def _flush(self, side: str) -> None:
        if side not in self._writers:
            path = self.folder / side / "metadata.parquet"
            self._writers[side] = self.files.enter_context(pq.ParquetWriter(path, self._schema))
        self._writers[side].write_table(pa.Table.from_pylist(self._rows[side], schema=self._schema))
        self._rows[side] = []


def _row(image: ExportImage, name: str) -> dict[str, Any]:
    height, width = image.image_hw
    found = image.objects
    objects = {
        "instance_id": [each.instance_id for each in found],
        "bbox": [list(each.box_xywh) for each in found],
        "category": [each.class_id - 1 for each in found],
        "area": [each.area for each in found],
        "iscrowd": [each.crowd for each in found],
        "score": [each.score for each in found],
        "mask_score": [each.mask_score for each in found],
        "mask_counts": [None if each.mask is None else each.mask.counts.decode("ascii") for each in found],
    }
    head = {"file_name": name, "image_id": image.image_id, "path": image.path, "width": width, "height": height}
    return head | {"objects": objects}


def _schema(names: list[str]) -> pa.Schema:
    """Return the Arrow schema, with the library's own description in it, by which it knows the class names."""
    kinds = {"file_name": "string", "image_id": "string", "path": "string", "width": "int32", "height": "int32"}
    fields = [pa.field(name, pa.int32() if kind == "int32" else pa.string()) for name, kind in kinds.items()]
    objects = pa.struct([pa.field(name, pa.list_(kind)) for name, (kind, _) in _COLUMNS.items()])
    features: dict[str, Any] = {name: {"dtype": kind, "_type": "Value"} for name, kind in kinds.items()}
    classes = {"names": names, "_type": "ClassLabel"}
    features["objects"] = {
        name: {
            "feature": classes
            if kind is None
            else kind
            if isinstance(kind, dict)
            else {"dtype": kind, "_type": "Value"},
            "_type": "List",
        }
        for name, (_, kind) in _COLUMNS.items()
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([*fields, pa.field("objects", objects)], metadata=metadata)
