"""COCO instance annotations: compressed RLE masks, ids from 1, written as a stream."""

import gzip
import io
import json
import shutil
from pathlib import Path
from typing import Any, TextIO, cast

from pipeline.coco_file import SHARD_NAME
from pipeline.export.coco_head import CocoCategory
from pipeline.export.coco_labels import OBJECT_ID, CocoLabels
from pipeline.export.folder import ExportOptions, Written
from pipeline.export.json_list import JsonList
from pipeline.export.labels import Labels
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.export.stable_ids import StableIds
from pipeline.export.writer import Context, Writer, write_images

ANNOTATIONS = "annotations.json"
IMAGES = "images"
_SCORE_DIGITS = 6
_BOX_DIGITS = 6
_LICENSE_ID = 1
_BODY = "annotations.part"


class CocoWriter(Writer):
    """Writes annotations.json (or .json.gz) and, as the options say, images/.

    Ids are those that a COCO file has, else by `StableIds`, and for categories the export's classes, from 1; or all
    count from 1, images in the order of the paths. A COCO file's licences and super-categories stay. `file_name` is
    relative to images/ (or, without images, to the labels' own folder of images). With `shard_size`, every so many
    images begin another file: annotations-00000.json and so on, with ids that go on.

    Source: the data format page of the COCO dataset; `counts` as pycocotools' rleToString packs it.
    """

    uses = frozenset({"compression", "ids", "shard_size"})

    def __init__(self, folder: Path, context: Context) -> None:
        super().__init__(folder, context)
        source = context.labels if isinstance(context.labels, CocoLabels) else None
        self._ids = StableIds(keep=source is not None) if context.options.ids == "stable" else None
        self._categories = _categories(context, source)
        kept = source.licences if source is not None and not context.options.licence else []
        licence = context.options.licence or "Unknown: the licence of the images was not given"
        self._licences = kept or [{"id": _LICENSE_ID, "name": licence, "url": ""}]
        self._licence_ids = {row["id"] for row in kept}
        self._images = self._annotations = self._shards = 0
        self._begin()

    def add(self, image: ExportImage, side: str | None) -> None:
        """Write an image and its objects."""
        size = self.context.options.shard_size
        if size and self._images and self._images % size == 0:
            self._end()
            self._begin()
        self._images += 1
        image_id = self._ids.image(image) if self._ids else self._images
        self._image_list.add(self._image(image, image_id))
        for row, found in enumerate(image.objects):
            self._annotations += 1
            annotation_id = self._ids.annotation(image_id, row, image) if self._ids else self._annotations
            self._annotation_list.add(self._annotation(found, image, annotation_id, image_id))
        self.context.place(image, self.folder / IMAGES, image.path)
        self.context.count(image, side)

    def finish(self) -> None:
        """Put the annotations behind the images."""
        self._end()

    def segmentation(self, found: ExportObject, image: ExportImage) -> Any:
        """Return COCO's `segmentation` of an object that has a mask."""
        return found.mask.to_coco() if found.mask is not None else None

    def _begin(self) -> None:
        options = self.context.options
        name = SHARD_NAME.format(self._shards) if options.shard_size else ANNOTATIONS
        self._shards += 1
        if options.compression == "gzip":
            raw = self.files.enter_context((self.folder / f"{name}.gz").open("xb"))
            # No time and no name in the header: the same labels give the same bytes.
            packed = self.files.enter_context(gzip.GzipFile("", "wb", 6, raw, mtime=0))
            self._head: TextIO = self.files.enter_context(io.TextIOWrapper(cast(Any, packed), encoding="ascii"))
        else:
            self._head = self.open_text(name, encoding="ascii")
        self._body = self.open_text(_BODY, "w+", encoding="ascii")
        self._head.write(_header(self.context, self._licences, self._categories))
        self._image_list, self._annotation_list = JsonList(self._head), JsonList(self._body)

    def _end(self) -> None:
        self._head.write('\n],\n"annotations":[')
        self._body.seek(0)
        shutil.copyfileobj(self._body, self._head)
        self._head.write("\n]}\n")
        self.files.close()
        (self.folder / _BODY).unlink()

    def _image(self, image: ExportImage, image_id: int) -> dict[str, Any]:
        height, width = image.image_hw
        entry: dict[str, Any] = {"id": image_id, "file_name": image.path, "width": width, "height": height}
        if not self._licence_ids:
            entry["license"] = _LICENSE_ID
        elif image.coco.licence_id in self._licence_ids:
            entry["license"] = image.coco.licence_id
        entry["groundlabel_id"] = image.image_id
        return entry

    def _annotation(self, found: ExportObject, image: ExportImage, annotation_id: int, image_id: int) -> dict[str, Any]:
        annotation: dict[str, Any] = {"id": annotation_id, "image_id": image_id}
        annotation["category_id"] = self._categories[found.class_id]["id"]
        if found.mask is not None:
            annotation["segmentation"] = self.segmentation(found, image)
        annotation["area"] = _short(found.area)
        annotation["bbox"] = [_short(side) for side in found.box_xywh]
        annotation["iscrowd"] = int(found.crowd)
        for key, score in (("score", found.score), ("mask_score", found.mask_score)):
            if score is not None:
                annotation[key] = round(score, _SCORE_DIGITS)
        for key, text in (
            ("prompt", found.prompt),
            (OBJECT_ID, found.instance_id),
            ("provenance", found.provenance),
        ):
            if text is not None:
                annotation[key] = text
        return annotation


def write(labels: Labels, folder: Path, options: ExportOptions) -> Written:
    """Write labels as COCO into an empty folder, without a split; see `pipeline.export.writer.write_images`."""
    return write_images(labels, folder, options, CocoWriter)


def _short(value: float) -> int | float:
    """Return a whole number as such, another one with few digits."""
    return int(value) if value == int(value) else round(value, _BOX_DIGITS)


def _categories(context: Context, source: CocoLabels | None) -> dict[int, dict[str, Any]]:
    """Return COCO's category of each class: as a COCO file has it, unless other classes were asked for."""
    options = context.options
    given = source.categories if source is not None and options.classes is None else {}
    found = {}
    for spec in context.classes.classes:
        there = given.get(spec.id, CocoCategory(None, ""))
        number = spec.id if there.id is None or options.ids == "count" else there.id
        found[spec.id] = {"id": number, "name": spec.name, "supercategory": there.supercategory}
    return found


def _header(context: Context, licences: list[dict[str, Any]], categories: dict[int, dict[str, Any]]) -> str:
    """Return the JSON text up to the opening of the list of images."""
    labels = context.labels
    settings = labels.settings
    info = {
        "description": str(settings.get("description") or f"Labels of {labels.folder.resolve().name}"),
        "version": str(settings.get("groundlabel") or settings.get("version", "")),
        "contributor": str(settings.get("contributor", "")),
        "url": str(settings.get("url", "")),
        "fingerprint": labels.fingerprint,
        "made_with": settings.get("parts") or settings.get("made_with", {}),
    }
    parts = {"info": info, "licenses": licences, "categories": list(categories.values())}
    lines = ",\n".join(f"{json.dumps(key)}:{json.dumps(value, allow_nan=False)}" for key, value in parts.items())
    return "{" + lines + ',\n"images":['
