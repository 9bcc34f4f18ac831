"""Any COCO file as labels: polygons, RLE of both kinds, boxes alone and crowds, checked where they are read."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pycocotools import mask as coco_mask

from models.masks import Rle, mask_areas, mask_boxes_xywh
from models.ontology import Ontology
from pipeline.coco_file import CocoFile, find_image_folder, locate_image, read_coco
from pipeline.errors import UserError
from pipeline.export.coco_head import (
    read_categories,
    read_licences,
    read_video_names,
    video_of,
    whole_id,
)
from pipeline.export.objects import CocoFacts, ExportImage, ExportObject
from pipeline.images import upright_size
from pipeline.paths import path_to_image_id, path_to_stored

OBJECT_ID = "object_id"
"""Key of an annotation's `instance_id`, a name that FiftyOne keeps for itself and refuses to read."""


class CocoLabels:
    """A COCO file or an export's shards, held in memory; its images are yielded in the order of their paths.

    Classes get the ids 1, 2, 3 … in the order of the file's category ids.

    Attributes:
        folder: The file, or the folder of the shards.
        images_root: Folder that the paths start from.
        ontology: The categories; a name that cannot be a prompt has one without its marks.
        categories: Of each class.
        licences: The file's `licenses`, as they are, of those that have a whole number as id.
        fingerprint: SHA-256 of the file, or what an export of groundlabel says in it.
        settings: The file's `info`.
    """

    def __init__(self, coco: CocoFile, images_root: Path | None) -> None:
        file, content = coco.path, coco.content
        self.folder = file
        info = content.get("info")
        self.settings: dict[str, Any] = dict(info) if isinstance(info, dict) else {}
        self.licences = read_licences(content.get("licenses"))
        self._licence_names = {row["id"]: str(row["name"]) for row in self.licences if row.get("name")}
        self.fingerprint = str(self.settings.get("fingerprint") or coco.digest)
        self._class_ids, self.ontology, self.categories = read_categories(file, content["categories"])
        self._images = _read_images(file, content["images"])
        self._video_names = read_video_names(content.get("videos"))
        self._annotations: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
        for place, annotation in enumerate(content["annotations"]):
            _check_annotation(file, place, annotation, self._images, self._class_ids)
            self._annotations[annotation["image_id"]].append(annotation)
        names = [str(image["file_name"]) for image in self._images.values()]
        self.images_root = images_root or find_image_folder(coco.folder, names) or coco.folder

    @classmethod
    def open(cls, path: str | Path, images_root: str | Path | None = None) -> Self:
        """Open a COCO file, or the folder of a COCO export.

        Raises:
            UserError: There is none, it is not COCO, or an annotation is of an image or category that it does not have.
        """
        root = Path(images_root) if images_root is not None else None
        if root is not None and not root.is_dir():
            raise UserError(f"{root}: no such folder of images (--images-root)")
        return cls(read_coco(path), root)

    def image_path(self, record: Any) -> Path:
        """Return where the image file of a record is."""
        return locate_image(self.images_root, record.path)

    def records(self) -> Iterator[ExportImage]:
        """Yield all images in the order of their paths.

        Raises:
            UserError: A box or mask cannot be read, or an image has no size and no readable file.
        """
        for image in sorted(self._images.values(), key=_stored_path):
            yield self._to_record(image)

    def _to_record(self, image: dict[str, Any]) -> ExportImage:
        name = str(image["file_name"])
        image_hw = _image_hw(image, locate_image(self.images_root, name), self.folder)
        objects: list[ExportObject] = []
        empty: list[str] = []
        for annotation in self._annotations[image["id"]]:
            found = _to_object(annotation, image_hw, self._class_ids, self.ontology, self.folder)
            if found.mask is not None and mask_areas([found.mask])[0] == 0:
                empty.append(found.instance_id)
            else:
                objects.append(found)
        image_id = _given_id(image) or path_to_image_id(name)
        licence = whole_id(image.get("license"), 0)
        label = self._licence_names.get(licence) if licence is not None else None
        facts = CocoFacts(whole_id(image["id"], 0), licence, label, video_of(image, self._video_names))
        return ExportImage(image_id, _stored_path(image), image_hw, tuple(objects), tuple(empty), facts)


def _given_id(image: Mapping[str, Any]) -> str | None:
    """Return the id that an export of groundlabel gave an image."""
    given = image.get("groundlabel_id")
    return given if isinstance(given, str) and given else None


def _stored_path(image: Mapping[str, Any]) -> str:
    """Return the stored path of an image; an export of groundlabel has it as `file_name`."""
    name = str(image["file_name"])
    return name if _given_id(image) else path_to_stored(name)


