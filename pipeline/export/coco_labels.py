"""Any COCO file as labels: polygons, RLE of both kinds, boxes alone and crowds, checked where they are read."""

import gzip
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from pycocotools import mask as coco_mask

from models.class_spec import ClassSpec, normalise_prompt
from models.masks import Rle, mask_areas, mask_boxes_xywh
from models.ontology import Ontology
from pipeline.errors import UserError
from pipeline.export.objects import ExportImage, ExportObject
from pipeline.images import upright_size
from pipeline.paths import path_to_image_id, path_to_stored, stored_to_path

ANNOTATION_FILES = ("annotations.json", "instances.json", "_annotations.coco.json", "labels.json")
"""Names under which a folder holds COCO annotations; also with .gz behind."""
IMAGE_FOLDERS = (".", "images", "data")
"""Where images usually are, from the COCO file's folder."""
OBJECT_ID = "object_id"
"""Key of an annotation's `instance_id`, a name that FiftyOne keeps for itself and refuses to read."""
_LISTS = ("images", "annotations", "categories")
_LOOKED_AT = 200


def find_annotations(folder: Path) -> Path | None:
    """Return the COCO file of a folder, or None."""
    places = (folder / f"{name}{ending}" for name in ANNOTATION_FILES for ending in ("", ".gz"))
    return next((place for place in places if place.is_file()), None)


class CocoLabels:
    """A COCO file, held in memory; its images are yielded in the order of their paths.

    Classes get the ids 1, 2, 3 … in the order of the file's category ids.

    Attributes:
        folder: The file.
        images_root: Folder that the paths start from.
        ontology: The categories; a name that cannot be a prompt has one without its marks.
        fingerprint: SHA-256 of the file, or what an export of groundlabel says in it.
        settings: The file's `info`; `image_licences` counts the images by the name of their licence, where it is known.
    """

    def __init__(self, file: Path, content: dict[str, Any], digest: str, images_root: Path | None) -> None:
        self.folder = file
        info = content.get("info")
        self.settings: dict[str, Any] = dict(info) if isinstance(info, dict) else {}
        if licences := _count_licences(content):
            self.settings["image_licences"] = licences
        self.fingerprint = str(self.settings.get("fingerprint") or digest)
        self._class_ids, self.ontology = _read_categories(file, content["categories"])
        self._images = _read_images(file, content["images"])
        self._annotations: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
        for place, annotation in enumerate(content["annotations"]):
            _check_annotation(file, place, annotation, self._images, self._class_ids)
            self._annotations[annotation["image_id"]].append(annotation)
        names = [str(image["file_name"]) for image in list(self._images.values())[:_LOOKED_AT]]
        self.images_root = images_root or find_images_root(file.parent, names)

    @classmethod
    def open(cls, path: str | Path, images_root: str | Path | None = None) -> Self:
        """Open a COCO file, or the folder of a COCO export.

        Raises:
            UserError: There is none, it is not COCO, or an annotation is of an image or category that it does not have.
        """
        path = Path(path)
        root = Path(images_root) if images_root is not None else None
        if root is not None and not root.is_dir():
            raise UserError(f"{root}: no such folder of images (--images-root)")
        file = find_annotations(path) if path.is_dir() else path
        if file is None or not file.is_file():
            raise UserError(f"{path}: no COCO file and no folder with one ({', '.join(ANNOTATION_FILES)})")
        try:
            raw = file.read_bytes()
            content = json.loads(gzip.decompress(raw) if file.suffix == ".gz" else raw)
        except (ValueError, EOFError, gzip.BadGzipFile) as error:
            raise UserError(f"{file}: no JSON that can be read: {error}") from error
        if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in _LISTS):
            raise UserError(
                f"{file}: not COCO: it must be an object with the lists {', '.join(_LISTS)}; "
                "a list of results has no images and cannot be exported alone"
            )
        return cls(file, content, hashlib.sha256(raw).hexdigest(), root)

    def image_path(self, record: Any) -> Path:
        """Return where the image file of a record is."""
        return self.images_root / stored_to_path(record.path)

    def records(self) -> Iterator[ExportImage]:
        """Yield all images in the order of their paths.

        Raises:
            UserError: A box or mask cannot be read, or an image has no size and no readable file.
        """
        for image in sorted(self._images.values(), key=lambda image: path_to_stored(str(image["file_name"]))):
            yield self._to_record(image)

    def _to_record(self, image: dict[str, Any]) -> ExportImage:
        name = str(image["file_name"])
        image_hw = _image_hw(image, self.images_root / name, self.folder)
        objects: list[ExportObject] = []
        empty: list[str] = []
        for annotation in self._annotations[image["id"]]:
            found = _to_object(annotation, image_hw, self._class_ids, self.ontology, self.folder)
            if found.mask is not None and mask_areas([found.mask])[0] == 0:
                empty.append(found.instance_id)
            else:
                objects.append(found)
        given = image.get("groundlabel_id")
        image_id = given if isinstance(given, str) and given else path_to_image_id(name)
        return ExportImage(image_id, path_to_stored(name), image_hw, tuple(objects), tuple(empty))


def _count_licences(content: dict[str, Any]) -> dict[str, int]:
    """Return how many images have each licence that the file names; images without a known one do not count."""
    listed = content.get("licenses")
    named = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    names = {one.get("id"): str(one["name"]) for one in named if one.get("name")}
    ids = (image.get("license") for image in content["images"])
    return dict(Counter(names[key] for key in ids if isinstance(key, int | str) and key in names))


def _read_categories(file: Path, categories: Sequence[Any]) -> tuple[dict[Any, int], Ontology]:
    """Return COCO's category id -> class id, and the classes."""
    try:
        ordered = sorted(categories, key=lambda category: category["id"])
        ids = {category["id"]: row for row, category in enumerate(ordered, start=1)}
        names = [str(category["name"]) for category in ordered]
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: a category has no name or no proper id ({error})") from error
    if len(ids) != len(names):
        raise UserError(f"{file}: two categories have the same id; `groundlabel lint {file}` names them")
    taken: set[str] = set()
    specs = []
    for row, name in enumerate(names, start=1):
        prompt = normalise_prompt(name.replace(".", " ").replace("?", " "))
        prompt = prompt if prompt and prompt not in taken else f"class {row}"
        taken.add(prompt)
        specs.append(ClassSpec(row, name, (prompt,)))
    try:
        return ids, Ontology(tuple(specs))
    except ValueError as error:
        raise UserError(f"{file}: its categories cannot be used: {error}") from error


def _read_images(file: Path, images: Sequence[Any]) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    names: set[str] = set()
    for place, image in enumerate(images):
        if not isinstance(image, dict) or "id" not in image or not isinstance(image.get("file_name"), str):
            raise UserError(f"{file}: element {place} of its images has no id or no file_name")
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


def find_images_root(folder: Path, names: Sequence[str]) -> Path:
    """Return the folder in which most of the named images are."""
    candidates = [folder / name for name in IMAGE_FOLDERS]
    return max(candidates, key=lambda candidate: sum((candidate / name).is_file() for name in names))