def _read_images(file: Path, images: Sequence[Any]) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    names: set[str] = set()
    for place, image in enumerate(images):
        whole = isinstance(image, dict) and isinstance(image.get("id"), int | str)
        if not whole or not isinstance(image.get("file_name"), str):
            raise UserError(f"{file}: element {place} of its images has no proper id or no file_name")
        if image["id"] in found or image["file_name"] in names:
            raise UserError(
                f"{file}: two images have the id {image['id']} or the file_name {image['file_name']!r}; "
                f"`groundlabel lint {file}` names all of them"
            )
        found[image["id"]] = image
        names.add(image["file_name"])
    return found


def _check_annotation(
    file: Path, place: int, annotation: Any, images: dict[Any, dict[str, Any]], class_ids: dict[Any, int]
) -> None:
    if not isinstance(annotation, dict):
        raise UserError(f"{file}: element {place} of its annotations is no object")
    for key, known in (("image_id", images), ("category_id", class_ids)):
        value = annotation.get(key)
        if not isinstance(value, int | str) or value not in known:
            raise UserError(
                f"{_origin(annotation, file)} has the {key} {value!r}, which the file does not define; "
                f"`groundlabel lint {file}` names all of them"
            )


def _origin(annotation: dict[str, Any], file: Path) -> str:
    return f"{file}: annotation {annotation.get('id')}"


def _image_hw(image: dict[str, Any], path: Path, file: Path) -> tuple[int, int]:
    """Return (height, width) as the file gives it, else from the upright image."""
    height, width = image.get("height"), image.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    try:
        width, height = upright_size(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(
            f"{file}: image {image['id']} has no width and height, and {path} cannot be read; give --images-root"
        ) from error
    return height, width


def _to_object(
    annotation: dict[str, Any], image_hw: tuple[int, int], class_ids: dict[Any, int], ontology: Ontology, file: Path
) -> ExportObject:
    origin = _origin(annotation, file)
    mask = read_segmentation(annotation.get("segmentation"), image_hw, origin)
    left, top, width, height = _box_xywh(annotation.get("bbox"), mask, origin)
    area: Any = annotation.get("area")
    if not _is_number(area):
        area = mask_areas([mask])[0] if mask is not None else width * height
    class_id = class_ids[annotation["category_id"]]
    prompt, provenance = annotation.get("prompt"), annotation.get("provenance")
    return ExportObject(
        str(annotation.get(OBJECT_ID) or annotation.get("id")),
        class_id,
        ontology.name_of(class_id),
        (left, top, left + width, top + height),
        float(area),
        mask,
        _score(annotation.get("score"), f"{origin}: score"),
        _score(annotation.get("mask_score"), f"{origin}: mask_score"),
        str(prompt) if prompt is not None else None,
        bool(annotation.get("iscrowd")),
        str(provenance) if provenance is not None else None,
        whole_id(annotation.get("id"), 1),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _score(value: Any, what: str) -> float | None:
    if value is None:
        return None
    if not _is_number(value) or not 0 <= value <= 1:
        raise UserError(f"{what} must be a number from 0 to 1, not {value!r}")
    return float(value)


def _box_xywh(box: Any, mask: Rle | None, origin: str) -> tuple[float, float, float, float]:
    if box is None and mask is not None:
        left, top, width, height = mask_boxes_xywh([mask])[0].tolist()
    elif isinstance(box, list) and len(box) == 4 and all(_is_number(side) for side in box):
        left, top, width, height = map(float, box)
    else:
        raise UserError(f"{origin} has no bbox of four numbers, but {box!r}")
    if width < 0 or height < 0:
        raise UserError(f"{origin}: the bbox {box!r} has a negative side")
    return left, top, width, height


def read_segmentation(segmentation: Any, image_hw: tuple[int, int], origin: str) -> Rle | None:
    """Read COCO's `segmentation`: polygons, RLE with counts as a list, or compressed RLE.

    Args:
        segmentation: None, [] and {} mean that there is no mask.
        image_hw: (height, width) of the image, pixels.
        origin: Where it stands, for the message.

    Raises:
        UserError: It is none of them, or not of the image's size.
    """
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, list):
            if any(
                len(polygon) < 6 or len(polygon) % 2 or not all(map(_is_number, polygon)) for polygon in segmentation
            ):
                raise ValueError("a polygon needs three or more points of two finite numbers")
            parts = coco_mask.frPyObjects([[float(value) for value in polygon] for polygon in segmentation], *image_hw)
            return Rle.from_coco(coco_mask.merge(parts))
        rle = Rle.from_coco(segmentation)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise UserError(f"{origin}: its segmentation cannot be read ({error})") from error
    if rle.size != image_hw:
        raise UserError(f"{origin}: its mask is {rle.size[0]} × {rle.size[1]}, its image {image_hw[0]} × {image_hw[1]}")
    return rle
